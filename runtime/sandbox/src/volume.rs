//! Named volumes: ext4 disks that outlive the sandboxes that mount them.
//!
//! A sandbox sees the folder `data` of the disk, so that it does not see `lost+found`. Only one
//! sandbox at a time can use a volume: it holds the volume's lock while it runs.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use blockbox_convert::{self as convert, export, populate};
use blockbox_store::spec::{Mount, MountSource};
use blockbox_store::{
    Damaged, Listing, Lock, Meter, Spec, State, Store, atomic, remove as remove_tree, sparse, state,
};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ImageUser, Result};
use crate::name::{check_unused_volume_name, check_volume_name};

/// The default size of a volume, in bytes. It takes space on the host only as it is written.
pub const SIZE: u64 = 16 << 30;

/// How long another process may take to make a volume.
const MAKING: Duration = Duration::from_secs(20);

/// The folder of a volume's disk that sandboxes see.
pub(crate) const DATA: &str = "data";

/// The version of the records that this version writes.
const VERSION: u32 = 1;

const RECORD: &str = "volume.json";
const DISK: &str = "data.ext4";

/// How long another process may hold a volume to read it.
const GLANCE: Duration = Duration::from_secs(2);

/// A volume in a store. This is a name, not a lock.
#[derive(Clone, Debug)]
pub struct Volume {
    store: Store,
    name: String,
}

/// The state of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Info {
    /// Its name.
    pub name: String,
    /// The size of its file system in bytes.
    pub size: u64,
    /// The bytes that it takes on the host.
    pub allocated: u64,
    /// When it was made, in nanoseconds since the epoch.
    pub created_ns: u64,
    /// The path of its ext4 image.
    pub path: PathBuf,
    /// The sandboxes that mount it, running or not.
    pub sandboxes: Vec<String>,
}

/// `volume.json`.
#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    created_ns: u64,
}

impl Volume {
    /// Makes an empty volume of `size` bytes.
    ///
    /// # Errors
    ///
    /// [`Error::VolumeName`], [`Error::VolumeExists`].
    pub fn create(store: &Store, name: &str, size: u64) -> Result<Self> {
        Self::make(store, name, |path| write_disk(path, size, |_, _| Ok(())))
    }

    /// Makes a volume with the contents of a tar archive, which may be compressed with gzip or
    /// zstd. `source` is the archive's name in messages.
    ///
    /// # Errors
    ///
    /// [`Error::VolumeName`], [`Error::VolumeExists`]; if the archive is damaged, or larger than
    /// `size`.
    pub fn import(
        store: &Store,
        name: &str,
        size: u64,
        archive: impl Read + Send + 'static,
        source: &str,
    ) -> Result<Self> {
        Self::make(store, name, |path| {
            write_disk(path, size, |disk, data| {
                populate::tar_into(archive, source, disk, data, path)
            })
        })
    }

    /// Makes a volume from the disk of another, as [`export_disk`](Self::export_disk) writes it,
    /// enlarged to `size` if one is given. `meter` counts the bytes copied.
    ///
    /// # Errors
    ///
    /// [`Error::VolumeName`], [`Error::VolumeExists`]; if `image` is not such a disk, or is larger.
    pub fn import_disk(
        store: &Store,
        name: &str,
        image: &Path,
        size: Option<u64>,
        meter: &Meter,
    ) -> Result<Self> {
        let from = File::open(image).map_err(Error::io(image))?;
        let failed = |source| convert::Error::Ext4 {
            path: image.to_owned(),
            source,
        };
        ext4_writer::Info::read(&from).map_err(failed)?;
        Self::make(store, name, |path| {
            let to = new_file(path)?;
            sparse::copy(&from, &to, meter).map_err(Error::io(path))?;
            ext4_writer::recover(&to).map_err(failed)?;
            let reader = ext4_writer::Reader::open(&to).map_err(failed)?;
            let data = reader.lookup(DATA).map_err(failed)?;
            if !data.is_some_and(|inode| inode.is_dir()) {
                return Err(Error::NotAVolume(image.to_owned()));
            }
            let length = to.metadata().map_err(Error::io(path))?.len();
            if let Some(size) = size.filter(|size| *size != length) {
                ext4_writer::grow(&to, size).map_err(failed)?;
            }
            Ok(atomic::finish(&to, path)?)
        })
    }

