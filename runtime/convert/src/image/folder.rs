//! The folder of an image in the store: its documents, the links to its layers, the merged metadata
//! and the disk.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use blockbox_store::{Artefacts, Checksum, Store, atomic};
use ocipull::Digest;

use super::{CONFIG, DISK, FSMETA, MANIFEST, layer_link, list};
use crate::damage::{Finding, Part};
use crate::error::{Error, Result};
use crate::progress::{Progress, layers, phase};
use crate::stack;

/// Makes the folder of the image `digest`, whose layers are in the store. If the folder exists,
/// makes the parts again that `damage` names.
pub(crate) fn assemble(
    store: &Store,
    digest: &Digest,
    documents: (&[u8], &[u8]),
    diff_ids: &[Digest],
    damage: &[Finding],
    progress: &dyn Progress,
) -> Result<()> {
    let what = format!("merging {}", layers(diff_ids.len()));
    phase(progress, what, None, |_| {
        assemble_quietly(store, digest, documents, diff_ids, damage)
    })
}

fn assemble_quietly(
    store: &Store,
    digest: &Digest,
    documents: (&[u8], &[u8]),
    diff_ids: &[Digest],
    damage: &[Finding],
) -> Result<()> {
    let _lock = store.lock_image(digest)?;
    let folder = store.image(digest);
    if folder.is_dir() {
        let damaged = |part| damage.iter().any(|finding| finding.part == part);
        return fill(store, &folder, documents, diff_ids, damaged);
    }
    atomic::write_folder(&folder, |folder| {
        fill(store, folder, documents, diff_ids, |_| true)
    })
}

fn fill(
    store: &Store,
    folder: &Path,
    (manifest, config): (&[u8], &[u8]),
    diff_ids: &[Digest],
    wanted: impl Fn(Part) -> bool,
) -> Result<()> {
    for (name, part, bytes) in [
        (MANIFEST, Part::Manifest, manifest),
        (CONFIG, Part::Config, config),
    ] {
        let path = folder.join(name);
        if wanted(part) {
            atomic::write_read_only(&path, |file| {
                file.write_all(bytes).map_err(Error::io(&path))
            })?;
        }
    }
    let mut inputs = Vec::with_capacity(diff_ids.len());
    for (index, diff_id) in diff_ids.iter().enumerate() {
        let path = folder.join(layer_link(index));
        link(&store.layer(diff_id), &path)?;
        let tag = diff_id.hex().to_owned();
        inputs.push(stack::Input { path, tag });
    }
    let mut artefacts = Artefacts::read(folder)?.unwrap_or_default();
    let (fsmeta, disk) = (folder.join(FSMETA), folder.join(DISK));
    // The disk holds fsmeta's length and UUID.
    let merge = wanted(Part::Fsmeta);
    if merge {
        let checksum = stack::write_hashed(&inputs, &fsmeta)?;
        artefacts.files.insert(FSMETA.to_owned(), checksum);
    }
    if merge || wanted(Part::Disk) {
        stack::write_disk(&disk, &fsmeta, &inputs)?;
        let read_only = Permissions::from_mode(0o444);
        let checksum = fs::set_permissions(&disk, read_only)
            .and_then(|()| Checksum::of(File::open(&disk)?))
            .map_err(Error::io(&disk))?;
        artefacts.files.insert(DISK.to_owned(), checksum);
    }
    // This also syncs the folder and its links, unless the folder is new.
    artefacts.write(folder)?;
    // The layers are on stable storage, but their names may not be. They must be before an image
    // refers to them.
    Ok(atomic::sync_folder(&store.layers())?)
}

/// Links `layer` at `link`, unless it is linked there already. The caller syncs the folder.
fn link(layer: &Path, link: &Path) -> Result<()> {
    let inode = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    let to = inode(layer).map_err(Error::io(layer))?;
    match inode(link) {
        Ok(now) if now == to => Ok(()),
        _ => Ok(atomic::link(layer, link)?),
    }
}

/// Returns the diff IDs of an image's layers, lowest first; none if its configuration cannot be
/// read.
pub(crate) fn layers_of(folder: &Path) -> Vec<String> {
    let config = atomic::read(&folder.join(CONFIG)).ok();
    let config = config.and_then(|bytes| ocipull::parse_config(&bytes).ok());
    config.map_or_else(Vec::new, |config| config.diff_ids().to_vec())
}

/// Links the current file of the layer with this diff ID into every image that has the layer.
/// Images that cannot be read are linked when they are repaired.
pub(crate) fn link_again(store: &Store, diff_id: &Digest) -> Result<()> {
    for image in list(store)? {
        let folder = store.image(&image);
        for (index, other) in layers_of(&folder).iter().enumerate() {
            if other == diff_id.as_str() {
                link(&store.layer(diff_id), &folder.join(layer_link(index)))?;
                atomic::sync_folder(&folder)?;
            }
        }
    }
    Ok(())
}
