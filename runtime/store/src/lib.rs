//! The content-addressed store: layers by diff ID, images by manifest digest, names that point at
//! images.
//!
//! ```text
//! $BLOCKBOX_HOME/
//!   version                      the version of this arrangement
//!   layers/<diff id>.erofs       one per layer, shared by every image that has it
//!   layers/<diff id>.json        the layer's length and checksum
//!   images/<manifest digest>/    manifest.json config.json fsmeta.erofs disk.vmdk NNN.erofs (hard links to layers)
//!                                artefacts.json: the lengths and checksums of the others
//!   references.json              names → manifest digests
//!   sandboxes/<name>/            sandbox.json state.json upper.ext4 (or init.ext4) log console.log
//!   snapshots/<name>/            snapshot.json upper.ext4
//!   volumes/<name>/              volume.json data.ext4
//!   kernel/                      guest kernels ready to boot
//!   downloads/<registry>/        what came of blobs whose download did not end; empty at rest
//!   locks/                       held while an object is being made; empty at rest
//! ```
//!
//! Objects are made under a temporary name, synced and renamed, so a crash at any instant leaves a
//! store that works, and processes that want the same object wait for each other instead of making
//! it twice. Only the store's owner can enter its folders; layers and what belongs to an image are
//! read-only files.
//!
//! An image's layers are hard links, not links by name or paths out of the folder: the disk then
//! names plain files beside it, which every monitor reads. A layer that is put back is linked again
//! wherever an image has it.

#![forbid(unsafe_code)]

mod access;
mod artefacts;
pub mod atomic;
mod checksum;
mod error;
mod found;
mod listing;
mod lock;
mod meter;
mod permissions;
mod references;
mod salvage;
pub mod snapshot;
pub mod sparse;
pub mod spec;
pub mod state;
mod version;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use ocipull::Digest;

use found::Found;

pub use access::{Exclusive, Shared, remove};
pub use artefacts::Artefacts;
pub use checksum::{Checksum, Hasher};
pub use error::{Error, Result};
pub use listing::{Damaged, Listing};
pub use lock::Lock;
pub use meter::{Meter, Metered};
pub use references::{Reference, References, Repaired};
pub use spec::Spec;
pub use state::{Info, State, Status};

/// The name of a sandbox's writable disk, in the sandbox's folder.
pub const UPPER: &str = "upper.ext4";

/// The name of the boot disk of a sandbox without a writable disk, in the sandbox's folder. It is
/// made at each boot.
pub const INIT_DISK: &str = "init.ext4";

/// The name of a sandbox's console log, in the sandbox's folder.
pub const CONSOLE: &str = "console.log";

/// The folders of a store.
const FOLDERS: [&str; 8] = [
    "layers",
    "images",
    "sandboxes",
    "snapshots",
    "volumes",
    "kernel",
    "downloads",
    "locks",
];

