//! Mounts of a sandbox: checked when it is made, and converted to devices and guest messages when
//! it boots.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use blockbox_convert::image::Image;
use blockbox_store::spec::{Mount, MountSource, Spec};
use blockbox_store::{Lock, Store, atomic, remove as remove_tree};
use blockbox_vmm::guest::{Mount as GuestMount, MountSource as GuestSource};
use blockbox_vmm::{Disk, Share, VmConfig};

use crate::choice;
use crate::error::{Error, Result};
use crate::name::check_unused_volume_name;
use crate::platform;
use crate::volume::{DATA, Volume};

/// The folder in a sandbox's folder that holds links to shared files of the host.
const FILES: &str = "shared";

/// Checks the mounts of a new sandbox, resolves the names in them, and makes missing volumes.
///
/// # Errors
///
/// [`Error::MountTarget`], [`Error::MountSource`]; if an image is missing;
/// [`VmmError::TooManyDevices`](blockbox_vmm::VmmError::TooManyDevices).
pub(crate) fn prepare(store: &Store, spec: &mut Spec) -> Result<()> {
    check_targets(&spec.mounts, &spec.disk_dirs)?;
    for mount in &mut spec.mounts {
        match &mut mount.source {
            MountSource::Bind { path } => *path = host_path(path)?,
            MountSource::Image {
                asked,
                manifest_digest,
                ..
            } if manifest_digest.is_empty() => {
                *manifest_digest = Image::resolve(store, asked)?.to_string();
            }
            MountSource::Volume { name, subpath, .. } => {
                check_subpath(&mount.target, subpath)?;
                if Volume::open(store, name).is_err() {
                    check_unused_volume_name(name)?;
                }
            }
            _ => {}
        }
        if let MountSource::Image { subpath, .. } = &mount.source {
            check_subpath(&mount.target, subpath)?;
        }
    }
    check_devices(spec)?;
    // Done last, so that an error elsewhere leaves no new volume.
    for mount in &spec.mounts {
        if let MountSource::Volume { name, .. } = &mount.source {
            Volume::open_or_create(store, name)?;
        }
    }
    Ok(())
}

/// Checks that a machine can have the devices of this sandbox.
///
/// # Errors
///
/// [`VmmError::TooManyDevices`](blockbox_vmm::VmmError::TooManyDevices).
fn check_devices(spec: &Spec) -> Result<()> {
    // The image, and the writable disk or init's.
    let disks = 2 + usize::from(spec.network.is_connected());
    let devices = disks + device_count(&spec.mounts);
    let arch = platform::arch(&spec.machine);
    Ok(choice::of(&spec.machine).check_devices(arch, devices)?)
}

/// Returns how many devices [`Lowered::new`] makes of these mounts.
fn device_count(mounts: &[Mount]) -> usize {
    let devices: HashSet<_> = mounts
        .iter()
        .filter_map(|mount| match &mount.source {
            MountSource::Tmpfs { .. } => None,
            MountSource::Volume { name, .. } => Some(("volume", name.into(), false)),
            MountSource::Image {
                manifest_digest, ..
            } => Some(("image", manifest_digest.into(), false)),
            MountSource::Bind { path } if path.is_dir() => {
                Some(("folder", path.clone(), mount.read_only))
            }
            // A file is in a folder of its own.
            _ => Some(("file", mount.target.clone().into(), false)),
        })
        .collect();
    devices.len()
}

/// `disk_dirs` are the paths where folders of the writable disk are mounted.
fn check_targets(mounts: &[Mount], disk_dirs: &[String]) -> Result<()> {
    for (index, mount) in mounts.iter().enumerate() {
        let failed = |reason| {
            Err(Error::MountTarget {
                target: mount.target.clone(),
                reason,
            })
        };
        let target = Path::new(&mount.target);
        let climbs = target.components().any(|part| part.as_os_str() == "..");
        if !target.is_absolute() || climbs || mount.target.contains('\0') {
            return failed("not an absolute path without `..`");
        }
        if target.file_name().is_none() {
            return failed("the root is the image's");
        }
        if ["/proc", "/sys", "/dev"].map(Path::new).contains(&target) {
            return failed("the guest has its own there");
        }
        let others = mounts[..index].iter().map(|other| &other.target);
        if others
            .chain(disk_dirs)
            .any(|other| Path::new(other) == target)
        {
            return failed("something else is mounted there already");
        }
    }
    Ok(())
}

