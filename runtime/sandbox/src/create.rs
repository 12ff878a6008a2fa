//! Makes sandboxes: their records and their writable disks.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use blockbox_convert::patch::{self, Patch};
use blockbox_convert::{self as convert, image::Image};
use blockbox_net::MacAddress;
use blockbox_store::spec::{ImageSource, Spec};
use blockbox_store::{Lock, State, Store, UPPER, atomic, state};
use blockbox_vmm::guest::{self, INIT_PATH, PRIVATE_DIR, UPPER_DIR, WORK_DIR};
use erofs_reader::Buffered;

use crate::error::{Error, Result};
use crate::name::{check_unused_name, claim};
use crate::root::{self, Root};
use crate::{events, mounts, platform, secrets};

/// Makes the sandbox that `spec` describes, with its image changed by `patches`; a missing name or
/// id is chosen at random. The caller holds the returned lock. With `discard`, the sandbox is
/// removed when no process holds the lock.
///
/// # Errors
///
/// [`Error::SandboxName`], [`Error::SandboxExists`], [`Error::Platform`]; nothing is left behind.
pub(crate) fn create(
    store: &Store,
    root: &Root,
    spec: Spec,
    patches: &[Patch],
    discard: bool,
) -> Result<(Spec, Lock)> {
    let size = spec.upper_size;
    let init = guest::init(platform::arch(&spec.machine))?;
    if let (Root::Disk(disk), false) = (root, patches.is_empty()) {
        return Err(Error::RootDisk {
            path: disk.path.clone(),
            reason: "patches need an image".to_owned(),
        });
    }
    create_with(store, root, spec, discard, |path| {
        Ok(write_upper(root, path, size, init, patches)?)
    })
}

/// As [`create`], with a writable disk that `upper` makes, if the sandbox has one.
pub(crate) fn create_with(
    store: &Store,
    root: &Root,
    mut spec: Spec,
    discard: bool,
    upper: impl FnOnce(PathBuf) -> Result<()>,
) -> Result<(Spec, Lock)> {
    // Until the record says that the image is used, no other process may remove it.
    let _access = store.share()?;
    spec.id = random_id()?;
    let card = spec.network.is_connected().then(random).transpose()?;
    spec.network.mac_address = card.map(MacAddress::local);
    if spec.name.is_empty() {
        spec.name = spec.short_id().to_owned();
    }
    check_unused_name(&spec.name)?;
    let exists = || Error::SandboxExists(spec.name.clone());
    // A sandbox that was to be removed already does not keep the name.
    if state::reconcile(store, &spec.name)?.is_some() {
        return Err(exists());
    }
    let lock = claim(store, &spec.name)?;
    let folder = store.sandbox(&spec.name);
    match root {
        Root::Image(image) => {
            spec.image = ImageSource::new(&spec.image.asked, image.digest().to_string());
            if let Some((name, _)) = Image::entry(store, &spec.image.asked)? {
                spec.image.reference = Some(name);
            }
            spec.image.platform = Some(platform_of(image));
            platform::check(&spec.image, &spec.machine)?;
        }
        Root::Disk(disk) => {
            spec.image = root::source(disk);
            spec.root_disk = Some(disk.clone());
        }
    }
    spec.created_ns = state::now_ns();
    secrets::check(&spec.secrets)?;
    mounts::prepare(store, &mut spec)?;
    atomic::write_folder(&folder, |folder| {
        if !spec.diskless {
            upper(folder.join(UPPER))?;
        }
        spec.write(folder)?;
        State::created(discard).write(folder)?;
        Ok::<_, Error>(())
    })?;
    events::note(store, &spec, "create", &[]);
    Ok((spec, lock))
}

fn platform_of(image: &Image) -> String {
    let config = image.config();
    let mut platform = format!("{}/{}", config.os(), config.architecture());
    if let Some(variant) = config.variant() {
        platform = format!("{platform}/{variant}");
    }
    platform
}

/// Makes the disk that the guest's kernel boots from: init, and overlayfs's two folders, with the
/// changes of `patches`.
fn write_upper(
    root: &Root,
    path: PathBuf,
    size: u64,
    init: &[u8],
    patches: &[Patch],
) -> convert::Result<()> {
    let failed = |source| convert::Error::Ext4 {
        path: path.clone(),
        source,
    };
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(convert::Error::io(&path))?;
    // If a byte were written at its end instead, the file would take one more block.
    file.set_len(size).map_err(convert::Error::io(&path))?;
    // A sandbox's disk does not grow while it is mounted, and each block that is reserved for that
    // takes one on the host.
    let options = ext4_writer::Options::new(size).reserved_gdt_blocks(0);
    let mut disk = ext4_writer::Builder::new(file, options).map_err(failed)?;
    let ours = ext4_writer::Metadata::new(0o755);
    let name = |path: &'static str| path.trim_start_matches('/').as_bytes();
    let top = disk.root();
    disk.add_dir(top, name(PRIVATE_DIR), ours.clone())
        .map_err(failed)?;
    let (private, name_of_init) = disk
        .make_parents(INIT_PATH.as_bytes(), &ours)
        .map_err(failed)?;
    let size = Some(init.len() as u64);
    disk.add_file(private, name_of_init, ours.clone(), init, size)
        .map_err(failed)?;
    // The root of an overlay has the attributes of its upperdir. For a disk, init sets them,
    // because only init reads the disk.
    if let Root::Image(image) = root {
        let upper = disk
            .add_dir(top, name(UPPER_DIR), root_metadata(image)?)
            .map_err(failed)?;
        if !patches.is_empty() {
            patch::apply(patches, image, &mut disk, upper, &path)?;
        }
    }
    disk.add_dir(top, name(WORK_DIR), ours).map_err(failed)?;
    let (file, _) = disk.finish().map_err(failed)?;
    Ok(atomic::finish(&file, &path)?)
}

/// Returns the attributes of an image's root directory.
fn root_metadata(image: &Image) -> convert::Result<ext4_writer::Metadata> {
    let path = image.fsmeta();
    let failed = |source| convert::Error::Read {
        path: path.clone(),
        source,
    };
    let file = File::open(&path).map_err(convert::Error::io(&path))?;
    let fsmeta = erofs_reader::Image::open(Buffered::new(file)).map_err(failed)?;
    let root = fsmeta.root().map_err(failed)?;
    let (secs, nanos) = root.mtime().into();
    Ok(ext4_writer::Metadata::new(root.mode())
        .owner(root.uid(), root.gid())
        .mtime(ext4_writer::Timestamp { secs, nanos })
        .xattrs(fsmeta.xattrs(&root).map_err(failed)?))
}

/// Returns 64 random hexadecimal digits, like the ids of docker's containers.
pub(crate) fn random_id() -> Result<String> {
    let bytes: [u8; 32] = random()?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let path = "/dev/urandom";
    let mut bytes = [0; N];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(Error::io(path))?;
    Ok(bytes)
}
