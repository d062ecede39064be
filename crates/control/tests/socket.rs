//! The socket in the file system.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use common::{Mock, rig};
use ringmark_control::{BindError, Client, ConnectError, Server};

/// A directory that nobody else may enter, whatever the umask is.
fn private_dir() -> tempfile::TempDir {
    tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap()
}

fn bind(path: &std::path::Path) -> Result<Server, BindError> {
    Server::bind(path, Arc::new(Mock::default()))
}

#[test]
fn the_socket_is_the_owners_and_goes_with_the_server() {
    let dir = private_dir();
    let path = dir.path().join("run/ringmark/vm1.sock");
    let server = bind(&path).unwrap();
    assert_eq!(server.path(), path);
    let made = fs::symlink_metadata(&path).unwrap();
    assert!(made.file_type().is_socket());
    assert_eq!(made.mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
    server.shutdown();
    assert!(!path.exists());
    // The same name can be used again.
    drop(bind(&path).unwrap());
}

#[test]
fn a_taken_socket_is_left_alone() {
    let rig = rig();
    let Err(error) = bind(&rig.path) else { panic!("bound twice") };
    assert!(matches!(&error, BindError::Taken(path) if *path == rig.path));
    assert!(error.to_string().contains(rig.path.to_str().unwrap()), "{error}");
    Client::connect(&rig.path).unwrap().status().unwrap();
}

#[test]
fn one_of_many_binders_wins() {
    let dir = private_dir();
    let path = dir.path().join("s");
    // A stale socket, so that all of them find something to replace.
    drop(UnixListener::bind(&path).unwrap());
    let results: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(|| bind(&path))).collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    assert!(results.iter().filter_map(|r| r.as_ref().err()).all(|e| matches!(e, BindError::Taken(_))));
    Client::connect(&path).unwrap().status().unwrap();
}

#[test]
fn a_stale_socket_is_replaced() {
    let dir = private_dir();
    let path = dir.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    let _server = bind(&path).unwrap();
    Client::connect(&path).unwrap().status().unwrap();
}

#[test]
fn a_later_socket_of_the_same_name_is_not_removed() {
    let rig = rig();
    fs::remove_file(&rig.path).unwrap();
    let later = bind(&rig.path).unwrap();
    drop(rig.server);
    Client::connect(&rig.path).unwrap().status().unwrap();
    drop(later);
}

#[test]
fn what_is_no_socket_is_not_removed() {
    let dir = private_dir();
    let file = dir.path().join("file");
    fs::write(&file, "precious").unwrap();
    assert!(matches!(bind(&file), Err(BindError::NotASocket(_))));
    let link = dir.path().join("link");
    symlink(&file, &link).unwrap();
    assert!(matches!(bind(&link), Err(BindError::NotASocket(_))));
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn directories_of_others_are_refused() {
    let dir = private_dir();
    for mode in [0o755, 0o770, 0o701, 0o777] {
        fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
        assert!(
            matches!(bind(&dir.path().join("s")), Err(BindError::OpenDirectory { mode: m, .. }) if m == mode)
        );
    }
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
    bind(&dir.path().join("s")).unwrap();
}

#[test]
fn long_paths_are_refused() {
    let dir = private_dir();
    let path = dir.path().join("x".repeat(120));
    assert!(matches!(bind(&path), Err(BindError::TooLong(_))));
}

#[test]
fn another_user_is_refused_even_where_the_files_let_him() {
    if !rustix::process::geteuid().is_root() {
        eprintln!(
            "SKIPPED another_user_is_refused_even_where_the_files_let_him: needs root to become another user"
        );
        return;
    }
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!(
            "SKIPPED another_user_is_refused_even_where_the_files_let_him: needs python3 for the other user"
        );
        return;
    }
    let rig = rig();
    let ask = |uid: u32| {
        let script = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
                      s.sendall(b'POST /v1/stop HTTP/1.1\\r\\nhost: x\\r\\ncontent-length: 0\\r\\n\\r\\n')\n\
                      print(s.recv(65536).decode())";
        let mut command = Command::new("python3");
        command.args(["-c", script]).arg(&rig.path).uid(uid).gid(uid).current_dir("/");
        command.output().unwrap()
    };
    assert!(!ask(65534).status.success(), "the files let another user in");
    for dir in [rig.dir.path(), rig.path.parent().unwrap()] {
        fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&rig.path, Permissions::from_mode(0o666)).unwrap();
    let answer = String::from_utf8(ask(65534).stdout).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains(r#""code":"forbidden""#), "{answer}");
    assert!(!rig.mock.stopped.load(std::sync::atomic::Ordering::SeqCst));
    // The same script as the owner stops the machine: it is the user that was refused.
    assert!(String::from_utf8(ask(0).stdout).unwrap().starts_with("HTTP/1.1 200 "));
    assert!(rig.mock.stopped.load(std::sync::atomic::Ordering::SeqCst));
}

#[test]
fn a_server_ends_while_a_checkpoint_runs() {
    let mut rig = rig();
    rig.mock.gate.shut();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            Client::connect(&rig.path)
                .unwrap()
                .checkpoint(&ringmark_control::CheckpointRequest::default(), |_| {})
        });
        rig.mock.wait_until_running();
        drop(rig.server.take());
        assert!(!rig.path.exists());
        assert!(client.join().unwrap().is_err());
        rig.mock.gate.open();
    });
    assert!(matches!(Client::connect(&rig.path), Err(ConnectError::NoMachine(_))));
}
