//! The root of a sandbox: an image in the store, or a disk of the host.

use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use blockbox_convert::{self as convert, image::Image};
use blockbox_store::spec::{ImageSource, RootDisk, RootFormat, Spec};
use blockbox_store::{Lock, Store};
use blockbox_vmm::guest::{Mount, MountSource};
use blockbox_vmm::{Disk, DiskFormat, VmConfig, qcow2};
use ocipull::spec::Config;

use crate::error::{Error, Result};

/// The prefix of a disk in place of an image's name.
const PREFIX: &str = "disk:";

/// The command of a disk, which has no configuration.
pub(crate) const SHELL: &str = "/bin/sh";

/// The first bytes of a VMDK: a sparse extent, or a descriptor.
const VMDK: [&[u8]; 2] = [b"KDMV", b"# Disk DescriptorFile"];

/// The size of a sector, in bytes.
const SECTOR: u64 = 512;

/// The disk below a sandbox's writable disk.
#[derive(Clone, Debug)]
pub(crate) enum Root {
    Image(Box<Image>),
    Disk(RootDisk),
}

impl Root {
    /// Returns the root that a specification names.
    ///
    /// # Errors
    ///
    /// If the store does not have the image.
    pub(crate) fn of(store: &Store, spec: &Spec) -> Result<Self> {
        if let Some(disk) = &spec.root_disk {
            return Ok(Self::Disk(disk.clone()));
        }
        let digest = spec.image.manifest_digest.parse();
        let digest = digest.map_err(convert::Error::from)?;
        let missing = || convert::Error::NoImage(spec.image.asked.clone());
        let image = Image::open(store, &digest)?.ok_or_else(missing)?;
        Ok(Self::Image(Box::new(image)))
    }

    /// Returns the image's configuration of its command.
    pub(crate) fn config(&self) -> Option<&Config> {
        match self {
            Self::Image(image) => image.config().config(),
            Self::Disk(_) => None,
        }
    }

    /// Returns the path of the disk that becomes `/dev/vda`.
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Self::Image(image) => image.disk(),
            Self::Disk(disk) => disk.path.clone(),
        }
    }

    /// Checks the length of an image's disk: if a layer is truncated, the guest would read zeros,
    /// because monitors do not check the length of files.
    ///
    /// # Errors
    ///
    /// [`Error::ImageDamaged`], with `name` as the image's.
    pub(crate) fn check(&self, name: &str) -> Result<()> {
        let Self::Image(image) = self else {
            return Ok(());
        };
        let path = image.disk();
        match vmdk::Disk::open(&path) {
            Ok(_) => Ok(()),
            Err(source) => Err(Error::ImageDamaged {
                image: name.to_owned(),
                source: Box::new(convert::Error::Vmdk { path, source }),
            }),
        }
    }

    /// Sets the format of a machine's first disk, if it is not an image's.
    pub(crate) fn describe(&self, config: &mut VmConfig) {
        let (Self::Disk(root), Some(first)) = (self, config.disks.first_mut()) else {
            return;
        };
        let format = match root.format {
            RootFormat::Qcow2 => DiskFormat::Qcow2,
            RootFormat::Vmdk => DiskFormat::Vmdk,
            _ => DiskFormat::Raw,
        };
        let disk = Disk::raw(&first.serial, &root.path).format(format);
        *first = match root.writable {
            true => disk,
            false => disk.read_only(),
        };
    }

    /// Returns the guest's mount of the root.
    pub(crate) fn mount(&self) -> Option<Mount> {
        let Self::Disk(disk) = self else { return None };
        let partition = disk.partition.unwrap_or(0);
        Some(Mount::new("/", MountSource::Root { partition }).read_only(!disk.writable))
    }

    /// Locks the disk until the returned lock is dropped: a writer needs exclusive access.
    ///
    /// # Errors
    ///
    /// [`Error::RootDisk`] if another sandbox has locked it.
    pub(crate) fn hold(&self) -> Result<Option<Held>> {
        let Self::Disk(disk) = self else {
            return Ok(None);
        };
        let failed = |reason: String| Error::RootDisk {
            path: disk.path.clone(),
            reason,
        };
        if disk.path.canonicalize().ok().as_ref() != Some(&disk.path) {
            // A guest that shares the folder above may have added a link.
            return Err(failed("it is missing, or a link now".to_owned()));
        }
        let file = File::options()
            .read(true)
            .write(disk.writable)
            .open(&disk.path)
            .map_err(|error| failed(error.to_string()))?;
        let taken = match disk.writable {
            true => file.try_lock(),
            false => file.try_lock_shared(),
        };
        match taken {
            // The machine's process locks it itself.
            Ok(()) if disk.writable => Ok(None),
            Ok(()) => Ok(Some(Held::Disk(file))),
            Err(TryLockError::WouldBlock) => Err(failed(
                "another sandbox runs with it, and one of the two writes to it".to_owned(),
            )),
            Err(TryLockError::Error(error)) => Err(failed(error.to_string())),
        }
    }
}

