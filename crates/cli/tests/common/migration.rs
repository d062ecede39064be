//! Two processes between which a machine moves.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use ringmark_control::{CheckOutcome, Client, GuestState, Status};

use super::process::{Done, Running};
use super::{Home, wait_for};

/// A process that waits for a machine.
pub(crate) struct Receiver {
    pub(crate) process: Running,
    /// Where, as it says itself.
    pub(crate) address: String,
}

impl Home {
    /// Starts a process that takes a machine under `name` at `address`, and waits until it waits.
    pub(crate) fn receiver(&self, name: &str, address: &str, options: &[&str]) -> Receiver {
        let name = format!("--name={name}");
        let mut args = vec!["receive", address, &name];
        args.extend(options);
        let process = Running::start(self.command(&args));
        let address = wait_for("a process that waits for a machine", || {
            let said = process.stderr();
            let line = said.lines().find_map(|line| line.strip_prefix("ringmark: waiting for a machine at "));
            line.filter(|_| said.ends_with('\n')).map(str::to_owned)
        });
        Receiver { process, address }
    }

    /// A receiver at a Unix socket of its own.
    pub(crate) fn unix_receiver(&self, name: &str, options: &[&str]) -> Receiver {
        let address = format!("unix:{}", self.dir().join(format!("{name}.arrive")).display());
        self.receiver(name, &address, options)
    }

    /// Sends `vm` to `address`, and waits for how that ends.
    pub(crate) fn migrate(&self, vm: &str, address: &str, options: &[&str]) -> Done {
        let mut args = vec!["migrate", vm, address, "--json"];
        args.extend(options);
        self.run(&args)
    }

    pub(crate) fn client(&self, name: &str) -> Client {
        Client::connect(self.socket(name)).unwrap()
    }

    /// The machine's state; `None` where nothing answers.
    pub(crate) fn guest(&self, name: &str) -> Option<GuestState> {
        Client::connect(self.socket(name)).ok()?.status().ok().map(|status| status.guest)
    }

    /// `sent` is how `vm1` left for `vm2` over a link that died at the commit: both stand still until somebody decides.
    pub(crate) fn nobody_runs(&self, sent: Done) {
        sent.fails_with_guest(17, "stands still", &["--decide"]);
        assert_eq!(self.guest("vm1"), Some(GuestState::Undecided));
        self.wait_for_guest("vm2", GuestState::Undecided);
        for name in ["vm1", "vm2"] {
            assert!(self.client(name).resume().is_err(), "{name} was resumed though nobody decided");
        }
    }

    /// Waits until the guest of `name` is as `wanted`.
    pub(crate) fn wait_for_guest(&self, name: &str, wanted: GuestState) -> Status {
        wait_for(&format!("{name} to be {wanted}"), || {
            let status = Client::connect(self.socket(name)).ok()?.status().ok()?;
            (status.guest == wanted).then_some(status)
        })
    }

    /// The guest of `name` runs, writes, and finds every page as it was written.
    pub(crate) fn lives_on(&self, name: &str) {
        let before = self.wait_for_guest(name, GuestState::Running).guest_pages_written.unwrap();
        wait_for(&format!("{name} to write"), || {
            (self.client(name).status().unwrap().guest_pages_written.unwrap() > before).then_some(())
        });
        let check = self.client(name).check().unwrap();
        assert_eq!(
            (check.guest_check, check.memory_check),
            (CheckOutcome::Ok, CheckOutcome::Ok),
            "{check:?}"
        );
    }
}

/// A link through which everything passes, until a message comes that never arrives, or the second round of pages: from then on it is
/// dead, and those on either side find out by its end.
pub(crate) struct Cut {
    pub(crate) address: String,
    dead: Arc<AtomicBool>,
}

/// What a link dies of.
enum Death {
    Message(&'static [u8]),
    /// The first pages after a round that the destination has confirmed.
    SecondRound,
}

struct Line {
    death: Death,
    dead: Arc<AtomicBool>,
    open: Mutex<Vec<TcpStream>>,
}

impl Cut {
    /// A link to `receiver`, at `tcp:127.0.0.1:PORT`, that dies at `message`.
    pub(crate) fn at(message: &'static str, receiver: &Receiver) -> Self {
        Self::by(Death::Message(message.as_bytes()), receiver)
    }

