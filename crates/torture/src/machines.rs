//! Machine iterations: whole machines and their stores.

mod disk;
mod life;
mod random;

pub(crate) use life::life;