fn check_subpath(target: &str, subpath: &str) -> Result<()> {
    let path = Path::new(subpath);
    let climbs = path.components().any(|part| part.as_os_str() == "..");
    match path.is_absolute() || climbs {
        true => Err(Error::MountTarget {
            target: target.to_owned(),
            reason: "its subpath is not a relative path without `..`",
        }),
        false => Ok(()),
    }
}

/// Resolves a path of the host that leads to a folder or a regular file.
fn host_path(path: &Path) -> Result<PathBuf> {
    let found = path.canonicalize();
    let found = found.and_then(|path| Ok((fs::metadata(&path)?, path)));
    let (metadata, found) = found.map_err(|source| Error::MountSource {
        path: path.to_owned(),
        reason: source.to_string(),
    })?;
    match metadata.is_dir() || metadata.is_file() {
        true => Ok(found),
        false => Err(Error::MountSource {
            path: path.to_owned(),
            reason: "neither a folder nor a regular file: only these can be shared".to_owned(),
        }),
    }
}

/// Removes what mounts left in the sandbox's folder after the machine has ended.
pub(crate) fn clean(folder: &Path) {
    // If this fails, the next boot removes it.
    if let Err(error) = remove_tree(&folder.join(FILES)) {
        tracing::debug!("{error}");
    }
}

/// Mounts as devices and guest messages.
#[derive(Debug, Default)]
pub(crate) struct Lowered {
    disks: Vec<Disk>,
    shares: Vec<Share>,
    mounts: Vec<GuestMount>,
    /// Locks that are held while the machine runs.
    pub(crate) locks: Vec<Lock>,
}

impl Lowered {
    /// Converts the mounts of the sandbox in `folder`, and locks its volumes.
    ///
    /// # Errors
    ///
    /// [`Error::VolumeBusy`], [`Error::NoVolume`], [`Error::MountSource`]; if an image is missing.
    pub(crate) fn new(store: &Store, folder: &Path, spec: &Spec) -> Result<Self> {
        let files = folder.join(FILES);
        remove_tree(&files)?;
        let mut lowered = Self::default();
        let mut sorted: Vec<_> = spec.mounts.iter().collect();
        // Parents come before nested mounts.
        sorted.sort_by_key(|mount| Path::new(&mount.target).components().count());
        for mount in sorted {
            let (source, copy) = match &mount.source {
                MountSource::Bind { path } => (lowered.bind(&files, path, mount.read_only)?, false),
                MountSource::Volume {
                    name,
                    subpath,
                    copy,
                } => {
                    let source = lowered.volume(store, spec, name, subpath)?;
                    (source, *copy && !mount.read_only)
                }
                MountSource::Image {
                    asked,
                    manifest_digest,
                    subpath,
                } => (
                    lowered.image(store, asked, manifest_digest, subpath)?,
                    false,
                ),
                MountSource::Tmpfs { size, mode } => {
                    let source = GuestSource::Memory {
                        size: size.unwrap_or(0),
                        mode: mode.unwrap_or(0o1777),
                    };
                    (source, false)
                }
                other => {
                    return Err(Error::MountTarget {
                        target: mount.target.clone(),
                        reason: unknown(other),
                    });
                }
            };
            let mut guest = GuestMount::new(mount.target.as_bytes(), source)
                .read_only(mount.read_only || matches!(mount.source, MountSource::Image { .. }))
                .copy_up(copy);
            if matches!(mount.source, MountSource::Volume { .. }) && !mount.read_only {
                // Freed blocks are returned to the host.
                guest = guest.options("discard");
            }
            lowered.mounts.push(guest);
        }
        Ok(lowered)
    }

    /// Adds the devices to a machine, and the mounts to the guest's boot message.
    pub(crate) fn apply(&mut self, config: &mut VmConfig, boot: &mut blockbox_vmm::guest::Boot) {
        config.disks.append(&mut self.disks);
        config.shares.append(&mut self.shares);
        for mount in &self.mounts {
            // Replaces the default tmpfs.
            boot.mounts.retain(|other| other.target != mount.target);
        }
        boot.mounts.append(&mut self.mounts);
    }

