//! Removing what a policy does not keep.

use std::collections::BTreeMap;
use std::time::SystemTime;

use ringmark_image::{ImageId, ListError, Listing, RemoveError, Removed, Store, Summary};

use crate::family;
use crate::keep::{KeepPolicy, Reason};

/// What a policy says of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The image.
    pub image: Summary,
    /// Why it is kept; it is to go if there is no reason.
    pub reasons: Vec<Reason>,
}

impl Decision {
    /// Whether the image stays.
    #[must_use]
    pub fn keeps(&self) -> bool {
        !self.reasons.is_empty()
    }
}

/// What is to be done with the images of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Machine by machine, each with its newest image first.
    pub decisions: Vec<Decision>,
    /// Bytes that carrying it out frees.
    pub frees: u64,
}

/// Why images were not removed, or not all.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The store could not be listed.
    #[error(transparent)]
    List(#[from] ListError),
    /// Removing failed.
    #[error(transparent)]
    Remove(#[from] RemoveError),
}

impl Plan {
    /// What `policy` says of the images of the machine `vm`, or of every machine, each judged by itself.
    ///
    /// That an image has descendants does not keep it: they find their pages without it.
    #[must_use]
    pub fn new(listing: &Listing, policy: &KeepPolicy, vm: Option<&str>) -> Self {
        let mut machines: BTreeMap<&str, Vec<&Summary>> = BTreeMap::new();
        for image in listing.images.iter().filter(|image| vm.is_none_or(|vm| vm == image.vm)) {
            machines.entry(&image.vm).or_default().push(image);
        }
        let mut decisions = Vec::new();
        for images in machines.values() {
            let taken: Vec<SystemTime> = images.iter().map(|image| image.created()).collect();
            let judged = images.iter().zip(policy.judge(&taken));
            decisions.extend(judged.map(|(image, reasons)| Decision { image: (*image).clone(), reasons }));
        }
        let mut plan = Self { decisions, frees: 0 };
        plan.frees = family::freed(listing, &plan.leaving());
        plan
    }

    /// The images that are to go.
    #[must_use]
    pub fn leaving(&self) -> Vec<ImageId> {
        self.decisions.iter().filter(|decision| !decision.keeps()).map(|decision| decision.image.id).collect()
    }

    /// Removes them. Images that came to the store since the plan was made are not touched.
    ///
    /// # Errors
    /// [`RemoveError`].
    pub fn carry_out(&self, store: &Store) -> Result<Removed, RemoveError> {
        let leaving = self.leaving();
        if leaving.is_empty() { Ok(Removed::default()) } else { store.remove(&leaving) }
    }
}

/// Removes the images of the machine `vm`, or of every machine, that `policy` does not keep.
///
/// # Errors
/// The store cannot be listed, or what is to go cannot be removed.
pub fn prune(store: &Store, policy: &KeepPolicy, vm: Option<&str>) -> Result<Removed, PruneError> {
    Ok(Plan::new(&store.list()?, policy, vm).carry_out(store)?)
}
