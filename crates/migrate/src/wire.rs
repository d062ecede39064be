//! What travels between the two sides of a migration; `docs/wire-format.md` is its specification.
//!
//! A connection begins with a [preamble] in each direction and goes on with [frames](frame). On the *control*
//! connection a frame holds one [`Message`]; on a *stream* it holds a [run of pages](pages) or an acknowledgement.
//! Nothing that a peer sends is used before it is checked, and no length of its makes this side allocate more than a
//! frame may have.

pub mod frame;
pub mod message;
pub mod pages;
pub mod preamble;

pub use frame::{Frame, FrameError, Kind};
pub use message::{
    Encoding, Hashes, Message, MessageError, Offer, OfferError, OfferedSlot, Prepared, Refusal, Seed,
    Session, Standing,
};
pub use pages::{Run, RunError};
pub use preamble::{Preamble, PreambleError, Role, VERSIONS};
