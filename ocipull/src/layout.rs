//! OCI image layouts, in a folder or an archive (image-spec, `image-layout.md`).

use std::io::Read;

use crate::names::{self, Name};
use crate::select::is_attestation;
use crate::source::{MAX_MANIFEST, Root, Source, read_verified};
use crate::spec::{Descriptor, ImageIndex, OciLayout};
use crate::tree::{SharedTree, read_json, read_needed};
use crate::{Digest, Document, Error, SourceProblem};

/// The annotation that names an image in a layout.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The annotation with the full name of an image, as containerd and BuildKit write it.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

const KIND: &str = "an OCI image layout";

/// The file that marks a layout.
const FILE: &str = "oci-layout";

#[derive(Debug)]
pub(crate) struct Layout {
    tree: SharedTree,
    tag: Option<String>,
}

impl Layout {
    pub(crate) fn open(tree: SharedTree, tag: Option<String>) -> Result<Self, Error> {
        let marker = read_needed(&*tree, KIND, FILE, Document::Index, MAX_MANIFEST)?;
        // Some tools only touch it, and others do not look at it.
        if marker.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self { tree, tag });
        }
        let version: OciLayout = read_json(&*tree, KIND, FILE, MAX_MANIFEST)?;
        let version = version.image_layout_version;
        if !version.starts_with("1.") {
            let problem = SourceProblem::LayoutVersion(version);
            return Err(Error::InvalidSource {
                path: tree.path().to_owned(),
                problem,
            });
        }
        Ok(Self { tree, tag })
    }
}

/// An entry of `index.json`.
struct Entry<'a> {
    descriptor: &'a Descriptor,
    position: usize,
    names: Vec<String>,
}

impl Layout {
    /// The entries to choose from if no name was given and they are one image.
    fn unnamed<'a>(&self, entries: &'a [Entry<'_>]) -> Result<Vec<&'a Entry<'a>>, Error> {
        let images: Vec<_> = entries.iter().filter(|entry| entry.is_image()).collect();
        let mut names: Vec<_> = images.iter().map(|entry| &entry.names).collect();
        names.dedup();
        let one = same_digest(&images) || (names.len() == 1 && different_platforms(&images));
        if one && !images.is_empty() {
            return Ok(images);
        }
        if images.is_empty() {
            return Err(self.invalid(SourceProblem::NoImages));
        }
        Err(self.no_such_image(&images))
    }

    /// The entries that `tag` names.
    fn named<'a>(&self, entries: &'a [Entry<'_>], tag: &str) -> Result<Vec<&'a Entry<'a>>, Error> {
        let found: Vec<_> = match Name::of(tag) {
            Name::Position(position) => entries.get(position).into_iter().collect(),
            Name::Digest(digest) => entries
                .iter()
                .filter(|entry| entry.descriptor.digest() == digest.as_str())
                .take(1)
                .collect(),
            Name::Text(name) => {
                let names: Vec<_> = entries.iter().map(|entry| entry.names.clone()).collect();
                let found = names::find(&names, name);
                found
                    .into_iter()
                    .map(|position| &entries[position])
                    .collect()
            }
        };
        if found.is_empty() {
            let images: Vec<_> = entries.iter().filter(|entry| entry.is_image()).collect();
            return Err(self.no_such_image(&images));
        }
        if !same_digest(&found) && !different_platforms(&found) {
            return Err(Error::AmbiguousName {
                place: self.tree.path().display().to_string(),
                name: tag.to_owned(),
                available: found
                    .iter()
                    .map(|entry| format!("@{}", entry.position))
                    .collect(),
            });
        }
        Ok(found)
    }

    fn no_such_image(&self, images: &[&Entry<'_>]) -> Error {
        let shown = images
            .iter()
            .map(|entry| names::shown(entry.position, &entry.names));
        let mut available: Vec<_> = shown.flatten().collect();
        available.sort_unstable();
        available.dedup();
        Error::NoSuchImage {
            place: self.tree.path().display().to_string(),
            tag: self.tag.clone(),
            available,
        }
    }

    fn invalid(&self, problem: SourceProblem) -> Error {
        Error::InvalidSource {
            path: self.tree.path().to_owned(),
            problem,
        }
    }
}

impl Source for Layout {
    fn root(&self) -> Result<Root, Error> {
        let index: ImageIndex = read_json(&*self.tree, KIND, "index.json", MAX_MANIFEST)?;
        let entries: Vec<_> = index.manifests.iter().enumerate().map(Entry::of).collect();
        let chosen = match &self.tag {
            Some(tag) => self.named(&entries, tag)?,
            None => self.unnamed(&entries)?,
        };
        let mut chosen: Vec<_> = chosen
            .into_iter()
            .map(|entry| entry.descriptor.clone())
            .collect();
        // An image with several names is one choice.
        chosen.dedup_by(|a, b| a.digest() == b.digest() && a.platform() == b.platform());
        Ok(Root::Choice(chosen))
    }

    fn manifest(&self, descriptor: &Descriptor, digest: &Digest) -> Result<Vec<u8>, Error> {
        let blob = self.blob(digest, descriptor.size())?;
        read_verified(
            blob,
            Document::Manifest,
            digest,
            descriptor.size(),
            MAX_MANIFEST,
        )
    }

    fn blob(&self, digest: &Digest, _size: u64) -> Result<Box<dyn Read + Send>, Error> {
        let name = format!("blobs/{}/{}", digest.algorithm(), digest.hex());
        Ok(self.tree.open(&name)?.0)
    }
}

impl<'a> Entry<'a> {
    fn of((position, descriptor): (usize, &'a Descriptor)) -> Self {
        let names = [REF_NAME, CONTAINERD_NAME]
            .iter()
            .filter_map(|&key| descriptor.annotations().get(key))
            .filter(|name| !name.is_empty())
            .cloned();
        Self {
            names: names.collect(),
            descriptor,
            position,
        }
    }

    /// Whether it is neither an attestation nor another artifact about an image.
    fn is_image(&self) -> bool {
        !is_attestation(self.descriptor) && self.descriptor.artifact_type().is_none()
    }
}

fn same_digest(entries: &[&Entry<'_>]) -> bool {
    let mut digests = entries.iter().map(|entry| entry.descriptor.digest());
    let first = digests.next();
    digests.all(|digest| Some(digest) == first)
}

/// Whether the entries have different platforms: one image for several platforms.
fn different_platforms(entries: &[&Entry<'_>]) -> bool {
    let platforms: Option<Vec<_>> = entries
        .iter()
        .map(|entry| entry.descriptor.platform())
        .collect();
    platforms.is_some_and(|platforms| {
        let mut rest = platforms.as_slice();
        while let [first, others @ ..] = rest {
            if others.contains(first) {
                return false;
            }
            rest = others;
        }
        true
    })
}
