//! Snapshots: copies of a sandbox's writable disk, from which new sandboxes are made.
//!
//! A snapshot is a folder in the store with a record and a copy of the disk. The image's layers
//! stay shared: an image that a snapshot needs cannot be removed. A fork is the same without a
//! snapshot in between.

mod archive;
mod memory;
pub(crate) mod pool;

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use blockbox_net::Publish;
use blockbox_store::snapshot::{MACHINE, MEMORY, Memory, Snapshot as Record};
use blockbox_store::spec::MountSource;
use blockbox_store::{
    Listing, Lock, Meter, Spec, Store, UPPER, atomic, remove as remove_tree, sparse, state,
};

pub(crate) use self::memory::Saved;
use crate::boot;
use crate::create::{self, random_id};
use crate::error::{Error, NoMemory, Result};
use crate::events;
use crate::files::hold::Consistency;
use crate::launched::Boot;
use crate::monitor::message::{Answer, Ask, Resume};
use crate::name::{check_name, check_unused_name};
use crate::question::{FOR_EVER, ask, unexpected};
use crate::root::{Root, image};
use crate::sandbox::Sandbox;
use crate::upper::create_copy;

/// A snapshot in a store.
#[derive(Clone, Debug)]
pub struct Snapshot {
    store: Store,
    record: Record,
    folder: PathBuf,
    /// Set for an unnamed snapshot, which is removed when its last user is dropped.
    unnamed: Option<Arc<Unnamed>>,
}

#[derive(Debug)]
struct Unnamed {
    /// Removes the folder when dropped.
    _folder: atomic::NewFolder,
    /// Keeps other processes from sweeping up the folder.
    _access: blockbox_store::Shared,
}

/// Options of making a sandbox from another one, or from a snapshot.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ForkOptions {
    /// The new sandbox's name; `None` is the beginning of its id.
    pub name: Option<String>,
    /// The new sandbox's host name; `None` is its name.
    pub hostname: Option<String>,
    /// The consistency of the copy of a running sandbox's disk.
    pub consistency: Consistency,
    /// Whether the new sandbox is removed when its main command has ended.
    pub remove_on_exit: bool,
    /// The specification of the new sandbox, if it differs from the original's: another command,
    /// another machine.
    pub spec: Option<Spec>,
    /// Whether ports are published as specified, instead of on free ports of the host.
    pub keep_ports: bool,
    /// Counts the bytes that are copied.
    pub meter: Meter,
}

impl ForkOptions {
    /// Sets the new sandbox's name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the new sandbox's host name.
    pub fn hostname(mut self, hostname: impl Into<String>) -> Self {
        self.hostname = Some(hostname.into());
        self
    }

    /// Sets the consistency of the copy of a running sandbox's disk.
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    /// Sets the new sandbox's specification, a changed copy of the original's.
    pub fn spec(mut self, spec: Spec) -> Self {
        self.spec = Some(spec);
        self
    }

    /// Sets [`meter`](Self::meter).
    pub fn meter(mut self, meter: Meter) -> Self {
        self.meter = meter;
        self
    }

    /// Sets whether the new sandbox is removed when its main command has ended.
    pub fn remove_on_exit(mut self, remove: bool) -> Self {
        self.remove_on_exit = remove;
        self
    }
}

impl Sandbox {
    /// Makes a snapshot of the sandbox, called `name`; `meter` counts the bytes that are copied.
    /// Also returns how long the guest of a running sandbox could not write.
    ///
    /// # Errors
    ///
    /// [`Error::SnapshotExists`], [`Error::SandboxName`]; those of
    /// [`copy_upper`](Self::copy_upper). Nothing is left behind.
    pub fn snapshot(
        &self,
        name: &str,
        consistency: Consistency,
        meter: &Meter,
    ) -> Result<(Snapshot, Duration)> {
        self.keep(name, |folder, record| {
            let held = self.copy_upper(&folder.join(UPPER), consistency, meter)?;
            record.crash = consistency == Consistency::Crash && !held.is_zero();
            Ok(held)
        })
    }

    /// Makes a snapshot of the running sandbox with its memory, called `name`: new sandboxes resume
    /// from it without a boot. Also returns how long the guest was stopped.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`]; [`Error::NoMemory`]; [`Error::SnapshotExists`],
    /// [`Error::SandboxName`]. Nothing is left behind.
    pub fn snapshot_with_memory(&self, name: &str) -> Result<(Snapshot, Duration)> {
        self.keep(name, |folder, record| self.copy_machine(folder, record))
    }

