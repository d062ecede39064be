//! Which of the possible steps is next: every schedule, one after another.

/// A source of decisions that can be taken again.
#[derive(Debug)]
pub(super) struct Schedule {
    /// What was decided, and among how many.
    path: Vec<(usize, usize)>,
    at: usize,
}

impl Schedule {
    /// The first of all schedules.
    pub(super) const fn first() -> Self {
        Self { path: Vec::new(), at: 0 }
    }

    /// One of `count` possibilities.
    pub(super) fn choose(&mut self, count: usize) -> usize {
        if count <= 1 {
            return 0;
        }
        if self.at == self.path.len() {
            self.path.push((0, count));
        }
        let (chosen, of) = self.path[self.at];
        assert_eq!(of, count, "a schedule that is played again must meet the same possibilities");
        self.at += 1;
        chosen
    }

    /// The next schedule that was not taken yet, in the order of their last decisions; false if there is none.
    pub(super) fn advance(&mut self) -> bool {
        self.at = 0;
        while let Some((chosen, of)) = self.path.pop() {
            if chosen + 1 < of {
                self.path.push((chosen + 1, of));
                return true;
            }
        }
        false
    }

    /// The decisions, to be printed.
    pub(super) fn decisions(&self) -> Vec<usize> {
        self.path.iter().map(|(chosen, _)| *chosen).collect()
    }
}

#[test]
fn every_schedule_is_taken_once() {
    let mut schedule = Schedule::first();
    let mut seen = Vec::new();
    loop {
        let first = schedule.choose(3);
        let second = if first == 1 { schedule.choose(2) } else { 9 };
        seen.push((first, second, schedule.choose(2)));
        if !schedule.advance() {
            break;
        }
    }
    assert_eq!(
        seen,
        [(0, 9, 0), (0, 9, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1), (2, 9, 0), (2, 9, 1)]
    );
}
