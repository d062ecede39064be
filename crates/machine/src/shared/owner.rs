//! A shared memory that still arrives: the end of who brings it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringmark_dirty::SlotId;
use ringmark_image::ImageId;
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use vm_memory::Bytes;

use super::link::{Link, Message};
use crate::lazy::{Arrival, Arriving, LazyError, LoadCause, LoadError, Loading, SERVERS};
use crate::ram::Ram;

/// What `epoll` says where the threads are to end; members count from 0.
const STOP: u64 = u64::MAX;

/// Answers the machines that share a memory.
#[derive(Debug)]
pub(super) struct Owner {
    image: ImageId,
    arrival: Arc<Arrival>,
    /// Its mapping is the one way to change the memory file.
    ram: Ram,
    poll: OwnedFd,
    members: Mutex<Members>,
}

#[derive(Debug, Default)]
struct Members {
    links: BTreeMap<u64, Arc<Link>>,
    next: u64,
    /// How the arrival has ended, if it has.
    ended: Option<Message>,
}

impl Owner {
    /// Starts to answer, by threads of `loading`.
    pub(super) fn start(
        image: ImageId,
        arrival: Arc<Arrival>,
        ram: Ram,
        loading: &mut Loading,
    ) -> Result<Arc<Self>, LazyError> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC);
        let poll = poll.map_err(|error| LazyError::Thread(error.into()))?;
        let owner = Arc::new(Self { image, arrival, ram, poll, members: Mutex::default() });
        for number in 0..SERVERS {
            let serving = Arc::clone(&owner);
            loading.spawn(format!("share{number}"), move |stop| {
                if let Err(error) = serving.serve(stop) {
                    serving.arrival.fail(LoadError::background(LoadCause::Server(error)));
                }
            })?;
        }
        let announcing = Arc::clone(&owner);
        loading.spawn("shared".into(), move |_| announcing.announce_the_end())?;
        Ok(owner)
    }

    /// The other end of one more machine's link.
    pub(super) fn join(&self, file: impl AsFd) -> std::io::Result<OwnedFd> {
        let (link, theirs) = Link::pair()?;
        let mut members = self.lock();
        let whole = members.ended == Some(Message::Whole);
        link.send(&Message::Welcome { image: self.image, whole }, Some(file.as_fd()))?;
        if let Some(ended) = members.ended.as_ref().filter(|_| !whole) {
            link.send(ended, None)?;
        }
        let number = members.next;
        members.next += 1;
        epoll::add(&self.poll, &link, epoll::EventData::new_u64(number), epoll::EventFlags::IN)?;
        members.links.insert(number, Arc::new(link));
        Ok(theirs)
    }

    fn announce_the_end(&self) {
        let ended = match self.arrival.wait() {
            Ok(()) => Message::Whole,
            Err(error) => Message::Failed(error.cause.to_string()),
        };
        let mut members = self.lock();
        for link in members.links.values() {
            // One that is gone, or has stopped reading, learns of it by the end of the link.
            let _ = link.send(&ended, None);
        }
        members.ended = Some(ended);
    }

    /// Answers until it is told to stop.
    fn serve(&self, stop: &OwnedFd) -> std::io::Result<()> {
        // Each of the threads adds it, and all but the first are told that it is there.
        match epoll::add(&self.poll, stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        // One at a time: another thread takes the next.
        let mut events = Vec::with_capacity(1);
        loop {
            events.clear();
            match epoll::wait(&self.poll, spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    STOP => return Ok(()),
                    number => self.answer(number),
                }
            }
        }
    }

    fn answer(&self, number: u64) {
        let Some(link) = self.lock().links.get(&number).map(Arc::clone) else { return };
        let answered = match link.receive(false) {
            Ok((Message::Want(slot, offset), _)) => self.bring(&link, slot, offset),
            Ok(_) => Err(std::io::ErrorKind::InvalidData.into()),
            // Another thread was faster.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        };
        if answered.is_err() {
            self.part_from(number, &link);
        }
    }

    /// Puts a page into the memory file. A page of zeros, too: who waits for it would wait again.
    fn bring(&self, link: &Link, slot: SlotId, offset: u64) -> std::io::Result<()> {
        let address = self.ram.address(slot, offset).ok_or(std::io::ErrorKind::InvalidData)?;
        if self.arrival.bring(slot, offset, 1).is_err() {
            // It is announced to all of them.
            return Ok(());
        }
        // What has arrived as a hole is zero, and is filled by a touch, whatever has become of the arrival meanwhile.
        self.ram.guest().read_obj::<u8>(address).map_err(std::io::Error::other)?;
        link.send(&Message::Here(slot, offset), None)
    }

    /// A machine has ended, or makes no sense: it is alone from here on.
    fn part_from(&self, number: u64, link: &Link) {
        let _ = epoll::delete(&self.poll, link);
        self.lock().links.remove(&number);
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
