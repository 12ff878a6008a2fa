//! The package of `blockbox-init`, the first process of a blockbox guest.
//!
//! The program is built for another target than the host's, by the build script of the crate that
//! embeds it. Because that crate depends on this library, its build script gets the package's
//! folder in `DEP_BLOCKBOX_GUEST_MANIFEST_DIR`.

#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

/// The name of the program.
pub const PROGRAM: &str = "blockbox-init";