/// A store in a folder.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens the store in `root`, and creates missing folders. A store of an earlier version is
    /// upgraded.
    ///
    /// # Errors
    ///
    /// [`Error::Version`] if a later version of this program wrote the store; [`Error::NotAStore`]
    /// if `root` has other files, and [`Error::Owner`] if it is the store of another user, both of
    /// which stay as they are; [`Error::Io`].
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        let mut found = found::find(&root)?;
        // One process at a time decides what the folder is, and writes the version first: no other
        // process takes a new store for a folder of somebody else.
        let mut _lock = None;
        if found != Found::Version(version::CURRENT) {
            permissions::make_folder(&root)?;
            let folder = File::open(&root).map_err(Error::io(&root))?;
            folder.lock().map_err(Error::io(&root))?;
            _lock = Some(folder);
            found = found::find(&root)?;
            if found == Found::Nothing {
                version::write(&root)?;
            }
        }
        for folder in FOLDERS {
            permissions::make_folder(&root.join(folder))?;
        }
        // Other processes, whose working directory may differ, open the disks by these paths.
        let root = root.canonicalize().map_err(Error::io(&root))?;
        let store = Self { root };
        match found {
            Found::Nothing => {}
            Found::Version(version::CURRENT) => permissions::own(&store)?,
            Found::Version1 | Found::Version(_) => {
                permissions::upgrade(&store)?;
                version::write(store.root())?;
            }
        }
        Ok(store)
    }

    /// As [`open`](Self::open), but does not create a store where there is none: it has no images
    /// and no sandboxes, and nothing can be made in it.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_existing(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        match found::find(&root)? {
            Found::Nothing => Ok(Self {
                root: std::path::absolute(&root).map_err(Error::io(&root))?,
            }),
            Found::Version1 | Found::Version(_) => Self::open(root),
        }
    }

    /// Returns `$BLOCKBOX_HOME`, else `blockbox` in the XDG data folder (`$XDG_DATA_HOME`, else
    /// `~/.local/share`).
    pub fn default_root() -> Option<PathBuf> {
        let var = |name| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        var("BLOCKBOX_HOME").or_else(|| {
            var("XDG_DATA_HOME")
                .filter(|path| path.is_absolute())
                .or_else(|| std::env::home_dir().map(|home| home.join(".local/share")))
                .map(|data| data.join("blockbox"))
        })
    }

    /// Returns the store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the path of the layer with this diff ID, whether it exists or not.
    pub fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.root
            .join("layers")
            .join(format!("{}.erofs", diff_id.hex()))
    }

    /// Returns the path of the checksum of the layer with this diff ID, whether it exists or not.
    pub fn layer_checksum(&self, diff_id: &Digest) -> PathBuf {
        self.layer(diff_id).with_extension("json")
    }

    /// Returns the folder of all layers.
    pub fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// Returns the folder of all images.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Returns the folder of the image with this manifest digest.
    pub fn image(&self, manifest: &Digest) -> PathBuf {
        self.root.join("images").join(manifest.hex())
    }

    /// Returns the folder of the sandbox called `name`.
    pub fn sandbox(&self, name: &str) -> PathBuf {
        self.root.join("sandboxes").join(name)
    }

    /// Returns the folder of all sandboxes.
    pub fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    /// Returns the folder of the snapshot called `name`.
    pub fn snapshot(&self, name: &str) -> PathBuf {
        self.root.join("snapshots").join(name)
    }

    /// Returns the folder of all snapshots.
    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// Returns the folder of the volume called `name`.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.volumes().join(name)
    }

    /// Returns the folder of all volumes.
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// Returns the folder of guest kernels.
    pub fn kernels(&self) -> PathBuf {
        self.root.join("kernel")
    }

    /// Returns the folder of partially downloaded blobs. The holder of [`Exclusive`] may remove it.
    pub fn downloads(&self) -> PathBuf {
        self.root.join("downloads")
    }

    /// Returns the table of the names of images.
    pub fn references(&self) -> References<'_> {
        References::new(self)
    }

    /// Returns the path of the lock of the sandbox `name`.
    pub fn sandbox_lock(&self, name: &str) -> PathBuf {
        self.lock_path(&format!("sandbox-{name}"))
    }

    /// Returns the path of the lock called `name`.
    fn lock_path(&self, name: &str) -> PathBuf {
        self.root.join("locks").join(name)
    }

    /// Waits until no other process makes the layer with this diff ID, and locks it.
    pub fn lock_layer(&self, diff_id: &Digest) -> Result<Lock> {
        Lock::acquire(self.lock_path(&format!("layer-{}", diff_id.hex())))
    }

    /// Waits until no other process makes the image with this manifest digest, and locks it.
    pub fn lock_image(&self, manifest: &Digest) -> Result<Lock> {
        Lock::acquire(self.lock_path(&format!("image-{}", manifest.hex())))
    }

    /// Locks the name of a snapshot; `None` if a snapshot of this name is being made.
    pub fn lock_snapshot(&self, name: &str) -> Result<Option<Lock>> {
        Lock::try_acquire(self.lock_path(&format!("snapshot-{name}")))
    }

    /// Locks the volume `name`; `None` if a sandbox uses it.
    pub fn lock_volume(&self, name: &str) -> Result<Option<Lock>> {
        Lock::try_acquire(self.lock_path(&format!("volume-{name}")))
    }

    /// Locks the sandbox `name`; `None` if it is running.
    pub fn lock_sandbox(&self, name: &str) -> Result<Option<Lock>> {
        Lock::try_acquire(self.sandbox_lock(name))
    }
}

/// Returns the names in a folder of a store; none if it does not exist, as in a store that was not
/// made yet.
///
/// # Errors
///
/// [`Error::Io`].
pub fn names(folder: &Path) -> Result<Vec<OsString>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| Ok(entry.map_err(Error::io(folder))?.file_name()))
            .collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io(folder)(e)),
    }
}
