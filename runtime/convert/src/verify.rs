//! Checks the files of images against the checksums recorded when they were made.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use blockbox_store::{Artefacts, Checksum, Meter, Store, atomic};
use ocipull::Digest;

use crate::error::{Error, Result};
use crate::image::{self, CONFIG, DISK, FSMETA, MANIFEST};
use crate::progress::{Progress, phase};

pub use crate::damage::{Damage, Finding, Part};

/// How thoroughly files are checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Depth {
    /// Checks that they exist and have the recorded length: a few system calls for each.
    #[default]
    Lengths,
    /// Reads every byte.
    Contents,
}

/// Checks images. A layer that several images share is read once.
#[derive(Debug)]
pub struct Verifier<'a> {
    store: &'a Store,
    depth: Depth,
    layers: HashMap<PathBuf, Option<Damage>>,
    meter: Meter,
}

impl<'a> Verifier<'a> {
    /// Returns a verifier for the images of `store`.
    pub fn new(store: &'a Store, depth: Depth) -> Self {
        Self {
            store,
            depth,
            layers: HashMap::new(),
            meter: Meter::default(),
        }
    }

    /// Counts the bytes that are read with `meter`.
    #[must_use]
    pub fn meter(mut self, meter: Meter) -> Self {
        self.meter = meter;
        self
    }

    /// Returns how many bytes [`Depth::Contents`] reads to check these images, if none is damaged.
    pub fn bytes<'d>(&self, images: impl IntoIterator<Item = &'d Digest>) -> u64 {
        let mut files = HashSet::new();
        for digest in images {
            let folder = self.store.image(digest);
            files.extend([FSMETA, DISK].map(|name| folder.join(name)));
            let diff_ids = image::folder::layers_of(&folder).into_iter();
            let diff_ids = diff_ids.filter_map(|diff_id| diff_id.parse::<Digest>().ok());
            files.extend(diff_ids.map(|diff_id| self.store.layer(&diff_id)));
        }
        let unread = files.iter().filter(|path| !self.layers.contains_key(*path));
        let lengths = unread.filter_map(|path| fs::metadata(path).ok());
        lengths.map(|found| found.len()).sum()
    }

    /// Checks the image with this manifest digest. If a file has no recorded checksum, as in a
    /// store of an earlier version, [`Depth::Contents`] records it.
    ///
    /// # Errors
    ///
    /// If a file cannot be read. Damage is not an error.
    pub fn image(&mut self, digest: &Digest) -> Result<Vec<Finding>> {
        let folder = self.store.image(digest);
        let recorded = Artefacts::read(&folder)?;
        let mut artefacts = recorded.clone().unwrap_or_default();
        let mut found = Vec::new();

        let manifest =
            self.document(&folder, MANIFEST, Part::Manifest, Some(digest), &mut found)?;
        let manifest = manifest.and_then(|bytes| ocipull::parse_manifest(&bytes).ok());
        let config = manifest.and_then(|manifest| manifest.config().digest().parse().ok());
        let config = self.document(&folder, CONFIG, Part::Config, config.as_ref(), &mut found)?;
        let config = config.and_then(|bytes| ocipull::parse_config(&bytes).ok());

        for (index, diff_id) in config.iter().flat_map(|c| c.diff_ids()).enumerate() {
            let diff_id: Digest = diff_id.parse()?;
            let path = self.store.layer(&diff_id);
            let damage = self.layer(&diff_id)?;
            found.extend(damage.map(|damage| Finding {
                part: Part::Layer(index),
                path: path.clone(),
                damage,
            }));
            let link = folder.join(image::layer_link(index));
            found.extend(link_damage(&path, &link)?.map(|damage| Finding {
                part: Part::Link(index),
                path: link,
                damage,
            }));
        }
        for (name, part) in [(FSMETA, Part::Fsmeta), (DISK, Part::Disk)] {
            let path = folder.join(name);
            let known = artefacts.files.get(name);
            let (damage, new) = check(&path, known, self.depth, &self.meter)?;
            if let Some(new) = new {
                artefacts.files.insert(name.to_owned(), new);
            }
            found.extend(damage.map(|damage| Finding { part, path, damage }));
        }
        if found.is_empty() && recorded.is_none_or(|recorded| recorded != artefacts) {
            artefacts.write(&folder)?;
        }
        Ok(found)
    }

    /// Checks a file that is named by its digest, and returns its bytes if they are correct.
    fn document(
        &self,
        folder: &Path,
        name: &str,
        part: Part,
        digest: Option<&Digest>,
        found: &mut Vec<Finding>,
    ) -> Result<Option<Vec<u8>>> {
        let path = folder.join(name);
        let damage = match atomic::read(&path) {
            Ok(bytes) if digest.is_some_and(|digest| digest.is_of(&bytes)) => {
                return Ok(Some(bytes));
            }
            Ok(_) => Damage::Contents,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Damage::Missing,
            Err(e) => return Err(Error::io(&path)(e)),
        };
        found.push(Finding { part, path, damage });
        Ok(None)
    }

    fn layer(&mut self, diff_id: &Digest) -> Result<Option<Damage>> {
        let path = self.store.layer(diff_id);
        if let Some(damage) = self.layers.get(&path) {
            return Ok(*damage);
        }
        let damage = layer(self.store, diff_id, self.depth, &self.meter)?;
        self.layers.insert(path, damage);
        Ok(damage)
    }
}

