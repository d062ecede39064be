//! Tracking iterations: the tracker on a small VM whose calls fail.

mod board;
mod consumer;
mod crew;
mod engine;
mod kvm;
mod life;
mod shape;

pub(crate) use life::life;
