//! The guest init.
fn main() {}