    /// As [`snapshot_with_memory`](Self::snapshot_with_memory), for an unnamed snapshot of which
    /// sandboxes are made at once. It is removed when it is dropped; sandboxes that run by then
    /// continue.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`]; [`Error::NoMemory`].
    pub fn capture(&self) -> Result<(Snapshot, Duration)> {
        let store = self.store();
        let access = store.share()?;
        let folder = atomic::temporary_folder(&store.snapshots())?;
        let mut record = self.record(String::new())?;
        let held = self.copy_machine(folder.path(), &mut record)?;
        let snapshot = Snapshot {
            store: store.clone(),
            record,
            folder: folder.path().to_owned(),
            unnamed: Some(Arc::new(Unnamed {
                _folder: folder,
                _access: access,
            })),
        };
        Ok((snapshot, held))
    }

    /// Makes a snapshot whose files `fill` writes.
    fn keep(
        &self,
        name: &str,
        fill: impl FnOnce(&Path, &mut Record) -> Result<Duration>,
    ) -> Result<(Snapshot, Duration)> {
        let store = self.store();
        // No other process removes the image meanwhile.
        let _access = store.share()?;
        let _claim = claim(store, name)?;
        let mut record = self.record(name.to_owned())?;
        let mut held = Duration::ZERO;
        let unseen = Meter::default();
        atomic::write_folder(&store.snapshot(name), |folder| {
            held = fill(folder, &mut record)?;
            for name in [UPPER, MEMORY, MACHINE] {
                // The disk of this host writes while the digests are computed.
                if let Ok(file) = File::open(folder.join(name)) {
                    atomic::start_writeback(&file, 0, None);
                }
            }
            record.upper_digest = digest(&folder.join(UPPER), &unseen)?;
            if record.memory.is_some() {
                record.memory = Some(Memory {
                    digest: digest(&folder.join(MEMORY), &unseen)?,
                    machine_digest: digest(&folder.join(MACHINE), &unseen)?,
                });
            }
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
        Ok((Snapshot::new(store, record), held))
    }

    /// Returns a record of the sandbox, without digests.
    fn record(&self, name: String) -> Result<Record> {
        let spec = self.info()?.spec;
        let image = image(self.store(), &spec)?;
        let mut record = Record::new(random_id()?, name, state::now_ns(), spec);
        let layers = image.layers().iter();
        record.layers = layers.map(|layer| layer.diff_id.to_string()).collect();
        Ok(record)
    }

    /// Copies the running machine into the folder of a snapshot.
    fn copy_machine(&self, folder: &Path, record: &mut Record) -> Result<Duration> {
        let connection = self.running()?;
        let failed = |reason| Error::NoMemory {
            sandbox: self.name().to_owned(),
            reason,
        };
        if !record.spec.machine.forkable {
            return Err(failed(NoMemory::NotForkable));
        }
        let mut mounts = record.spec.mounts.iter();
        if let Some(mount) = mounts.find(|mount| !matches!(mount.source, MountSource::Tmpfs { .. }))
        {
            return Err(failed(NoMemory::Mount(mount.target.clone())));
        }
        let (from, to) = (self.upper(), folder.to_owned());
        match ask(&connection, &Ask::Save { from, to }, FOR_EVER)? {
            Answer::Held { held_us } => {
                // The digests are set later.
                record.memory = Some(Memory::default());
                Ok(Duration::from_micros(held_us))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Makes a new sandbox with the same specification and a copy of the disk, without starting it.
    ///
    /// # Errors
    ///
    /// [`Error::SandboxName`], [`Error::SandboxExists`]; those of [`copy_upper`](Self::copy_upper).
    /// Nothing is left behind.
    pub fn fork(&self, options: &ForkOptions) -> Result<Self> {
        self.make_fork(options, false).map(|(fork, _lock)| fork)
    }

    /// As [`fork`](Self::fork), and starts to boot the new sandbox, as
    /// [`Builder::launch`](crate::Builder::launch) does: it is removed if that fails.
    ///
    /// # Errors
    ///
    /// As [`fork`](Self::fork); an error that is known to keep the machine from booting.
    pub fn launch_fork(&self, options: &ForkOptions) -> Result<(Self, Boot)> {
        let spec = self.info()?.spec;
        boot::check(self.store(), &spec.machine)?;
        let secrets = crate::secrets::read(&spec.secrets, &[])?;
        let (fork, lock) = self.make_fork(options, true)?;
        let boot = Boot::launch(&fork, lock, None, secrets, None)?;
        Ok((fork, boot))
    }

    fn make_fork(&self, options: &ForkOptions, discard: bool) -> Result<(Self, Lock)> {
        let spec = self.info()?.spec;
        let parent = spec.snapshot.clone();
        let spec = forked(spec, parent, options);
        let (consistency, meter) = (options.consistency, &options.meter);
        let copy = |path: PathBuf| self.copy_upper(&path, consistency, meter).map(drop);
        let store = self.store();
        let root = Root::Image(Box::new(image(store, &spec)?));
        let (spec, lock) = create::create_with(store, &root, spec, discard, copy)?;
        Ok((Self::new(store.clone(), spec.name), lock))
    }

    /// Replaces the sandbox's disk with a copy of the snapshot's. Later changes are lost. `meter`
    /// counts the bytes that are copied and verified.
    ///
    /// # Errors
    ///
    /// [`Error::SandboxRunning`]; [`Error::Diskless`]; [`Error::SnapshotImage`] if the snapshot is
    /// over another image; [`Error::SnapshotDamaged`].
    pub fn restore(&self, snapshot: &Snapshot, meter: &Meter) -> Result<()> {
        let (_lock, info) = self.take()?;
        let mut spec = info.spec;
        if spec.image.manifest_digest != snapshot.record.spec.image.manifest_digest {
            return Err(Error::SnapshotImage {
                snapshot: snapshot.record.name.clone(),
                sandbox: spec.name,
            });
        }
        if spec.diskless {
            return Err(Error::Diskless(spec.name));
        }
        let upper = self.upper();
        atomic::write_file(&upper, |file| snapshot.copy_to(file.as_file(), meter))?;
        spec.upper_size = snapshot.record.spec.upper_size;
        spec.snapshot = Some(snapshot.record.id.clone());
        spec.write(&self.store().sandbox(self.name()))?;
        Ok(())
    }
}

impl Snapshot {
    /// Opens the snapshot with this name, or with an id that begins with `name` and is the only
    /// such id.
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
                    .found
                    .into_iter()
                    .filter(|record| !name.is_empty() && record.id.starts_with(name));
                match (by_id.next(), by_id.next()) {
                    (Some(record), None) => record,
                    _ => return Err(missing()),
                }
            }
        };
        Ok(Self::new(store, record))
    }

    fn new(store: &Store, record: Record) -> Self {
        Self {
            folder: store.snapshot(&record.name),
            store: store.clone(),
            record,
            unnamed: None,
        }
    }

    /// Returns all snapshots by name.
    ///
    /// # Errors
    ///
    /// If the folder of snapshots cannot be read.
    pub fn list(store: &Store) -> Result<Listing<Self>> {
        Ok(Record::list(store)?.map(|record| Self::new(store, record)))
    }

    /// Removes the snapshot `name`, even if its record is damaged.
    ///
    /// # Errors
    ///
    /// [`Error::NoSnapshot`].
    pub fn discard(store: &Store, name: &str) -> Result<()> {
        match Self::open(store, name) {
            Err(Error::Store(error)) if error.is_record() => {
                let _access = store.share()?;
                Ok(remove_tree(&store.snapshot(name))?)
            }
            opened => opened?.remove(),
        }
    }

    /// Returns the snapshot's record.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Returns the bytes that the snapshot's disk and memory take on the host. Blocks shared with
    /// other files are counted.
    ///
    /// # Errors
    ///
    /// If the disk is gone.
    pub fn allocated_bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        for (path, _) in self.files() {
            let meta = std::fs::metadata(&path).map_err(Error::io(&path))?;
            bytes += meta.blocks() * 512;
        }
        Ok(bytes)
    }

    /// Returns the files of the snapshot, and their digests.
    fn files(&self) -> Vec<(PathBuf, &str)> {
        let mut files = vec![(self.upper(), self.record.upper_digest.as_str())];
        if let Some(memory) = &self.record.memory {
            files.push((self.folder.join(MEMORY), &memory.digest));
            files.push((self.folder.join(MACHINE), &memory.machine_digest));
        }
        files
    }

    /// Makes a sandbox from this snapshot without starting it; when it is started, it boots.
    ///
    /// # Errors
    ///
    /// [`Error::SandboxName`], [`Error::SandboxExists`], [`Error::SnapshotDamaged`]; nothing is
    /// left behind.
    pub fn create(&self, options: &ForkOptions) -> Result<Sandbox> {
        self.make(options, false).map(|(sandbox, _lock)| sandbox)
    }

    /// Makes a sandbox from this snapshot and starts to boot it, as
    /// [`Builder::launch`](crate::Builder::launch) does. If the snapshot has memory that this host
    /// can resume, the sandbox resumes from it instead of booting: with the copied main command or,
    /// if the specification has another one, with its own beside that.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    pub fn launch(&self, options: &ForkOptions) -> Result<(Sandbox, Boot)> {
        let spec = options.spec.as_ref().unwrap_or(&self.record.spec);
        boot::check(&self.store, &spec.machine)?;
        let secrets = crate::secrets::read(&spec.secrets, &[])?;
        let (sandbox, lock) = self.make(options, true)?;
        let resume = self.record.memory.as_ref().map(|_| Resume {
            folder: self.folder.clone(),
            go_on: spec.process == self.record.spec.process,
        });
        let boot = Boot::launch(&sandbox, lock, None, secrets, resume)?;
        Ok((sandbox, boot))
    }

