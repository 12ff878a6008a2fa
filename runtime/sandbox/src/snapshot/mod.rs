//! Snapshots: the writable disk of a sandbox at one moment, and new sandboxes that begin there.
//!
//! A snapshot is a folder in the store with a record and a copy of the disk. The image's layers stay shared: an image that a
//! snapshot needs cannot be removed. A fork is the same without the folder in between.

mod archive;

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use blockbox_convert as convert;
use blockbox_convert::image::Image;
use blockbox_net::Publish;
use blockbox_store::snapshot::Snapshot as Record;
use blockbox_store::{Lock, Spec, Store, UPPER, atomic, remove as remove_tree, sparse, state};

use crate::boot;
use crate::create::{self, check_name, random_id};
use crate::error::{Error, Result};
use crate::events;
use crate::monitor::create_copy;
use crate::sandbox::{Boot, Sandbox};
use crate::upper::Consistency;

/// A snapshot in a store.
#[derive(Clone, Debug)]
pub struct Snapshot {
    store: Store,
    record: Record,
}

/// How to make a sandbox of another one, or of a snapshot.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ForkOptions {
    /// The new sandbox's name; `None` is the beginning of its id.
    pub name: Option<String>,
    /// What the copy of a running sandbox's disk holds.
    pub consistency: Consistency,
    /// Whether the new sandbox is removed when its main command has ended.
    pub remove_on_exit: bool,
    /// What the new sandbox is, where it differs from what the other one was: another command, another machine.
    pub spec: Option<Spec>,
}

impl ForkOptions {
    /// Gives the new sandbox a name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Chooses what the copy of a running sandbox's disk holds.
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    /// Makes the new sandbox with this specification, which was changed from that of the other one.
    pub fn spec(mut self, spec: Spec) -> Self {
        self.spec = Some(spec);
        self
    }

    /// Has the new sandbox removed when its main command has ended.
    pub fn remove_on_exit(mut self, remove: bool) -> Self {
        self.remove_on_exit = remove;
        self
    }
}

impl Sandbox {
    /// Makes a snapshot of the sandbox called `name`. Returns with it how long the guest of a running sandbox had to wait with its
    /// writes.
    ///
    /// # Errors
    ///
    /// [`Error::SnapshotExists`], [`Error::SandboxName`]; those of [`copy_upper`](Self::copy_upper). Nothing is left behind.
    pub fn snapshot(&self, name: &str, consistency: Consistency) -> Result<(Snapshot, Duration)> {
        let store = self.store();
        // Nobody removes the image meanwhile.
        let _access = store.share()?;
        let _claim = claim(store, name)?;
        let spec = self.info()?.spec;
        let image = image(store, &spec)?;
        let mut record = Record::new(random_id()?, name.to_owned(), state::now_ns(), spec);
        record.layers = image
            .layers()
            .iter()
            .map(|layer| layer.diff_id.to_string())
            .collect();
        let mut held = Duration::ZERO;
        atomic::write_folder(&store.snapshot(name), |folder| {
            let path = folder.join(UPPER);
            held = self.copy_upper(&path, consistency)?;
            record.crash = consistency == Consistency::Crash && !held.is_zero();
            let upper = File::open(&path).map_err(Error::io(&path))?;
            record.upper_digest = sparse::digest(&upper).map_err(Error::io(&path))?;
            record.write(folder)?;
            Ok::<_, Error>(())
        })?;
        tracing::info!(?held, "the guest waited with its writes");
        events::note(
            store,
            &record.spec,
            "snapshot",
            &[("snapshot", name.to_owned())],
        );
        let store = store.clone();
        Ok((Snapshot { store, record }, held))
    }

    /// Makes a new sandbox with the same specification and a copy of the disk. It does not run yet.
    ///
    /// # Errors
    ///
    /// [`Error::SandboxName`], [`Error::SandboxExists`]; those of [`copy_upper`](Self::copy_upper). Nothing is left behind.
    pub fn fork(&self, options: &ForkOptions) -> Result<Self> {
        let spec = self.info()?.spec;
        let parent = spec.snapshot.clone();
        let spec = forked(spec, parent, options);
        let copy = |path: PathBuf| self.copy_upper(&path, options.consistency).map(drop);
        let store = self.store();
        let (spec, _lock) = create::create_with(store, &image(store, &spec)?, spec, false, copy)?;
        Ok(Self::new(store.clone(), spec.name))
    }

    /// Gives the sandbox the disk of a snapshot again. What was written since is lost.
    ///
    /// # Errors
    ///
    /// [`Error::SandboxRunning`]; [`Error::SnapshotImage`] where the snapshot is over another image;
    /// [`Error::SnapshotDamaged`].
    pub fn restore(&self, snapshot: &Snapshot) -> Result<()> {
        let (_lock, info) = self.take()?;
        let mut spec = info.spec;
        if spec.image.manifest_digest != snapshot.record.spec.image.manifest_digest {
            return Err(Error::SnapshotImage {
                snapshot: snapshot.record.name.clone(),
                sandbox: spec.name,
            });
        }
        let upper = self.upper();
        atomic::write_file(&upper, |file| snapshot.copy_to(file.as_file()))?;
        spec.upper_size = snapshot.record.spec.upper_size;
        spec.snapshot = Some(snapshot.record.id.clone());
        spec.write(&self.store().sandbox(self.name()))?;
        Ok(())
    }
}

