//! The protocol between blockbox on the host and its init in the guest, and constants that both
//! need.
//!
//! It runs over one virtio-console port named [`CONTROL_PORT`], a reliable byte stream. Both
//! directions carry [frames](frame): a fixed header and a bounded payload. The host sends
//! [`Request`]s, the guest answers with [`Reply`]s; commands run concurrently, and each has an id
//! that the host chooses. The first request is [`Request::Boot`] with the guest's settings;
//! [`Reply::Hello`] answers it.
//!
//! Each data stream has its own flow control. A sender may have at most [`WINDOW`] unacknowledged
//! bytes of a stream; the receiver returns credit as its reader consumes bytes. Hence each side can
//! always read what arrives without blocking and with bounded memory: a command whose output is not
//! read cannot block the others, and the two sides cannot deadlock.

#![forbid(unsafe_code)]

mod boot;
mod envelope;
mod exec;
mod files;
pub mod frame;
#[cfg(feature = "network")]
pub mod network;
pub mod relay;
mod reply;
mod request;
pub mod signal;
mod stats;
pub mod user;
mod wire;

pub use boot::{
    Address, Boot, Folder, Host, Identity, MAX_HOSTNAME, Mount, MountSource, Network, Secret,
    Sysctl,
};
pub use envelope::Envelope;
pub use exec::{ExecSpec, ExitStatus, Stream, Ulimit, WindowSize};
pub use files::FileTask;
pub use frame::{Decoder, ProtocolError};
pub use reply::{Reply, encode_output};
pub use request::Request;
pub use stats::{CommandStats, Process, Stats};

/// The version of the protocol, sent in [`Request::Boot`] and [`Reply::Hello`]. Host and init are
/// built together; a difference means that another version of blockbox made the disk.
pub const PROTOCOL_VERSION: u32 = 2;

/// The name of the virtio-console port that carries the protocol (`/sys/class/virtio-ports/*/name`
/// in the guest).
pub const CONTROL_PORT: &str = "blockbox.control";

/// The virtio serial of the read-only disk (`/sys/block/*/serial` in the guest): at most 20 bytes,
/// virtio's limit.
pub const IMAGE_SERIAL: &str = "blockbox-image";

/// The virtio serial of the writable disk.
pub const UPPER_SERIAL: &str = "blockbox-upper";

/// The virtio serial of the read-only disk that holds init in a machine without a writable disk.
pub const INIT_SERIAL: &str = "blockbox-init";

/// The path of init on the writable disk, as in the kernel's `init=`.
pub const INIT_PATH: &str = "/blockbox/init";

/// The folder of the writable disk for init and its mount points.
pub const PRIVATE_DIR: &str = "/blockbox";

/// The overlay's upperdir on the writable disk.
pub const UPPER_DIR: &str = "/upper";

/// The overlay's workdir on the writable disk.
pub const WORK_DIR: &str = "/work";

/// The folder of the writable disk whose folders are mounted in the container as
/// [`MountSource::SandboxDisk`].
pub const DISK_DIR: &str = "/blockbox/disk";

/// The folders that are a tmpfs by default ([`Boot::new`]), and their modes if the image does not
/// have them.
pub const TMPFS_DIRS: [(&str, u32); 2] = [("/tmp", 0o1777), ("/run", 0o755)];

/// The most unacknowledged bytes of one stream.
pub const WINDOW: usize = 256 * 1024;

/// The most bytes of stream data one frame carries.
pub const CHUNK: usize = 32 * 1024;
