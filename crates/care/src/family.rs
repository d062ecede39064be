//! Who descends from whom, and what belongs to whom.

use std::collections::{BTreeMap, HashMap, HashSet};

use ringmark_image::{ImageId, Listing, Summary};

/// One image of a [`forest`].
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// The image.
    pub image: &'a Summary,
    /// Whether its parent is listed, too; a base has none, and that of other images may have been removed.
    pub has_parent: bool,
    /// For each fork on the way from the first ancestor, whether this image's branch is the last of that fork.
    pub branches: u64,
    /// How many forks there are on the way, at most 64.
    pub depth: u32,
    /// Whether it is the first of its branch.
    pub begins_branch: bool,
}

/// Images as trees: ancestors before their descendants, every tree in one piece, older ones first. An only child stays in
/// the branch of its parent; several children have a branch each.
#[must_use]
pub fn forest<'a>(images: &[&'a Summary]) -> Vec<Member<'a>> {
    let listed: HashSet<ImageId> = images.iter().map(|image| image.id).collect();
    let mut children: HashMap<ImageId, Vec<&'a Summary>> = HashMap::new();
    let mut roots = Vec::new();
    let mut oldest_first = images.to_vec();
    oldest_first.sort_by_key(|image| image.sequence);
    for image in oldest_first {
        match image.parent.filter(|parent| listed.contains(parent)) {
            Some(parent) => children.entry(parent).or_default().push(image),
            None => roots.push(image),
        }
    }
    let mut members = Vec::with_capacity(images.len());
    // Chains are long: a stack of its own instead of the thread's.
    let mut waiting: Vec<Member<'a>> = roots
        .into_iter()
        .rev()
        .map(|image| Member { image, has_parent: false, branches: 0, depth: 0, begins_branch: false })
        .collect();
    while let Some(member) = waiting.pop() {
        members.push(member);
        let children = children.remove(&member.image.id).unwrap_or_default();
        let forked = children.len() > 1 && member.depth < u64::BITS;
        let last = children.len().saturating_sub(1);
        // Reversed, since the stack gives back the youngest first.
        for (index, image) in children.into_iter().enumerate().rev() {
            let bit = u64::from(index == last).checked_shl(member.depth).unwrap_or_default();
            waiting.push(Member {
                image,
                has_parent: true,
                branches: if forked { member.branches | bit } else { member.branches },
                depth: member.depth + u32::from(forked),
                begins_branch: forked,
            });
        }
    }
    members
}

impl Member<'_> {
    /// The lines that lead to the image in a picture of the tree: `│ ├─`.
    #[must_use]
    pub fn lines(&self) -> String {
        (0..self.depth)
            .map(|level| {
                let last = self.branches >> level & 1 == 1;
                match (self.begins_branch && level + 1 == self.depth, last) {
                    (true, true) => "└─",
                    (true, false) => "├─",
                    (false, true) => "  ",
                    (false, false) => "│ ",
                }
            })
            .collect()
    }
}

/// Bytes that removing all of `leaving` would free: their metadata, and the packs that nobody else needs.
#[must_use]
pub fn freed(listing: &Listing, leaving: &[ImageId]) -> u64 {
    let leaving: HashSet<ImageId> = leaving.iter().copied().collect();
    let (gone, kept): (Vec<_>, Vec<_>) = listing.images.iter().partition(|image| leaving.contains(&image.id));
    let needed: HashSet<&str> = packs(&kept).map(|(name, _)| name).collect();
    let freed: BTreeMap<&str, u64> = packs(&gone).filter(|(name, _)| !needed.contains(name)).collect();
    freed.values().sum::<u64>() + gone.iter().map(|image| metadata(image)).sum::<u64>()
}

/// For each image, bytes that removing it alone would free.
#[must_use]
pub fn freed_by_each(listing: &Listing) -> HashMap<ImageId, u64> {
    let mut users: HashMap<&str, u32> = HashMap::new();
    for (name, _) in listing.images.iter().flat_map(uses) {
        *users.entry(name).or_default() += 1;
    }
    let alone = |image: &Summary| -> u64 {
        uses(image).filter(|(name, _)| users.get(name) == Some(&1)).map(|(_, bytes)| bytes).sum()
    };
    listing.images.iter().map(|image| (image.id, alone(image) + metadata(image))).collect()
}

fn packs<'a>(images: &[&'a Summary]) -> impl Iterator<Item = (&'a str, u64)> {
    images.iter().flat_map(|image| uses(image))
}

fn uses(image: &Summary) -> impl Iterator<Item = (&str, u64)> {
    image.packs.iter().map(|pack| (pack.name.as_str(), pack.bytes))
}

/// What an image has beside packs.
fn metadata(image: &Summary) -> u64 {
    let own: u64 = image.packs.iter().filter(|pack| pack.own).map(|pack| pack.bytes).sum();
    image.bytes_stored.saturating_sub(own)
}

/// Images that would lose their parent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{parent} is the parent of {}", .children.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
pub struct Orphans {
    /// The image to be removed.
    pub parent: ImageId,
    /// Its children, oldest first.
    pub children: Vec<ImageId>,
}

/// The images that would lose their parent if all of `leaving` were removed.
#[must_use]
pub fn orphans(listing: &Listing, leaving: &[ImageId]) -> Vec<Orphans> {
    let mut orphans = Vec::new();
    for parent in leaving {
        let stays = |image: &&Summary| image.parent == Some(*parent) && !leaving.contains(&image.id);
        let mut children: Vec<&Summary> = listing.images.iter().filter(stays).collect();
        children.sort_by_key(|image| image.sequence);
        if !children.is_empty() {
            orphans.push(Orphans { parent: *parent, children: children.iter().map(|c| c.id).collect() });
        }
    }
    orphans
}
