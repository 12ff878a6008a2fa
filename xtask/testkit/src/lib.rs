//! Helpers that the tests of several crates share: oracles, kernel mounts, tree walks, hand-made
//! tars and contents, a registry, a proxy that fails.
//!
//! An *oracle* is a program or a kernel feature from another project that decides whether an image
//! is correct. With `CI=true` a missing oracle fails the test; otherwise the test reports what it
//! skips and returns.

mod contents;
mod denied;
mod faults;
mod mount;
mod node;
mod oracle;
mod registry;
mod tar;
mod walk;

pub use contents::{noise, text};
pub use denied::denied;
pub use faults::{FaultyProxy, transfers};
pub use mount::{Loop, Mount, SmallDisk};
pub use node::Node;
pub use oracle::{kernel_mounts, kernel_version, made, oracle, repository, skip};
pub use registry::Registry;
pub use tar::TarBuilder;
pub use walk::{Difference, Entry, Kind, Walk, digest, unescape_xattrs, walk};
