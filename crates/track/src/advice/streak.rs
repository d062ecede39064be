//! An answer that does not waver.

/// Epochs in a row that change the answer.
const IN_A_ROW: u32 = 2;

/// Yes after two calls in a row, no after two objections in a row; what is neither keeps the answer and starts the count
/// anew.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streak {
    yes: bool,
    against: u32,
}

impl Streak {
    pub(super) const fn new() -> Self {
        Self { yes: false, against: 0 }
    }

    /// Takes note of what an epoch says, and gives the answer.
    pub(super) fn observe(&mut self, calls: bool, opposes: bool) -> bool {
        let against = if self.yes { opposes } else { calls };
        self.against = if against { self.against + 1 } else { 0 };
        if self.against >= IN_A_ROW {
            *self = Self { yes: !self.yes, against: 0 };
        }
        self.yes
    }
}
