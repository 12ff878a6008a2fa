//! Folders that `skopeo copy … dir:DIR` writes: `manifest.json`, and each blob under the digits of
//! its digest.

use std::io::Read;

use crate::source::{MAX_MANIFEST, Root, Source, read_verified};
use crate::spec::Descriptor;
use crate::tree::{SharedTree, read_needed};
use crate::{Digest, Document, Error};

#[derive(Debug)]
pub(crate) struct Directory {
    tree: SharedTree,
}

impl Directory {
    pub(crate) fn new(tree: SharedTree) -> Self {
        Self { tree }
    }
}

impl Source for Directory {
    fn root(&self) -> Result<Root, Error> {
        let kind = "an image directory";
        let bytes = read_needed(
            &*self.tree,
            kind,
            "manifest.json",
            Document::Manifest,
            MAX_MANIFEST,
        )?;
        Ok(Root::Document {
            digest: Digest::sha256(&bytes),
            bytes,
            media_type: None,
        })
    }

    fn manifest(&self, descriptor: &Descriptor, digest: &Digest) -> Result<Vec<u8>, Error> {
        let (file, _) = self.tree.open(&format!("{}.manifest.json", digest.hex()))?;
        let size = descriptor.size();
        read_verified(file, Document::Manifest, digest, size, MAX_MANIFEST)
    }

    fn blob(&self, digest: &Digest, _size: u64) -> Result<Box<dyn Read + Send>, Error> {
        Ok(self.tree.open(digest.hex())?.0)
    }
}