    fn bind(&mut self, files: &Path, path: &Path, read_only: bool) -> Result<GuestSource> {
        let found = host_path(path)?;
        if found != path {
            // The path had no links when the sandbox was made: a guest that shares a folder above
            // it may have added one.
            return Err(Error::MountSource {
                path: path.to_owned(),
                reason: format!("it leads to {} now", found.display()),
            });
        }
        let (folder, name) = match found.is_dir() {
            true => (found, Vec::new()),
            false => {
                let folder = files.join(self.shares.len().to_string());
                share_file(&found, &folder, read_only)?;
                (folder, FILE.as_bytes().to_vec())
            }
        };
        let same = |share: &&Share| share.path == folder && share.read_only == read_only;
        let tag = match self.shares.iter().find(same) {
            Some(share) => share.tag.clone(),
            None => {
                let tag = format!("share{}", self.shares.len());
                let share = Share::new(&tag, folder);
                let share = if read_only { share.read_only() } else { share };
                self.shares.push(share);
                tag
            }
        };
        Ok(GuestSource::Share { tag, path: name })
    }

    fn volume(
        &mut self,
        store: &Store,
        spec: &Spec,
        name: &str,
        subpath: &str,
    ) -> Result<GuestSource> {
        let volume = Volume::open(store, name)?;
        let path = volume.path();
        let serial = match self.disks.iter().find(|disk| disk.path == path) {
            Some(disk) => disk.serial.clone(),
            None => {
                self.locks.push(volume.take(Some(&spec.name))?);
                let serial = format!("volume{}", self.disks.len());
                let disk = Disk::raw(&serial, path);
                let written = |mount: &Mount| {
                    let same = matches!(&mount.source, MountSource::Volume { name: other, .. } if other == name);
                    same && !mount.read_only
                };
                let disk = if spec.mounts.iter().any(written) {
                    disk
                } else {
                    // The guest cannot replay its journal.
                    volume.settled()?;
                    disk.read_only()
                };
                self.disks.push(disk);
                serial
            }
        };
        let path = Path::new(DATA).join(subpath).into_os_string();
        Ok(GuestSource::Disk {
            serial,
            filesystem: "ext4".to_owned(),
            path: path.into_encoded_bytes(),
        })
    }

    fn image(
        &mut self,
        store: &Store,
        asked: &str,
        digest: &str,
        subpath: &str,
    ) -> Result<GuestSource> {
        let digest = digest.parse().map_err(blockbox_convert::Error::from)?;
        let missing = || blockbox_convert::Error::NoImage(asked.to_owned());
        let path = Image::open(store, &digest)?.ok_or_else(missing)?.disk();
        let serial = match self.disks.iter().find(|disk| disk.path == path) {
            Some(disk) => disk.serial.clone(),
            None => {
                let serial = format!("image{}", self.disks.len());
                self.disks.push(Disk::vmdk(&serial, path));
                serial
            }
        };
        Ok(GuestSource::Disk {
            serial,
            filesystem: "erofs".to_owned(),
            path: subpath.as_bytes().to_vec(),
        })
    }
}

/// The name of a shared file in its folder.
const FILE: &str = "file";

/// Makes `folder` with the file `path` only: as a hard link, so that both are the same file and the
/// guest sees no other files. If a link is not possible, across file systems or for another user's
/// file, a read-only file is copied.
fn share_file(path: &Path, folder: &Path, read_only: bool) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    // The guest's users need access, and their ids mean nothing on this host.
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(folder, open).map_err(Error::io(folder))?;
    let to = folder.join(FILE);
    match atomic::link(path, &to) {
        Ok(()) => Ok(()),
        Err(_) if read_only => {
            let copied = fs::copy(path, &to).and_then(|_| File::open(&to)?.sync_all());
            copied.map_err(Error::io(path))
        }
        Err(error) => Err(Error::MountSource {
            path: path.to_owned(),
            reason: format!(
                "a file that is written to cannot be shared by itself from here ({error}): share its folder"
            ),
        }),
    }
}

fn unknown(_: &MountSource) -> &'static str {
    "this version knows no such mount"
}
