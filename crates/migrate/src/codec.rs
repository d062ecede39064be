//! Pages as bytes of a stream, and back.

mod decode;
mod economy;
mod encode;
mod held;
mod ledger;
mod seed;

pub use decode::{DecodeError, Decoder, PageStore};
pub use economy::Economy;
pub use encode::{Encoded, Encoder};
pub use held::Held;
pub use ledger::{Ledger, Tally, hash_content};
pub use seed::{SeedError, Seeded, hash_seeded};
