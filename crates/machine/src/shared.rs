//! One memory for several machines: loaded once, written by each for itself.
//!
//! ```text
//!                                    ┌── private mapping ── clone 1: what it writes is its own
//!  image ──▶ SharedMemory ──▶ memfd ─┼── private mapping ── clone 2
//!             (one process)          └── private mapping ── …        (a process each)
//! ```
//!
//! [`SharedMemory`] puts an image's pages into one memory file, eagerly or while the machines run already. Each machine maps
//! that file privately: a page that nobody writes is in memory once, and one that a machine writes is copied for it by the
//! kernel. The file is sealed, so that no machine, nor who breaks into its process, can change another's memory: only the
//! mapping of `SharedMemory` can, and once everything is there nothing can.
//!
//! A machine gets its [`Share`] by a socket that can be handed to another process. While memory arrives it is also the way
//! by which a machine asks for the page that it waits for (userfaultfd, of its own mapping) and is told that the file has it.
//!
//! # What is promised
//! * Holes of the file are pages that no machine has touched, during the arrival and after it: a write to a private mapping
//!   reads the page from the file first (`do_cow_fault`), and so fills the hole. So a hole is as the image has it, and may be
//!   left out of an increment; what a machine has written is in its mapping alone, and is never read from the file.
//! * A page that cannot be had ends every machine, as it ends the one of a lazy restore. So does the end of who brings
//!   pages, until all of them are there.

mod link;
mod member;
mod owner;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use ringmark_image::{Image, ImageId};
use ringmark_uffd::Faults;

use crate::lazy::{self, Contents, LazyError, LoadError};
use crate::machine::{CreateError, Loading, RestoreError, layout_for, working_set_of};
use crate::ram::{Ram, Seal};
use link::{Link, Message};
use owner::Owner;

pub(crate) use member::Member;

/// The memory of an image, for any number of machines.
///
/// Dropped before it is whole, it ends the machines that share it.
#[derive(Debug)]
pub struct SharedMemory {
    // Its threads hold the owner.
    loading: Option<lazy::Loading>,
    owner: Option<Arc<Owner>>,
    image: ImageId,
    file: Arc<File>,
}

impl SharedMemory {
    /// Loads the memory of `image`; with [`Loading::Lazy`] this only begins, and the working set comes first.
    ///
    /// # Errors
    /// What a restore fails with, as far as memory goes.
    pub fn load(image: &Image, loading: Loading) -> Result<Self, RestoreError> {
        Self::load_from(image, Box::new(image.clone()), loading)
    }

    /// As [`load`](Self::load), with pages that arrive lazily taken from `contents`.
    pub(crate) fn load_from(
        image: &Image,
        contents: Box<dyn Contents>,
        loading: Loading,
    ) -> Result<Self, RestoreError> {
        let mut ram = Ram::sealable(layout_for(image)?).map_err(CreateError::from)?;
        let seal = |file: &File, seal| crate::ram::seal(file, seal).map_err(LazyError::Register);
        let (id, file) = (image.id(), Arc::clone(ram.file()));
        if loading == Loading::Eager {
            image.restore(|slot, offset, bytes| ram.write_pages(slot, offset, bytes))?;
            // No mapping may be left that could write.
            drop(ram);
            seal(&file, Seal::AllWrites)?;
            return Ok(Self { loading: None, owner: None, image: id, file });
        }
        let first = working_set_of(image, ram.slots())?;
        // Only this process's monitor touches this mapping.
        let arrival = ram.arrive_from(contents, Faults::UserOnly)?;
        seal(&file, Seal::WritesButOurs)?;
        let mut loading = lazy::Loading::start(Arc::clone(&arrival), ram.slots(), first)?;
        let owner = Owner::start(id, arrival, ram, &mut loading)?;
        loading.begin();
        Ok(Self { loading: Some(loading), owner: Some(owner), image: id, file })
    }

    /// The image.
    #[must_use]
    pub fn image(&self) -> ImageId {
        self.image
    }

    /// A share for one machine, as a socket for [`Share::receive`], here or in the process that it is handed to.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub fn share(&self) -> io::Result<OwnedFd> {
        if let Some(owner) = &self.owner {
            return owner.join(&*self.file);
        }
        let (link, theirs) = Link::pair()?;
        link.send(&Message::Welcome { image: self.image, whole: true }, Some(self.file.as_fd()))?;
        Ok(theirs)
    }

    /// Why its pages cannot be had, if so: the machines that shared it have ended.
    #[must_use]
    pub fn failure(&self) -> Option<LoadError> {
        self.loading.as_ref()?.arrival().failure()
    }

    /// Waits until every page is there.
    ///
    /// # Errors
    /// A page that cannot be had.
    pub fn wait_until_whole(&self) -> Result<(), LoadError> {
        self.loading.as_ref().map_or(Ok(()), |loading| loading.arrival().wait())
    }
}

/// One machine's part in a [`SharedMemory`].
#[derive(Debug)]
pub struct Share {
    image: ImageId,
    file: File,
    /// The way to ask for pages, while some are still to come.
    link: Option<Link>,
}

impl Share {
    /// Takes a share from the socket that [`SharedMemory::share`] gave.
    ///
    /// # Errors
    /// If it is none, or its other end is gone.
    pub fn receive(socket: OwnedFd) -> io::Result<Self> {
        let link = Link::new(socket);
        match link.receive(true)? {
            (Message::Welcome { image, whole }, Some(file)) => {
                Ok(Self { image, file: file.into(), link: (!whole).then_some(link) })
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// The image whose memory it is.
    #[must_use]
    pub fn image(&self) -> ImageId {
        self.image
    }

    /// When its memory is read from the image.
    pub(crate) fn loading(&self) -> Loading {
        if self.link.is_some() { Loading::Lazy } else { Loading::Eager }
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Lets the pages of `ram`, a private mapping of the shared file, arrive from here on, if any is still to come.
    pub(crate) fn begin(self, ram: &mut Ram, faults: Faults) -> Result<Option<lazy::Loading>, LazyError> {
        let Some(link) = self.link else { return Ok(None) };
        let (member, loading) = Member::begin(ram, link, faults)?;
        ram.arrives_by(member);
        Ok(Some(loading))
    }
}
