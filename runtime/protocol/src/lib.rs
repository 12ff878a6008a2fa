//! The protocol between blockbox on the host and its init in the guest, and what both need to know of each other.
//!
//! The two talk over one virtio-console port named [`CONTROL_PORT`], a reliable byte stream. Both directions carry
//! [frames](frame): a fixed header and a bounded payload. The host sends [`Request`]s, the guest answers with [`Reply`]s;
//! commands run concurrently, told apart by an id the host chooses.
//!
//! Data streams are flow-controlled one by one. A sender may have at most [`WINDOW`] bytes of a stream on their way;
//! the receiver returns credit as its reader takes bytes. Hence either side can always take what arrives without
//! blocking and without unbounded memory, so a command that nobody reads from cannot stall its neighbours, and the two
//! sides cannot deadlock.

#![forbid(unsafe_code)]

pub mod frame;
mod message;
pub mod user;

pub use frame::{Decoder, ProtocolError};
pub use message::{ExecSpec, ExitStatus, Reply, Request, Stream, WindowSize, encode_output};

/// The version of the protocol, sent in [`Reply::Hello`]. Host and init are built together; a difference means that a
/// disk was made by another blockbox.
pub const PROTOCOL_VERSION: u32 = 1;

/// The name of the virtio-console port that carries the protocol (`/sys/class/virtio-ports/*/name` in the guest).
pub const CONTROL_PORT: &str = "blockbox.control";

/// The virtio serial of the read-only disk (`/sys/block/*/serial` in the guest): at most 20 bytes, virtio's limit.
pub const IMAGE_SERIAL: &str = "blockbox-image";

/// The virtio serial of the writable disk.
pub const UPPER_SERIAL: &str = "blockbox-upper";

/// Where init lives on the writable disk, as the kernel's `init=` names it.
pub const INIT_PATH: &str = "/blockbox/init";

/// The folder of the writable disk that belongs to init: itself and its mount points.
pub const PRIVATE_DIR: &str = "/blockbox";

/// The overlay's upperdir on the writable disk.
pub const UPPER_DIR: &str = "/upper";

/// The overlay's workdir on the writable disk.
pub const WORK_DIR: &str = "/work";

/// Kernel command line parameter that gives the guest its hostname. A parameter with a dot is left alone by the kernel
/// and not passed to init as an argument.
pub const HOSTNAME_PARAMETER: &str = "blockbox.hostname";

/// Kernel command line parameter that names, separated by commas, those of [`TMPFS_DIRS`] that stay folders of the
/// writable disk.
pub const ON_DISK_PARAMETER: &str = "blockbox.on-disk";

/// The folders that are a tmpfs unless [`ON_DISK_PARAMETER`] names them.
pub const TMPFS_DIRS: [&str; 2] = ["/tmp", "/run"];

/// Bytes of one stream that may be on their way before the receiver has returned credit.
pub const WINDOW: usize = 256 * 1024;

/// The most bytes of stream data one frame carries.
pub const CHUNK: usize = 32 * 1024;
