//! Live migration: a virtual machine moves to another host while its guest runs, and at no instant do two guests run.
//!
//! ```text
//!  source                                             destination
//!  Departing ── depart() ─┬─ control ───────────────┬─ receive() ── Arriving, Arrival
//!   Tracker: epochs       │  offer, prepare, commit │   memory, vCPUs without state
//!   Convergence: rounds   ├─ streams ───────────────┤
//!   Encoder, Ledger       │  pages, barriers        │  Decoder, Ledger
//!                         └─ inquiry ───────────────┘
//!                            what became of it?
//! ```
//!
//! # How it goes
//!
//! 1. The source offers its machine; the destination looks whether it can run it, and makes everything that can be made
//!    before a page has come. A refusal costs the guest nothing.
//! 2. [`send::depart`] opens an epoch of the machine's [`Tracker`](ringmark_track::Tracker) and sends it in rounds while
//!    the guest runs: every page first, then what was written meanwhile, until that is small or no longer becomes
//!    smaller. Pages of zeros and of one word cost a few bytes, and whether the others are compressed, or sent as the
//!    difference to what the destination holds, is [measured](codec::Economy) as they travel.
//! 3. The guest is stopped by the tracker's [`Cut`](ringmark_track::Cut), in the one order that there is. The last pages
//!    and the state follow, and a [digest](codec::Ledger) over every page that was sent.
//! 4. The destination compares, puts the state in place, and says that it is prepared; the source commits; the
//!    destination runs the guest. [`handover`] has the rule and why at most one side runs, whatever breaks.
//!
//! How long the guest stands still is a choice. During the first round the guest is measured, and after it the
//! [prediction](predict) says whether the downtime and the total that were asked for can be had and what it would take; it
//! is in the [report] beside the outcome. Where the rounds do not get small enough the vCPUs that write most are slowed down, or
//! the migration is given up, as was [preferred](send::Prefer). And a guest that has left more than expected when it was
//! stopped runs on at once, for another try.
//!
//! Where both sides are processes of one host and user, memory may be [handed over as the file that it is](memory_file): then
//! there are no rounds, and no page is sent.
//!
//! After a cut link [`send::resume`] goes on from what the destination holds, and a destination that has an
//! [old image](receive::Arrival::seeded) of the machine gets what differs.
//!
//! Until it is committed, a migration that fails for whatever reason leaves the guest running at the source with every page
//! of the epoch back in its tracker.
//!
//! The protocol is specified in `docs/wire-format.md`. Nothing that a peer sends is believed: lengths bound nothing but
//! themselves, and a peer that is silent, slow or mad costs bounded time and memory.
//!
//! A monitor implements [`send::Departing`] on one side, and [`receive::Arriving`] and [`receive::Arrival`] on the
//! other; `tests/common/guest.rs` is a small one.

pub mod address;
pub mod codec;
pub mod handover;
pub mod limit;
pub mod link;
pub mod memory_file;
pub mod predict;
pub mod receive;
pub mod report;
pub mod send;
pub mod wire;

pub use address::{Address, AddressError};
pub use link::{Connector, Listener, Tls, TlsFiles};
pub use memory_file::{MemoryFile, MemoryFileError};
pub use wire::{Offer, Refusal, Session};

/// Most connections for the pages of one migration.
pub const MOST_STREAMS: u16 = 16;
