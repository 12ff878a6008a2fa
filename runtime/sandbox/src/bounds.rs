//! Bounds of a sandbox's machine.

/// The least memory of a guest, in bytes: what the kernel itself needs, and some spare.
pub const LEAST_MEMORY: u64 = 64 << 20;

/// The most memory of a guest, in bytes: QEMU's own CPU model has addresses of 40 bits.
pub const MOST_MEMORY: u64 = 1 << 40;
