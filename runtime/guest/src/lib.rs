//! The package of `blockbox-init`, the first process of a blockbox guest.
//!
//! The program is another target than the host's, so the crate that embeds it builds it from its
//! build script. A dependency on this library gives that script the package's folder, as
//! `DEP_BLOCKBOX_GUEST_MANIFEST_DIR`.

#![forbid(unsafe_code)]

/// The name of the program.
pub const PROGRAM: &str = "blockbox-init";