    fn make(&self, options: &ForkOptions, discard: bool) -> Result<(Sandbox, Lock)> {
        let store = &self.store;
        let parent = match &self.unnamed {
            Some(_) => self.record.parent.clone(),
            None => Some(self.record.id.clone()),
        };
        let spec = forked(self.record.spec.clone(), parent, options);
        let copy = |path: PathBuf| {
            let upper = create_copy(&path)?;
            self.copy_to(&upper, &options.meter)?;
            Ok(atomic::finish(&upper, &path)?)
        };
        let root = Root::Image(Box::new(image(store, &spec)?));
        let (spec, lock) = create::create_with(store, &root, spec, discard, copy)?;
        Ok((Sandbox::new(store.clone(), spec.name), lock))
    }

    /// Removes the snapshot. Sandboxes that were made from it are kept.
    ///
    /// # Errors
    ///
    /// If its folder cannot be removed.
    pub fn remove(self) -> Result<()> {
        let _access = self.store.share()?;
        Ok(remove_tree(&self.folder)?)
    }

    /// Checks the disk, and the memory if there is any, against their digests. `meter` counts the
    /// bytes that are read, which are at most [`allocated_bytes`](Self::allocated_bytes) or so.
    ///
    /// # Errors
    ///
    /// [`Error::SnapshotDamaged`].
    pub fn verify(&self, meter: &Meter) -> Result<()> {
        for (path, expected) in self.files() {
            if digest(&path, meter)? != expected {
                return Err(Error::SnapshotDamaged(self.record.name.clone()));
            }
        }
        Ok(())
    }

