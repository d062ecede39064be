//! Stopping the vCPUs while their rings are full.
//!
//! A vCPU whose ring is full asks the collector and waits; the one who stops the guest kicks every vCPU and waits for all;
//! the collector serves one request at a time, under the lock over harvest and reset. Nobody may wait for ever.

use std::collections::{HashMap, VecDeque};

use stateright::{Model, Property};

/// A rule that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Whoever stops the vCPUs holds the lock meanwhile.
    LockHeldWhileStopping,
    /// A vCPU that is told to stop while it waits for the collector is not answered any more.
    StopDropsRequests,
    /// A vCPU looks for the wish to stop only when it is kicked, and the kick comes before the wish.
    KickBeforeWish,
}

impl Broken {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::LockHeldWhileStopping, Self::StopDropsRequests, Self::KickBeforeWish];
}

/// What a vCPU's thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Thread {
    /// In the guest.
    Guest,
    /// Out of the guest for its full ring; it has asked the collector.
    Asked,
    /// Parked.
    Parked,
}

/// What whoever stops the guest is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stopper {
    /// Nothing yet.
    Idle,
    /// It has made its wish known and kicks.
    Kicking,
    /// It waits for every vCPU.
    Waiting,
    /// It has asked for the final harvest.
    Sealing,
    /// The cut is sealed.
    Done,
}

/// One state of all threads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    threads: Vec<Thread>,
    /// Kicks that were sent.
    sent: Vec<bool>,
    /// Kicks that a vCPU has not seen.
    kicked: Vec<bool>,
    /// Entries in each ring.
    used: Vec<u8>,
    wish: bool,
    stopper: Stopper,
    lock: Option<Holder>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Stopper,
    /// The collector, at a vCPU's request.
    Vcpu(usize),
    Seal,
}

/// One step of one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A vCPU writes a page that is not logged yet.
    Write(usize),
    /// A vCPU finds its ring full.
    Full(usize),
    /// The collector takes a vCPU's request.
    Serve(usize),
    /// It has harvested and reset, and answers.
    Answer(usize),
    /// A vCPU leaves the guest for a kick.
    Leave(usize),
    /// The next step of whoever stops the guest.
    Stop,
    /// A vCPU is kicked.
    Kick(usize),
    /// The collector begins the final harvest.
    Seal,
    /// It ends.
    Sealed,
}

/// vCPUs, a collector, and one who stops the guest.
#[derive(Clone, Copy, Debug)]
pub struct Handover {
    /// How many vCPUs.
    pub vcpus: usize,
    /// Entries of a ring.
    pub ring: u8,
    /// What is wrong.
    pub broken: Option<Broken>,
}

impl Handover {
    fn is(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }
}

