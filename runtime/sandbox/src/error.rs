//! Errors of this crate.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a sandbox, or of one of its parts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] blockbox_store::Error),
    /// An image does not exist, or its disks could not be made or read.
    #[error(transparent)]
    Convert(#[from] blockbox_convert::Error),
    /// The host has no space for what a sandbox writes to its disk, and the sandbox could not be
    /// paused until there is.
    #[error(
        "the host's disk is full: {} cannot grow, and the last writes to it are lost",
        disk.display()
    )]
    HostDiskFull {
        /// The disk's file.
        disk: PathBuf,
    },
    /// A sandbox or a snapshot needs the image's disks.
    #[error("image {image:?} is used by {user}")]
    ImageInUse {
        /// The image.
        image: String,
        /// One of its users.
        user: ImageUser,
    },
    /// A file of an image is missing or truncated.
    #[error("image {image:?} is damaged")]
    ImageDamaged {
        /// The image.
        image: String,
        /// The error of opening its disk.
        source: Box<blockbox_convert::Error>,
    },
    /// An image or a volume may be in use: the record of a sandbox or a snapshot cannot be read.
    #[error("{object} may be used by {user}, whose record cannot be read")]
    UseUnknown {
        /// The kind and name of the object.
        object: String,
        /// The sandbox or snapshot.
        user: ImageUser,
    },
    /// An image is for another processor or system than a sandbox's machine.
    #[error("image {image:?} is for {platform}, and the sandbox's machine is {machine}")]
    Platform {
        /// The image's name.
        image: String,
        /// The image's platform.
        platform: Box<ocipull::Platform>,
        /// The platform of the machine.
        machine: Box<ocipull::Platform>,
    },
    /// There is no snapshot with this name.
    #[error("no snapshot {0:?}")]
    NoSnapshot(String),
    /// A snapshot of this name exists.
    #[error("there is a snapshot {0:?} already")]
    SnapshotExists(String),
    /// The disk of a snapshot differs from the copy that was made.
    #[error("snapshot {0:?} is damaged: its disk does not have the digest of its record")]
    SnapshotDamaged(String),
    /// The memory of a sandbox cannot be copied.
    #[error("the memory of sandbox {sandbox:?} cannot be saved: {reason}")]
    NoMemory {
        /// The sandbox.
        sandbox: String,
        /// The reason.
        reason: NoMemory,
    },
    /// A machine cannot be kept in the pool.
    #[error("a machine of {image} cannot be kept in the pool: {reason}")]
    NotPooled {
        /// The image.
        image: String,
        /// The reason.
        reason: &'static str,
    },
    /// A snapshot's memory cannot be resumed.
    #[error("the snapshot's memory cannot be used: {0}")]
    SnapshotMemory(String),
    /// A snapshot does not fit a sandbox.
    #[error("snapshot {snapshot:?} and sandbox {sandbox:?} are over different images")]
    SnapshotImage {
        /// The snapshot.
        snapshot: String,
        /// The sandbox.
        sandbox: String,
    },
    /// An archive is not an exported snapshot.
    #[error("not an exported snapshot: {reason}")]
    SnapshotArchive {
        /// The reason.
        reason: String,
    },
    /// There is no sandbox with this name.
    #[error("no sandbox {0:?}")]
    NoSandbox(String),
    /// A sandbox of this name exists.
    #[error("there is a sandbox {0:?} already")]
    SandboxExists(String),
    /// The sandbox was made without a writable disk.
    #[error("sandbox {0:?} has no writable disk: its root is read-only")]
    Diskless(String),
    /// The sandbox is running.
    #[error("sandbox {0:?} is running")]
    SandboxRunning(String),
    /// A sandbox's name is invalid.
    #[error(
        "{0:?} cannot name a sandbox: use letters, digits, `_`, `.` and `-`, at most 63, and no `.` or `-` at the beginning"
    )]
    SandboxName(String),
    /// The sandbox is not running.
    #[error("sandbox {0:?} is not running")]
    NotRunning(String),
    /// The folder of sockets belongs to another user, or other users can access it.
    #[error("{}: not a folder of this user alone (mode 0700)", .0.display())]
    RuntimeFolder(PathBuf),
    /// The sandbox was stopped before it had booted.
    #[error("the sandbox was stopped while it started")]
    Interrupted,
    /// The monitor of a sandbox reports a failure.
    #[error("{0}")]
    Monitor(String),
    /// The gateway of a sandbox's network did not start, or is gone.
    #[error("the sandbox's network: {0}")]
    Gateway(String),
    /// A monitor uses another version of the protocol: another version of blockbox started its
    /// sandbox.
    #[error(
        "sandbox {name:?} was started by another version of blockbox (monitor protocol {theirs}, this is {ours})"
    )]
    MonitorVersion {
        /// The sandbox.
        name: String,
        /// The monitor's version.
        theirs: u32,
        /// This program's version.
        ours: u32,
    },
    /// There is no such file in the sandbox.
    #[error("{}: no such file or directory in the sandbox", .0.display())]
    NoFile(PathBuf),
    /// A component of a path is not a directory.
    #[error("{}: not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// A directory cannot be copied over a file.
    #[error("{}: cannot copy a directory over a file", .0.display())]
    OverFile(PathBuf),
    /// The guest could not copy files.
    #[error("copying in the guest: {0}")]
    Copy(String),
    /// The input of a copy could not be read.
    #[error("cannot read the files to copy")]
    Input(#[source] io::Error),
    /// Files of this host could not be packed or unpacked.
    #[error(transparent)]
    Archive(#[from] blockbox_archive::Error),
    /// A disk of the host cannot be the root of a sandbox.
    #[error("disk {}: {reason}", path.display())]
    RootDisk {
        /// The disk.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// An operation needs an image, and the root of this sandbox is a disk.
    #[error(
        "the root of sandbox {0:?} is a disk and not an image: its files are not read from outside"
    )]
    NotOfImage(String),
    /// A mount point is not valid.
    #[error("cannot mount on {target:?}: {reason}")]
    MountTarget {
        /// The path in the guest.
        target: String,
        /// The reason.
        reason: &'static str,
    },
    /// A path of the host cannot be shared.
    #[error("cannot share {}: {reason}", path.display())]
    MountSource {
        /// The path.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A volume's name is invalid.
    #[error(
        "{0:?} cannot name a volume: use letters, digits, `_`, `.` and `-`, at most 63, and no `.` or `-` at the beginning"
    )]
    VolumeName(String),
    /// There is no volume with this name.
    #[error("no volume {0:?}")]
    NoVolume(String),
    /// A volume of this name exists.
    #[error("there is a volume {0:?} already")]
    VolumeExists(String),
    /// A volume is mounted by sandboxes, running or not.
    #[error("volume {volume:?} is used by sandbox {sandbox:?}")]
    VolumeInUse {
        /// The volume.
        volume: String,
        /// One of the sandboxes.
        sandbox: String,
    },
    /// A running sandbox uses a volume, or an operation changes it.
    #[error("volume {volume:?} is in use{}", by(.sandbox.as_deref()))]
    VolumeBusy {
        /// The volume.
        volume: String,
        /// The running sandbox that uses it.
        sandbox: Option<String>,
    },
    /// A file system does not belong to a volume.
    #[error("{}: not the disk of a volume", .0.display())]
    NotAVolume(PathBuf),
    /// A secret's name is not a file name, or occurs twice.
    #[error(
        "{0:?} cannot name a secret: it is the name of a file in /run/secrets, and there is one of each"
    )]
    SecretName(String),
    /// A secret has no value.
    #[error("secret {secret:?}: {reason}")]
    SecretValue {
        /// The secret's name.
        secret: String,
        /// The reason.
        reason: String,
    },
    /// Neither the image nor the command line names a program.
    #[error("the image has neither Entrypoint nor Cmd")]
    NoCommand,
    /// A host name is invalid, for the kernel or for `/etc/hosts`.
    #[error("{0:?} cannot be a host name: use 1 to {max} letters, digits, `-`, `.` and `_`", max = blockbox_vmm::guest::MAX_HOSTNAME)]
    Hostname(String),
    /// The memory is too small for any guest kernel.
    #[error("{0} bytes of memory are too few for a guest: give it {least} MiB at least", least = crate::bounds::LEAST_MEMORY >> 20)]
    Memory(u64),
    /// The memory is larger than a machine can have.
    #[error("{0} bytes of memory are too many for a guest: give it {most} GiB at most", most = crate::bounds::MOST_MEMORY >> 30)]
    TooMuchMemory(u64),
    /// The CPUs are more than a machine on this host can have.
    #[error("a guest has at most {most} CPUs on this host, not {asked}")]
    Cpus {
        /// The requested number.
        asked: u8,
        /// The largest number.
        most: usize,
    },
    /// A virtual machine could not be started.
    #[error(transparent)]
    Vmm(#[from] blockbox_vmm::VmmError),
    /// The guest failed.
    #[error(transparent)]
    Guest(#[from] blockbox_vmm::guest::GuestError),
}

/// Why the memory of a sandbox cannot be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoMemory {
    /// The sandbox was not made with that option.
    NotForkable,
    /// A mount would be shared by two machines.
    Mount(String),
}