    fn make(store: &Store, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        check_unused_volume_name(name)?;
        let exists = || Error::VolumeExists(name.to_owned());
        let _access = store.share()?;
        let folder = store.volume(name);
        let _lock = store.lock_volume(name)?.ok_or_else(exists)?;
        if folder.exists() {
            return Err(exists());
        }
        atomic::write_folder(&folder, |folder| {
            fill(&folder.join(DISK))?;
            let record = Record {
                version: VERSION,
                created_ns: state::now_ns(),
            };
            let path = folder.join(RECORD);
            atomic::write_file(&path, |file| {
                serde_json::to_writer(file, &record)
                    .map_err(|e| blockbox_store::Error::io(&path)(e.into()))
            })?;
            Ok::<_, Error>(())
        })?;
        Ok(Self {
            store: store.clone(),
            name: name.to_owned(),
        })
    }

    /// Opens the volume called `name`.
    ///
    /// # Errors
    ///
    /// [`Error::NoVolume`].
    pub fn open(store: &Store, name: &str) -> Result<Self> {
        let found = check_volume_name(name).is_ok() && store.volume(name).join(RECORD).is_file();
        match found {
            true => Ok(Self {
                store: store.clone(),
                name: name.to_owned(),
            }),
            false => Err(Error::NoVolume(name.to_owned())),
        }
    }

    /// Opens the volume called `name`, or makes it.
    pub(crate) fn open_or_create(store: &Store, name: &str) -> Result<Self> {
        let started = Instant::now();
        loop {
            match Self::open(store, name) {
                Err(Error::NoVolume(_)) => {}
                found => return found,
            }
            match Self::create(store, name, SIZE) {
                // Another process makes it.
                Err(Error::VolumeExists(_)) if started.elapsed() < MAKING => {
                    sleep(Duration::from_millis(5));
                }
                made => return made,
            }
        }
    }

