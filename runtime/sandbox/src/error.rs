//! What can go wrong, in terms a caller can act on.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a sandbox, or of what it is made with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] blockbox_store::Error),
    /// An image is not there, or its disks could not be made or read.
    #[error(transparent)]
    Convert(#[from] blockbox_convert::Error),
    /// A sandbox or a snapshot needs the image's disks.
    #[error("image {image:?} is used by {user}")]
    ImageInUse {
        /// The image.
        image: String,
        /// One of those that use it.
        user: ImageUser,
    },
    /// No snapshot goes by this name.
    #[error("no snapshot {0:?}")]
    NoSnapshot(String),
    /// A snapshot of this name exists.
    #[error("there is a snapshot {0:?} already")]
    SnapshotExists(String),
    /// The disk of a snapshot is not what was copied when it was made.
    #[error("snapshot {0:?} is damaged: its disk does not have the digest of its record")]
    SnapshotDamaged(String),
    /// The memory of a sandbox cannot be copied.
    #[error("the memory of sandbox {sandbox:?} cannot be kept: {reason}")]
    NoMemory {
        /// The sandbox.
        sandbox: String,
        /// Why.
        reason: NoMemory,
    },
    /// A machine cannot wait in the pool.
    #[error("a machine of {image} cannot wait in the pool: {reason}")]
    NotPooled {
        /// The image.
        image: String,
        /// Why.
        reason: &'static str,
    },
    /// The memory of a snapshot cannot be gone on with.
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
    /// What was to be read as an exported snapshot is not one.
    #[error("not an exported snapshot: {reason}")]
    SnapshotArchive {
        /// What is wrong with it.
        reason: String,
    },
    /// No sandbox goes by this name.
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
    /// A sandbox's name cannot be a folder's.
    #[error("{0:?} cannot name a sandbox: use letters, digits, `_`, `.` and `-`")]
    SandboxName(String),
    /// The sandbox is not running.
    #[error("sandbox {0:?} is not running")]
    NotRunning(String),
    /// Other users could reach the folder of sockets, or it is theirs.
    #[error("{}: not a folder of this user alone (mode 0700)", .0.display())]
    RuntimeFolder(PathBuf),
    /// The sandbox was stopped before it was up.
    #[error("the sandbox was stopped while it started")]
    Interrupted,
    /// The monitor of a sandbox reports a failure.
    #[error("{0}")]
    Monitor(String),
    /// The gateway of a sandbox's network did not start, or is gone.
    #[error("the sandbox's network: {0}")]
    Gateway(String),
    /// A monitor speaks another version of the protocol: another blockbox started its sandbox.
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
    /// Something in a path is no directory and would have to be one.
    #[error("{}: not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// A directory cannot be copied to where a file is.
    #[error("{}: cannot copy a directory over a file", .0.display())]
    OverFile(PathBuf),
    /// The guest could not copy files.
    #[error("copying in the guest: {0}")]
    Copy(String),
    /// What is to be copied could not be read.
    #[error("cannot read what is to be copied")]
    Input(#[source] io::Error),
    /// Files of this host could not be packed or unpacked.
    #[error(transparent)]
    Archive(#[from] blockbox_archive::Error),
    /// A disk of the host cannot be the root of a sandbox.
    #[error("disk {}: {reason}", path.display())]
    RootDisk {
        /// The disk.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Something takes an image, and the root of this sandbox is a disk.
    #[error(
        "the root of sandbox {0:?} is a disk and not an image: its files are not read from outside"
    )]
    NotOfImage(String),
    /// Something cannot be mounted where it should.
    #[error("cannot mount on {target:?}: {reason}")]
    MountTarget {
        /// The path in the guest.
        target: String,
        /// Why.
        reason: &'static str,
    },
    /// A path of the host cannot be shared.
    #[error("cannot share {}: {reason}", path.display())]
    MountSource {
        /// The path.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A volume's name cannot be a folder's.
    #[error("{0:?} cannot name a volume: use letters, digits, `_`, `.` and `-`")]
    VolumeName(String),
    /// No volume goes by this name.
    #[error("no volume {0:?}")]
    NoVolume(String),
    /// A volume of this name exists.
    #[error("there is a volume {0:?} already")]
    VolumeExists(String),
    /// Sandboxes mount a volume, running or not.
    #[error("volume {volume:?} is used by sandbox {sandbox:?}")]
    VolumeInUse {
        /// The volume.
        volume: String,
        /// One of the sandboxes.
        sandbox: String,
    },
    /// Another sandbox runs with a volume, or something changes it.
    #[error("volume {volume:?} is in use{}", by(.sandbox.as_deref()))]
    VolumeBusy {
        /// The volume.
        volume: String,
        /// The sandbox that runs with it.
        sandbox: Option<String>,
    },
    /// A file system is not that of a volume.
    #[error("{}: not the disk of a volume", .0.display())]
    NotAVolume(PathBuf),
    /// A secret's name is not that of a file, or there are two of it.
    #[error(
        "{0:?} cannot name a secret: it is the name of a file in /run/secrets, and there is one of each"
    )]
    SecretName(String),
    /// A secret has no value.
    #[error("secret {secret:?}: {reason}")]
    SecretValue {
        /// The secret's name.
        secret: String,
        /// Why.
        reason: String,
    },
    /// Neither the image nor the command line names a program.
    #[error("the image has neither Entrypoint nor Cmd")]
    NoCommand,
    /// The image's `StopSignal` is not a signal of Linux.
    #[error("the image's StopSignal {0:?} is not a signal")]
    StopSignal(String),
    /// The kernel, or a file that names are looked up in, cannot hold this host name.
    #[error("{0:?} cannot be a host name: use 1 to {max} letters, digits, `-`, `.` and `_`", max = blockbox_vmm::guest::MAX_HOSTNAME)]
    Hostname(String),
    /// No guest kernel boots with so little memory.
    #[error("{0} bytes of memory are too few for a guest: give it {least} MiB at least", least = crate::boot::LEAST_MEMORY >> 20)]
    Memory(u64),
    /// No machine has so much memory.
    #[error("{0} bytes of memory are too many for a guest: give it {most} GiB at most", most = crate::boot::MOST_MEMORY >> 30)]
    TooMuchMemory(u64),
    /// No machine of this host has so many CPUs.
    #[error("a guest has at most {most} CPUs on this host, not {asked}")]
    Cpus {
        /// How many were asked for.
        asked: u8,
        /// How many there can be.
        most: usize,
    },
    /// There is no virtual machine to be had.
    #[error(transparent)]
    Vmm(#[from] blockbox_vmm::VmmError),
    /// The guest did not do its part.
    #[error(transparent)]
    Guest(#[from] blockbox_vmm::guest::GuestError),
}

/// Why the memory of a sandbox cannot be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoMemory {
    /// The sandbox was not made for it.
    NotForkable,
    /// What is mounted there would be two machines' at a time.
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

/// What needs an image.
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
    /// A path in a sandbox, for a person.
    pub(crate) fn path(path: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;

        std::ffi::OsStr::from_bytes(path).into()
    }

    pub(crate) fn no_file(path: &[u8]) -> Self {
        Self::NoFile(Self::path(path))
    }

    /// Names the file an I/O error is about: `.map_err(Error::io(path))`.
    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| blockbox_store::Error::io(path)(source).into()
    }
}