impl Snapshot {
    /// Finds the snapshot whose name, or the unique beginning of whose id, is `name`.
    ///
    /// # Errors
    ///
    /// [`Error::NoSnapshot`].
    pub fn open(store: &Store, name: &str) -> Result<Self> {
        let missing = || Error::NoSnapshot(name.to_owned());
        let found = if check_name(name).is_ok() {
            Record::read(&store.snapshot(name))?
        } else {
            None
        };
        let record = match found {
            Some(record) => record,
            None => {
                let mut by_id = Record::list(store)?
                    .into_iter()
                    .filter(|record| !name.is_empty() && record.id.starts_with(name));
                match (by_id.next(), by_id.next()) {
                    (Some(record), None) => record,
                    _ => return Err(missing()),
                }
            }
        };
        Ok(Self {
            store: store.clone(),
            record,
        })
    }

    /// All snapshots by name.
    ///
    /// # Errors
    ///
    /// When a record cannot be read.
    pub fn list(store: &Store) -> Result<Vec<Self>> {
        let records = Record::list(store)?.into_iter();
        let with_store = |record| Self {
            store: store.clone(),
            record,
        };
        Ok(records.map(with_store).collect())
    }

    /// What the snapshot is.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The bytes that the snapshot's disk takes on the host. Blocks that it shares with others count.
    ///
    /// # Errors
    ///
    /// When the disk is gone.
    pub fn allocated_bytes(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;

        let path = self.upper();
        let meta = std::fs::metadata(&path).map_err(Error::io(&path))?;
        Ok(meta.blocks() * 512)
    }

    /// Makes a sandbox that begins as this snapshot. It does not run yet.
    ///
    /// # Errors
    ///
    /// [`Error::SandboxName`], [`Error::SandboxExists`], [`Error::SnapshotDamaged`]; nothing is left behind.
    pub fn create(&self, options: &ForkOptions) -> Result<Sandbox> {
        self.make(options, false).map(|(sandbox, _lock)| sandbox)
    }

    /// Makes a sandbox that begins as this snapshot and starts to boot it, as [`Builder::launch`](crate::Builder::launch) does.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    pub fn launch(&self, options: &ForkOptions) -> Result<(Sandbox, Boot)> {
        let spec = options.spec.as_ref().unwrap_or(&self.record.spec);
        boot::check(&self.store, &spec.machine)?;
        let secrets = crate::secrets::read(&spec.secrets, &[])?;
        let (sandbox, lock) = self.make(options, true)?;
        let boot = Boot::launch(&sandbox, lock, None, secrets)?;
        Ok((sandbox, boot))
    }

    fn make(&self, options: &ForkOptions, discard: bool) -> Result<(Sandbox, Lock)> {
        let store = &self.store;
        let parent = Some(self.record.id.clone());
        let spec = forked(self.record.spec.clone(), parent, options);
        let copy = |path: PathBuf| self.copy_to(&create_copy(&path)?);
        let image = image(store, &spec)?;
        let (spec, lock) = create::create_with(store, &image, spec, discard, copy)?;
        Ok((Sandbox::new(store.clone(), spec.name), lock))
    }

    /// Removes the snapshot. Sandboxes that began as it stay.
    ///
    /// # Errors
    ///
    /// When its folder cannot be removed.
    pub fn remove(self) -> Result<()> {
        let _access = self.store.share()?;
        Ok(remove_tree(&self.store.snapshot(&self.record.name))?)
    }

    /// Checks the disk against its digest.
    ///
    /// # Errors
    ///
    /// [`Error::SnapshotDamaged`].
    pub fn verify(&self) -> Result<()> {
        let path = self.upper();
        let upper = File::open(&path).map_err(Error::io(&path))?;
        self.check(&upper)
    }

    /// Copies the disk, and checks what was copied.
    fn copy_to(&self, to: &File) -> Result<()> {
        let path = self.upper();
        let upper = File::open(&path).map_err(Error::io(&path))?;
        sparse::copy(&upper, to).map_err(Error::io(&path))?;
        self.check(to)
    }

    fn check(&self, upper: &File) -> Result<()> {
        let found = sparse::digest(upper).map_err(Error::io(self.upper()))?;
        if found == self.record.upper_digest {
            return Ok(());
        }
        Err(Error::SnapshotDamaged(self.record.name.clone()))
    }

    fn upper(&self) -> PathBuf {
        self.store.snapshot(&self.record.name).join(UPPER)
    }
}

/// The specification of a sandbox that another one, or a snapshot, becomes.
fn forked(original: Spec, snapshot: Option<String>, options: &ForkOptions) -> Spec {
    let mut spec = options.spec.clone().unwrap_or_else(|| {
        let mut spec = original;
        // Its host name is its own.
        spec.hostname = None;
        spec
    });
    spec.name = options.name.clone().unwrap_or_default();
    spec.snapshot = snapshot;
    spec.remove_on_exit = options.remove_on_exit;
    // Those of the other sandbox may be taken.
    let publish = std::mem::take(&mut spec.network.publish);
    spec.network.publish = publish.into_iter().map(Publish::at_free_ports).collect();
    spec.forked = true;
    spec
}

/// Takes the name of a snapshot that does not exist.
fn claim(store: &Store, name: &str) -> Result<Lock> {
    check_name(name)?;
    let exists = || Error::SnapshotExists(name.to_owned());
    let lock = store.lock_snapshot(name)?.ok_or_else(exists)?;
    if store.snapshot(name).exists() {
        return Err(exists());
    }
    Ok(lock)
}

/// The image that a specification names.
fn image(store: &Store, spec: &Spec) -> Result<Image> {
    let digest = spec.image.manifest_digest.parse();
    let digest = digest.map_err(convert::Error::from)?;
    let missing = || convert::Error::NoImage(spec.image.asked.clone());
    Ok(Image::open(store, &digest)?.ok_or_else(missing)?)
}