/// Returns the image that a specification names.
///
/// # Errors
///
/// [`Error::NotOfImage`] if its root is a disk; if the store does not have the image.
pub(crate) fn image(store: &Store, spec: &Spec) -> Result<Image> {
    match Root::of(store, spec)? {
        Root::Image(image) => Ok(*image),
        Root::Disk(_) => Err(Error::NotOfImage(spec.name.clone())),
    }
}

/// A lock that is held while a machine runs.
#[derive(Debug)]
#[expect(dead_code, reason = "held, not used")]
pub(crate) enum Held {
    Volume(Lock),
    Disk(File),
}

/// Opens the disk that is named in place of an image: `disk:FILE`. `None` if the name is not a
/// disk's.
///
/// # Errors
///
/// [`Error::RootDisk`] if there is no such disk, or its format cannot be trusted.
pub fn find(name: &str) -> Option<Result<RootDisk>> {
    name.strip_prefix(PREFIX).map(|path| open(Path::new(path)))
}

fn open(path: &Path) -> Result<RootDisk> {
    let failed = |reason: &str| Error::RootDisk {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let io = |error: std::io::Error| failed(&error.to_string());
    let found = path.canonicalize().map_err(io)?;
    if found.to_str().is_none() {
        return Err(failed("its path is not UTF-8"));
    }
    let metadata = fs::metadata(&found).map_err(io)?;
    let is_device = metadata.file_type().is_block_device();
    if !metadata.is_file() && !is_device {
        return Err(failed("neither a regular file nor a block device"));
    }
    let mut begin = Vec::new();
    let file = File::open(&found).map_err(io)?;
    file.take(SECTOR).read_to_end(&mut begin).map_err(io)?;
    let extension = found.extension().unwrap_or_default();
    // A guest that writes to a raw disk can make it look like an image that refers to other files
    // of the host. So a format that can refer to files is only accepted if the file's name has that
    // format's extension.
    if VMDK.iter().any(|magic| begin.starts_with(magic)) {
        if extension != "vmdk" {
            return Err(failed(
                "it begins as a VMDK does, and its name does not end in .vmdk",
            ));
        }
        return Ok(RootDisk::new(found, RootFormat::Vmdk));
    }
    if qcow2::is_qcow2(&found)? {
        let is_named = extension == "qcow2" || extension == "qcow";
        if !qcow2::backing_files(&found)?.is_empty() && !is_named {
            return Err(failed(
                "it begins as a qcow2 image on another file does, and its name does not end in .qcow2",
            ));
        }
        return Ok(RootDisk::new(found, RootFormat::Qcow2));
    }
    let length = metadata.len();
    if !is_device && (length == 0 || !length.is_multiple_of(SECTOR)) {
        return Err(failed("not a disk: it is not whole sectors of 512 bytes"));
    }
    Ok(RootDisk::new(found, RootFormat::Raw))
}

/// Returns the image source in the specification of a sandbox with this disk.
pub(crate) fn source(disk: &RootDisk) -> ImageSource {
    let mut source = ImageSource::new(&format!("{PREFIX}{}", disk.path.display()), String::new());
    source.reference = None;
    source
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disks_format_is_detected_only_if_it_can_be_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            find(&format!("disk:{}", path.display())).unwrap()
        };
        let format = |found: Result<RootDisk>| found.map(|disk| disk.format).ok();
        let mut qcow2 = vec![0; 104];
        qcow2[..4].copy_from_slice(b"QFI\xfb");
        qcow2[7] = 3;
        assert_eq!(format(put("any.img", &qcow2)), Some(RootFormat::Qcow2));
        assert_eq!(format(put("a.raw", &[0; 1024])), Some(RootFormat::Raw));
        assert_eq!(format(put("a.vmdk", b"KDMV")), Some(RootFormat::Vmdk));
        // These refer to other files.
        qcow2[15] = 104;
        qcow2[19] = 5;
        qcow2.extend(b"a.raw");
        assert_eq!(format(put("a.qcow2", &qcow2)), Some(RootFormat::Qcow2));
        for (name, bytes) in [
            ("b.raw", &qcow2[..]),
            ("c.raw", b"# Disk DescriptorFile\n"),
            ("empty", b""),
            ("text", b"not a disk\n"),
        ] {
            assert!(
                matches!(put(name, bytes), Err(Error::RootDisk { .. })),
                "{name}"
            );
        }
        assert!(find("debian").is_none());
        assert!(find("disk:/missing").unwrap().is_err());
        assert!(find("disk:/dev/null").unwrap().is_err());
    }
}