impl fmt::Display for NoMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotForkable => f.write_str("it was not made to be forked"),
            Self::Mount(target) => {
                write!(f, "two machines cannot share what is mounted at {target}")
            }
        }
    }
}

/// A user of an image or a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageUser {
    /// A sandbox of this name.
    Sandbox(String),
    /// A snapshot of this name.
    Snapshot(String),
}

impl fmt::Display for ImageUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sandbox(name) => write!(f, "sandbox {name:?}"),
            Self::Snapshot(name) => write!(f, "snapshot {name:?}"),
        }
    }
}

fn by(sandbox: Option<&str>) -> String {
    sandbox.map_or_else(String::new, |name| format!(" by sandbox {name:?}"))
}

impl Error {
    /// Converts a path in a sandbox for messages.
    pub(crate) fn path(path: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;

        std::ffi::OsStr::from_bytes(path).into()
    }

    pub(crate) fn no_file(path: &[u8]) -> Self {
        Self::NoFile(Self::path(path))
    }

    /// Adds the path that an I/O error is about: `.map_err(Error::io(path))`.
    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| blockbox_store::Error::io(path)(source).into()
    }

    /// As [`io`](Self::io), for copying the file at `path`: what only a writer meets is about the
    /// copy.
    pub(crate) fn copying(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, FileTooLarge, QuotaExceeded, StorageFull};
        move |source| match source.kind() {
            StorageFull | QuotaExceeded | FileTooLarge | BrokenPipe => Self::io("the copy")(source),
            _ => Self::io(path)(source),
        }
    }
}
