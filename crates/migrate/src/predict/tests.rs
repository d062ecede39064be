//! Predictions against guests that are played write by write.

mod coverage;
mod guests;
mod sound;
