//! x

pub mod guest;
pub mod vmm;
