//! The program `ringmark`.

fn main() {}
