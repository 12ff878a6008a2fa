//! OCI image layouts, in a folder or an archive (image-spec, `image-layout.md`).

use std::io::Read;

use oci_spec::image::{Descriptor, ImageIndex, OciLayout};

use crate::source::{MAX_MANIFEST, Root, Source, read_verified};
use crate::tree::{SharedTree, read_json};
use crate::{Digest, Document, Error, SourceProblem};

/// The annotation that names an image in a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// What containerd and BuildKit name an image by, in full.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

const KIND: &str = "an OCI image layout";

#[derive(Debug)]
pub(crate) struct Layout {
    tree: SharedTree,
    tag: Option<String>,
}

impl Layout {
    pub(crate) fn open(tree: SharedTree, tag: Option<String>) -> Result<Self, Error> {
        let version: OciLayout = read_json(&*tree, KIND, "oci-layout", MAX_MANIFEST)?;
        let version = version.image_layout_version();
        if !version.starts_with("1.") {
            let problem = SourceProblem::LayoutVersion(version.clone());
            return Err(Error::InvalidSource {
                path: tree.path().to_owned(),
                problem,
            });
        }
        Ok(Self { tree, tag })
    }
}

impl Source for Layout {
    fn root(&self) -> Result<Root, Error> {
        let index: ImageIndex = read_json(&*self.tree, KIND, "index.json", MAX_MANIFEST)?;
        let images = index.manifests();
        let mut names: Vec<_> = images
            .iter()
            .filter_map(|image| annotation(image, REF_NAME))
            .collect();
        names.sort_unstable();
        names.dedup();
        let chosen: Vec<Descriptor> = match &self.tag {
            Some(tag) => images
                .iter()
                .filter(|image| is_named(image, tag))
                .cloned()
                .collect(),
            // Without names, or with one for all, it is one image for several platforms.
            None if names.len() <= 1 => images.clone(),
            None => Vec::new(),
        };
        if chosen.is_empty() {
            return Err(Error::NoSuchImage {
                place: self.tree.path().display().to_string(),
                tag: self.tag.clone(),
                available: names.into_iter().map(str::to_owned).collect(),
            });
        }
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

fn annotation<'a>(image: &'a Descriptor, key: &str) -> Option<&'a str> {
    Some(image.annotations().as_ref()?.get(key)?.as_str())
}

fn is_named(image: &Descriptor, tag: &str) -> bool {
    [REF_NAME, CONTAINERD_NAME]
        .iter()
        .any(|key| annotation(image, key) == Some(tag))
}