/// Checks the image with this manifest digest, as a phase if its contents are read.
pub(crate) fn whole(
    store: &Store,
    digest: &Digest,
    depth: Depth,
    progress: &dyn Progress,
) -> Result<Vec<Finding>> {
    if depth == Depth::Lengths {
        return Verifier::new(store, depth).image(digest);
    }
    let verifier = Verifier::new(store, depth);
    let total = verifier.bytes([digest]);
    phase(
        progress,
        format!("checking {digest}"),
        Some(total),
        |meter| verifier.meter(meter.clone()).image(digest),
    )
}

/// Checks the layer with this diff ID, whichever image has it. If it has no recorded checksum, its
/// length is compared with the disks that contain it, and [`Depth::Contents`] records its checksum.
/// `meter` counts the bytes that are read.
///
/// # Errors
///
/// If the layer cannot be read. Damage is not an error.
pub(crate) fn layer(
    store: &Store,
    diff_id: &Digest,
    depth: Depth,
    meter: &Meter,
) -> Result<Option<Damage>> {
    let known = store.recorded_checksum(diff_id)?;
    let path = store.layer(diff_id);
    if known.is_none()
        && let Ok(meta) = fs::metadata(&path)
        && let Some(expected) = length_in_disks(store, diff_id)?
        && expected != meta.len()
    {
        let found = meta.len();
        return Ok(Some(Damage::Length { expected, found }));
    }
    let (damage, new) = check(&path, known.as_ref(), depth, meter)?;
    if let Some(new) = new {
        store.record_checksum(diff_id, &new)?;
    }
    Ok(damage)
}

/// Compares a file with its checksum. If no checksum is recorded and the contents are read, it is
/// returned.
fn check(
    path: &Path,
    known: Option<&Checksum>,
    depth: Depth,
    meter: &Meter,
) -> Result<(Option<Damage>, Option<Checksum>)> {
    let file = match blockbox_files::open_regular(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((Some(Damage::Missing), None)),
        Err(e) => return Err(Error::io(path)(e)),
    };
    let found = file.metadata().map_err(Error::io(path))?.len();
    if let Some(known) = known
        && known.bytes != found
    {
        let expected = known.bytes;
        return Ok((Some(Damage::Length { expected, found }), None));
    }
    if depth == Depth::Lengths {
        return Ok((None, None));
    }
    let failed = Error::io(path);
    let file = meter.measure(file);
    Ok(match known {
        Some(known) => {
            let same = known.is_of(file).map_err(failed)?;
            ((!same).then_some(Damage::Contents), None)
        }
        None => (None, Some(Checksum::of(file).map_err(failed)?)),
    })
}

/// Checks that an image's link leads to the layer.
fn link_damage(layer: &Path, link: &Path) -> Result<Option<Damage>> {
    let inode = |path: &Path| match fs::metadata(path) {
        Ok(meta) => Ok(Some((meta.dev(), meta.ino()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path)(e)),
    };
    Ok(match (inode(layer)?, inode(link)?) {
        (_, None) => Some(Damage::Missing),
        (Some(layer), Some(link)) if layer != link => Some(Damage::OtherFile),
        _ => None,
    })
}

/// Returns the length of a layer, in bytes, according to the disks that contain it.
fn length_in_disks(store: &Store, diff_id: &Digest) -> Result<Option<u64>> {
    for image in image::list(store)? {
        let folder = store.image(&image);
        let index = image::folder::layers_of(&folder)
            .iter()
            .position(|layer| layer == diff_id.as_str());
        let bytes = index.and_then(|index| {
            let descriptor = atomic::read(&folder.join(DISK)).ok()?;
            let descriptor = vmdk::Descriptor::parse(&descriptor).ok()?;
            let name = image::layer_link(index);
            let mut extents = descriptor.extents().iter();
            let extent = extents.find(|extent| extent.file() == Some(&name))?;
            extent.sectors().checked_mul(vmdk::SECTOR)
        });
        if bytes.is_some() {
            return Ok(bytes);
        }
    }
    Ok(None)
}
