//! A machine whose memory is shared while it still arrives: its end.

use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use ringmark_dirty::{PageSize, SlotId};
use ringmark_uffd::{Faults, Features, MissingPages, Userfaultfd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::AsFd;

use super::link::{Link, Message};
use crate::lazy::{
    ArrivalProgress, Arriving, LazyError, LoadCause, LoadError, Loading, Outcome, register_all,
};
use crate::ram::{MarkedMemory, Ram};

/// The private mapping of a shared memory that still arrives: who touches a page that the file has not waits until its
/// owner has put it there.
pub(crate) struct Member {
    /// In the order of the slots; `None` once the mapping is ordinary again. Before the memory: a registration ends before
    /// its mapping does.
    missing: RwLock<Option<Vec<MissingPages>>>,
    slots: Vec<SlotId>,
    page_size: PageSize,
    uffd: Arc<Userfaultfd>,
    link: Link,
    outcome: Outcome,
    faults: AtomicU64,
    _memory: MarkedMemory,
}

impl Member {
    /// Makes every page of `ram` that its file has not one that is asked of the other end of `link`, and starts the thread
    /// that asks.
    ///
    /// # Errors
    /// Where this host's userfaultfd cannot do it, or has no thread left.
    pub(super) fn begin(ram: &Ram, link: Link, faults: Faults) -> Result<(Arc<Self>, Loading), LazyError> {
        let uffd = Arc::new(Userfaultfd::open(faults, Features::MISSING_SHMEM)?);
        let memory = ram.guest().clone();
        let member = Arc::new(Self {
            missing: RwLock::new(Some(register_all(&uffd, &memory)?)),
            slots: ram.slots().iter().map(|slot| slot.id).collect(),
            page_size: ram.layout().page_size(),
            uffd,
            link,
            outcome: Outcome::default(),
            faults: AtomicU64::new(0),
            _memory: memory,
        });
        let mut loading = Loading::of(Arc::clone(&member) as _)?;
        let attending = Arc::clone(&member);
        loading.spawn("share".into(), move |stop| {
            if let Err(cause) = attending.attend(stop) {
                attending.fail(LoadError::background(cause));
            }
        })?;
        Ok((member, loading))
    }

    /// `placed`: pages that the file has.
    pub(crate) fn progress(&self, placed: u64) -> ArrivalProgress {
        let (faults, whole) = (self.faults.load(Ordering::Relaxed), self.outcome.is_whole());
        ArrivalProgress { placed, faults, whole }
    }

    /// Asks for what is waited for, and wakes who waits, until all of memory is there.
    fn attend(&self, stop: &OwnedFd) -> Result<(), LoadCause> {
        // A fault that a signal interrupts comes again; so no more is ever under way than there are threads that wait.
        let mut asked = BTreeSet::new();
        while !self.outcome.is_whole() {
            let mut fds = [
                PollFd::new(&*self.uffd, PollFlags::IN),
                PollFd::new(&self.link, PollFlags::IN),
                PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(LoadCause::Server(error.into())),
            }
            if !fds[2].revents().is_empty() {
                return Ok(());
            }
            while let Some(fault) = self.uffd.next_fault().map_err(LoadCause::Server)? {
                self.faults.fetch_add(1, Ordering::Relaxed);
                if let Some((slot, offset)) = self.locate(fault.address)
                    && asked.insert((slot, offset))
                {
                    self.link.send(&Message::Want(slot, offset), None).map_err(LoadCause::Owner)?;
                }
            }
            if !fds[1].revents().is_empty() {
                match self.link.receive(false) {
                    Ok((Message::Here(slot, offset), _)) => {
                        asked.remove(&(slot, offset));
                        self.wake(slot, offset).map_err(LoadCause::Server)?;
                    }
                    Ok((Message::Whole, _)) => self.complete(),
                    Ok((Message::Failed(why), _)) => return Err(LoadCause::Shared(why)),
                    Ok(_) => return Err(LoadCause::Owner(std::io::ErrorKind::InvalidData.into())),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(LoadCause::Owner(error)),
                }
            }
        }
        Ok(())
    }

    fn locate(&self, address: u64) -> Option<(SlotId, u64)> {
        let missing = self.missing.read().unwrap_or_else(PoisonError::into_inner);
        let regions = self.slots.iter().zip(missing.as_ref()?);
        regions
            .into_iter()
            .find_map(|(slot, pages)| Some((*slot, self.page_size.pages_in(pages.offset_of(address)?))))
    }

    fn wake(&self, slot: SlotId, offset: u64) -> std::io::Result<()> {
        let missing = self.missing.read().unwrap_or_else(PoisonError::into_inner);
        let Some(missing) = &*missing else { return Ok(()) };
        let at = self.slots.iter().position(|known| *known == slot);
        at.and_then(|at| missing.get(at)).map_or(Ok(()), |pages| pages.wake(offset << self.page_size.shift()))
    }
}

impl Arriving for Member {
    fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    fn let_go(&self) {
        *self.missing.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("faults", &self.faults).finish_non_exhaustive()
    }
}