    /// One that dies when the destination has confirmed a round of pages, and the next one begins.
    pub(crate) fn in_second_round(receiver: &Receiver) -> Self {
        Self::by(Death::SecondRound, receiver)
    }

    fn by(death: Death, receiver: &Receiver) -> Self {
        let to = receiver.address.strip_prefix("tcp:").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("tcp:{}", listener.local_addr().unwrap());
        let dead = Arc::new(AtomicBool::new(false));
        let line = Arc::new(Line { death, dead: Arc::clone(&dead), open: Mutex::default() });
        thread::spawn(move || {
            for source in listener.incoming() {
                let Ok(source) = source else { return };
                line.connect(source, &to);
            }
        });
        Self { address, dead }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }
}

/// What was seen of a connection: nothing, that it is one for pages, that a round of them was confirmed.
const NOTHING: u8 = 0;
const JOINED: u8 = 1;
const CONFIRMED: u8 = 2;

/// How the frame begins by which a destination confirms a round: its kind and its length. Acknowledgements of pages within the
/// round are of another kind.
const BARRIER: [u8; 8] = [4, 0, 0, 0, 8, 0, 0, 0];

/// Whether there is a message of this name: the one key of its map, which is short, is its length and its text.
fn has_message(bytes: &[u8], name: &[u8]) -> bool {
    let length = 0x60 + u8::try_from(name.len()).unwrap();
    let key = [&[length], name].concat();
    bytes.windows(key.len()).any(|found| found == key)
}

impl Line {
    /// Whether the link dies by these bytes of a connection; `seen` is what became of that one so far.
    fn ends_by(&self, to_destination: bool, bytes: &[u8], seen: &AtomicU8) -> bool {
        let stage = seen.load(Ordering::SeqCst);
        match (&self.death, to_destination) {
            (Death::Message(message), _) => has_message(bytes, message),
            (Death::SecondRound, true) if stage == CONFIRMED => true,
            (Death::SecondRound, true) => {
                if has_message(bytes, b"join") {
                    seen.store(JOINED, Ordering::SeqCst);
                }
                false
            }
            (Death::SecondRound, false) => {
                if stage == JOINED && bytes.windows(BARRIER.len()).any(|found| found == BARRIER) {
                    seen.store(CONFIRMED, Ordering::SeqCst);
                }
                false
            }
        }
    }

    fn connect(self: &Arc<Self>, source: TcpStream, to: &str) {
        if self.dead.load(Ordering::SeqCst) {
            return;
        }
        let destination = TcpStream::connect(to).unwrap();
        for socket in [&source, &destination] {
            socket.set_nodelay(true).unwrap();
            self.open.lock().unwrap().push(socket.try_clone().unwrap());
        }
        let ways = [(source.try_clone().unwrap(), destination.try_clone().unwrap()), (destination, source)];
        let seen = Arc::new(AtomicU8::new(NOTHING));
        for (way, (mut from, mut to)) in ways.into_iter().enumerate() {
            let seen = Arc::clone(&seen);
            let line = Arc::clone(self);
            thread::spawn(move || {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(count @ 1..) = from.read(&mut buffer) {
                    if line.ends_by(way == 0, &buffer[..count], &seen) {
                        line.dead.store(true, Ordering::SeqCst);
                        for socket in line.open.lock().unwrap().drain(..) {
                            let _ = socket.shutdown(Shutdown::Both);
                        }
                    }
                    if to.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
                let _ = to.shutdown(Shutdown::Write);
            });
        }
    }
}

/// Certificates for one side of a link, signed by `authority`.
pub(crate) struct Papers {
    files: [String; 3],
}

impl Papers {
    /// Writes them under `name`.
    pub(crate) fn issue(dir: &Path, name: &str, authority: &Authority) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority.0).unwrap();
        let write = |kind: &str, text: &str| {
            let path = dir.join(format!("{name}.{kind}.pem"));
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let files = [
            format!("--tls-cert={}", write("cert", &certificate.pem())),
            format!("--tls-key={}", write("key", &key.serialize_pem())),
            format!("--tls-ca={}", write("ca", &authority.0.pem())),
        ];
        Self { files }
    }

    pub(crate) fn options(&self) -> [&str; 3] {
        self.files.each_ref().map(String::as_str)
    }
}

/// Who signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }
}
