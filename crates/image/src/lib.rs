//! Checkpoint images and their store