    /// Returns all volumes, by name.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn list(store: &Store) -> Result<Vec<Self>> {
        let folder = store.volumes();
        let names = blockbox_store::names(&folder)?.into_iter();
        let mut names: Vec<_> = names.filter_map(|name| name.into_string().ok()).collect();
        names.sort();
        let found = names.iter().filter_map(|name| Self::open(store, name).ok());
        Ok(found.collect())
    }

    /// Returns the volume's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the path of the volume's ext4 image.
    pub fn path(&self) -> PathBuf {
        self.store.volume(&self.name).join(DISK)
    }

    /// Returns the volume's state, and the sandboxes that use it.
    ///
    /// # Errors
    ///
    /// [`Error::NoVolume`] if it was removed; if a record cannot be read.
    pub fn info(&self) -> Result<Info> {
        use std::os::unix::fs::MetadataExt;

        let path = self.store.volume(&self.name).join(RECORD);
        let bytes = atomic::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::NoVolume(self.name.clone()),
            _ => Error::io(&path)(error),
        })?;
        let record: Record =
            serde_json::from_slice(&bytes).map_err(|source| blockbox_store::Error::Record {
                path: path.clone(),
                source,
            })?;
        if record.version != VERSION {
            let version = record.version;
            return Err(blockbox_store::Error::RecordVersion { path, version }.into());
        }
        let disk = self.path();
        let metadata = fs::metadata(&disk).map_err(|error| match path.exists() {
            true => Error::io(&disk)(error),
            // The volume is being removed.
            false => Error::NoVolume(self.name.clone()),
        })?;
        let path = disk;
        Ok(Info {
            name: self.name.clone(),
            size: metadata.len(),
            allocated: metadata.blocks().saturating_mul(512),
            created_ns: record.created_ns,
            path,
            sandboxes: self.users(&Spec::list(&self.store)?),
        })
    }

    /// Returns the names of those of all `sandboxes` that mount the volume.
    fn users(&self, sandboxes: &Listing<Spec>) -> Vec<String> {
        let mounts = |mount: &Mount| matches!(&mount.source, MountSource::Volume { name, .. } if *name == self.name);
        let users = sandboxes.found.iter();
        users
            .filter(|spec| spec.mounts.iter().any(mounts))
            .map(|spec| spec.name.clone())
            .collect()
    }

    /// Returns an error if a sandbox mounts the volume, or may: its record cannot be read.
    pub(crate) fn check_unused(&self) -> Result<()> {
        let mut sandboxes = Spec::list(&self.store)?;
        let volume = self.name.clone();
        if let Some(sandbox) = self.users(&sandboxes).into_iter().next() {
            return Err(Error::VolumeInUse { volume, sandbox });
        }
        match sandboxes.damaged.pop() {
            Some(damaged) => Err(Error::UseUnknown {
                object: format!("volume {volume:?}"),
                user: ImageUser::Sandbox(damaged.name),
            }),
            None => Ok(()),
        }
    }

    /// Locks the volume, for the sandbox `asking` or for a change. [`Error::VolumeBusy`] names the
    /// sandbox that uses it.
    pub(crate) fn take(&self, asking: Option<&str>) -> Result<Lock> {
        let started = Instant::now();
        loop {
            if let Some(lock) = self.store.lock_volume(&self.name)? {
                return match self.path().is_file() {
                    true => Ok(lock),
                    false => Err(Error::NoVolume(self.name.clone())),
                };
            }
            let holder = self.holder(asking)?;
            if holder.is_some() || started.elapsed() >= GLANCE {
                return Err(Error::VolumeBusy {
                    volume: self.name.clone(),
                    sandbox: holder,
                });
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// Returns the running sandbox that uses the volume.
    fn holder(&self, asking: Option<&str>) -> Result<Option<String>> {
        let running = |name: &String| {
            if asking == Some(name) {
                return false;
            }

            State::read(&self.store.sandbox(name)).is_ok_and(|state| state.status.is_active())
        };
        let users = self.users(&Spec::list(&self.store)?);
        Ok(users.into_iter().find(running))
    }

    /// Removes the volume and its contents.
    ///
    /// # Errors
    ///
    /// [`Error::VolumeInUse`] if a sandbox mounts it, running or not; [`Error::UseUnknown`].
    pub fn remove(self) -> Result<()> {
        let _access = self.store.share()?;
        let _lock = self.take(None)?;
        self.check_unused()?;
        Ok(remove_tree(&self.store.volume(&self.name))?)
    }

    /// Enlarges the volume's file system to `size` bytes.
    ///
    /// # Errors
    ///
    /// [`Error::VolumeBusy`] while a sandbox runs with it; if the new size is not larger.
    pub fn grow(&self, size: u64) -> Result<()> {
        let _lock = self.take(None)?;
        let (file, path) = self.settled()?;
        let failed = |source| convert::Error::Ext4 {
            path: path.clone(),
            source,
        };
        ext4_writer::grow(&file, size).map_err(failed)?;
        file.sync_all().map_err(Error::io(&path))
    }

    /// Writes the volume's files to `out`, as a tar archive.
    ///
    /// # Errors
    ///
    /// [`Error::VolumeBusy`] while a sandbox runs with it.
    pub fn export(&self, out: impl Write) -> Result<()> {
        let _lock = self.take(None)?;
        let (file, path) = self.settled()?;
        Ok(export::folder(&file, &path, DATA.as_bytes(), out)?)
    }

    /// Copies the volume's ext4 image to the new or empty file `to`; holes stay holes. `meter`
    /// counts the bytes copied.
    ///
    /// # Errors
    ///
    /// [`Error::VolumeBusy`] while a sandbox runs with it.
    pub fn export_disk(&self, to: &File, meter: &Meter) -> Result<()> {
        let _lock = self.take(None)?;
        let (file, path) = self.settled()?;
        sparse::copy(&file, to, meter).map_err(Error::copying(path))?;
        Ok(())
    }

    /// Opens the disk after replaying its journal. The lock must be held.
    pub(crate) fn settled(&self) -> Result<(File, PathBuf)> {
        let path = self.path();
        let file = File::options().read(true).write(true).open(&path);
        let file = file.map_err(Error::io(&path))?;
        let failed = |source| convert::Error::Ext4 {
            path: path.clone(),
            source,
        };
        if !ext4_writer::Info::read(&file).map_err(failed)?.clean {
            ext4_writer::recover(&file).map_err(failed)?;
        }
        Ok((file, path))
    }
}

/// Returns the state of all volumes, by name. A volume that is removed meanwhile is left out.
/// Volumes and sandboxes whose record cannot be read are in the list of damaged objects.
///
/// # Errors
///
/// If the store cannot be read.
pub fn infos(store: &Store) -> Result<Listing<Info>> {
    let mut infos = Listing::new(Vec::new(), Spec::list(store)?.damaged);
    for volume in Volume::list(store)? {
        match volume.info() {
            Ok(info) => infos.found.push(info),
            Err(Error::NoVolume(_)) => {}
            Err(Error::Store(error)) if error.is_record() => {
                infos.damaged.push(Damaged::new(volume.name, error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(infos)
}

/// Removes the volumes that no sandbox mounts, and returns their last state. Where the record of a
/// sandbox cannot be read, every volume is kept. Volumes and sandboxes whose record cannot be read
/// are in the list of damaged objects.
///
/// # Errors
///
/// If the store cannot be read or changed.
pub fn prune(store: &Store) -> Result<Listing<Info>> {
    let mut infos = infos(store)?;
    let mut removed = Vec::new();
    for info in std::mem::take(&mut infos.found) {
        let volume = Volume {
            store: store.clone(),
            name: info.name.clone(),
        };
        match volume.remove() {
            Ok(()) => removed.push(info),
            Err(
                Error::VolumeInUse { .. }
                | Error::VolumeBusy { .. }
                | Error::UseUnknown { .. }
                | Error::NoVolume(_),
            ) => {}
            Err(error) => return Err(error),
        }
    }
    infos.found = removed;
    Ok(infos)
}

fn new_file(path: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    let mut options = File::options();
    options.read(true).write(true).create_new(true).mode(0o600);
    options.open(path).map_err(Error::io(path))
}

fn write_disk(
    path: &Path,
    size: u64,
    fill: impl FnOnce(&mut ext4_writer::Builder<&File>, ext4_writer::NodeId) -> convert::Result<()>,
) -> Result<()> {
    let failed = |source| convert::Error::Ext4 {
        path: path.to_owned(),
        source,
    };
    let file = new_file(path)?;
    file.set_len(size).map_err(Error::io(path))?;
    let options = ext4_writer::Options::new(size).uuid(random()?);
    let mut disk = ext4_writer::Builder::new(&file, options).map_err(failed)?;
    let (root, ours) = (disk.root(), ext4_writer::Metadata::new(0o755));
    let data = disk.add_dir(root, DATA.as_bytes(), ours);
    fill(&mut disk, data.map_err(failed)?)?;
    disk.finish().map_err(failed)?;
    let mut file = &file;
    file.rewind().map_err(Error::io(path))?;
    Ok(atomic::finish(file, path)?)
}

/// Returns a random UUID, so that volumes can be distinguished.
fn random() -> Result<[u8; 16]> {
    let path = "/dev/urandom";
    let mut bytes = [0; 16];
    File::open(path)
        .and_then(|mut file| Read::read_exact(&mut file, &mut bytes))
        .map_err(Error::io(path))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_that_need_a_new_volume_at_once_get_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("store")).unwrap();
        for round in 0..4 {
            let name = format!("v{round}");
            std::thread::scope(|scope| {
                let open = || Volume::open_or_create(&store, &name).map(|volume| volume.name);
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
                for thread in threads {
                    assert_eq!(thread.join().unwrap().unwrap(), name);
                }
            });
        }
    }
}