impl Model for Handover {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            threads: vec![Thread::Guest; self.vcpus],
            sent: vec![false; self.vcpus],
            kicked: vec![false; self.vcpus],
            used: vec![0; self.vcpus],
            wish: false,
            stopper: Stopper::Idle,
            lock: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for vcpu in 0..self.vcpus {
            let in_guest = state.threads[vcpu] == Thread::Guest;
            if in_guest && state.kicked[vcpu] {
                actions.push(Action::Leave(vcpu));
            } else if in_guest {
                let full = state.used[vcpu] == self.ring;
                actions.push(if full { Action::Full(vcpu) } else { Action::Write(vcpu) });
            }
            let refused = state.wish && self.is(Broken::StopDropsRequests);
            if state.threads[vcpu] == Thread::Asked && state.lock.is_none() && !refused {
                actions.push(Action::Serve(vcpu));
            }
            if state.lock == Some(Holder::Vcpu(vcpu)) {
                actions.push(Action::Answer(vcpu));
            }
            if state.stopper == Stopper::Kicking && !state.sent[vcpu] {
                actions.push(Action::Kick(vcpu));
            }
        }
        let may_go_on = match state.stopper {
            Stopper::Idle => !self.is(Broken::LockHeldWhileStopping) || state.lock.is_none(),
            Stopper::Kicking => state.sent.iter().all(|sent| *sent),
            Stopper::Waiting => state.threads.iter().all(|thread| *thread == Thread::Parked),
            Stopper::Sealing | Stopper::Done => false,
        };
        if may_go_on {
            actions.push(Action::Stop);
        }
        match state.lock {
            None if state.stopper == Stopper::Sealing => actions.push(Action::Seal),
            Some(Holder::Seal) => actions.push(Action::Sealed),
            _ => {}
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Write(vcpu) => state.used[vcpu] += 1,
            Action::Full(vcpu) => state.threads[vcpu] = Thread::Asked,
            Action::Serve(vcpu) => state.lock = Some(Holder::Vcpu(vcpu)),
            Action::Answer(vcpu) => {
                (state.lock, state.used[vcpu]) = (None, 0);
                state.threads[vcpu] = Thread::Guest;
            }
            Action::Leave(vcpu) => {
                // It looks whether it is to stop, and enters the guest again if not.
                state.kicked[vcpu] = false;
                if state.wish {
                    state.threads[vcpu] = Thread::Parked;
                }
            }
            Action::Kick(vcpu) => (state.sent[vcpu], state.kicked[vcpu]) = (true, true),
            Action::Stop => match state.stopper {
                Stopper::Idle => {
                    state.wish = !self.is(Broken::KickBeforeWish);
                    state.lock =
                        self.is(Broken::LockHeldWhileStopping).then_some(Holder::Stopper).or(state.lock);
                    state.stopper = Stopper::Kicking;
                }
                Stopper::Kicking => (state.wish, state.stopper) = (true, Stopper::Waiting),
                Stopper::Waiting => {
                    state.stopper = Stopper::Sealing;
                    state.lock = state.lock.filter(|holder| *holder != Holder::Stopper);
                }
                Stopper::Sealing | Stopper::Done => return None,
            },
            Action::Seal => state.lock = Some(Holder::Seal),
            Action::Sealed => {
                state.used.fill(0);
                (state.lock, state.stopper) = (None, Stopper::Done);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("at the seal every vCPU stands", |_, state: &State| {
                state.stopper < Stopper::Sealing
                    || state.threads.iter().all(|thread| *thread == Thread::Parked)
            }),
            Property::sometimes(
                "a vCPU with a full ring is served while it is to stop",
                |_, state: &State| state.wish && matches!(state.lock, Some(Holder::Vcpu(_))),
            ),
            Property::sometimes("the cut is sealed", |_, state: &State| state.stopper == Stopper::Done),
        ]
    }
}

impl Handover {
    /// How many states there are, and how many of them have no way to a sealed cut: in those somebody waits for ever.
    #[must_use]
    pub fn waits(&self) -> (usize, usize) {
        let mut numbers: HashMap<State, usize> = HashMap::new();
        let mut before: Vec<Vec<usize>> = Vec::new();
        let mut queue: VecDeque<State> = self.init_states().into();
        let mut ways_out = Vec::new();
        for state in &queue {
            numbers.insert(state.clone(), before.len());
            before.push(Vec::new());
        }
        while let Some(state) = queue.pop_front() {
            let from = numbers[&state];
            if state.stopper == Stopper::Done {
                ways_out.push(from);
            }
            let mut actions = Vec::new();
            self.actions(&state, &mut actions);
            for next in actions.into_iter().filter_map(|action| self.next_state(&state, action)) {
                let to = *numbers.entry(next).or_insert_with_key(|next| {
                    queue.push_back(next.clone());
                    before.push(Vec::new());
                    before.len() - 1
                });
                before[to].push(from);
            }
        }
        let mut has_way = vec![false; before.len()];
        while let Some(state) = ways_out.pop() {
            if !std::mem::replace(&mut has_way[state], true) {
                ways_out.extend(&before[state]);
            }
        }
        (before.len(), has_way.iter().filter(|has| !**has).count())
    }
}