    /// Copies the disk, and verifies the copy. An unnamed snapshot has no digest, because this
    /// process has just made it.
    fn copy_to(&self, to: &File, meter: &Meter) -> Result<()> {
        let path = self.upper();
        let upper = File::open(&path).map_err(Error::io(&path))?;
        sparse::copy(&upper, to, meter).map_err(Error::copying(&path))?;
        match self.unnamed {
            Some(_) => Ok(()),
            None => self.check(to, meter),
        }
    }

    fn check(&self, upper: &File, meter: &Meter) -> Result<()> {
        let found = sparse::digest(upper, meter).map_err(Error::io(self.upper()))?;
        if found == self.record.upper_digest {
            return Ok(());
        }
        Err(Error::SnapshotDamaged(self.record.name.clone()))
    }

    fn upper(&self) -> PathBuf {
        self.folder.join(UPPER)
    }
}

fn digest(path: &Path, meter: &Meter) -> Result<String> {
    let file = File::open(path).map_err(Error::io(path))?;
    sparse::digest(&file, meter).map_err(Error::io(path))
}

/// Returns the specification of a sandbox made from another one, or from a snapshot.
fn forked(original: Spec, snapshot: Option<String>, options: &ForkOptions) -> Spec {
    let mut spec = options.spec.clone().unwrap_or_else(|| {
        let mut spec = original;
        // The new sandbox has its own host name.
        spec.hostname = None;
        spec
    });
    spec.name = options.name.clone().unwrap_or_default();
    if let Some(hostname) = &options.hostname {
        spec.hostname = Some(hostname.clone());
    }
    spec.snapshot = snapshot;
    spec.remove_on_exit = options.remove_on_exit;
    // The original's ports may be in use.
    if !options.keep_ports {
        let publish = std::mem::take(&mut spec.network.publish);
        spec.network.publish = publish.into_iter().map(Publish::at_free_ports).collect();
    }
    spec.forked = true;
    spec
}

/// Locks the name of a new snapshot.
fn claim(store: &Store, name: &str) -> Result<Lock> {
    check_unused_name(name)?;
    let exists = || Error::SnapshotExists(name.to_owned());
    let lock = store.lock_snapshot(name)?.ok_or_else(exists)?;
    if store.snapshot(name).exists() {
        return Err(exists());
    }
    Ok(lock)
}
