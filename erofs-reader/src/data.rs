//! The data of inodes.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use crate::areas::Areas;
use crate::corruption::Detail;
use crate::error::Error;
use crate::extent::{Extent, Source};
use crate::inode::Inode;
use crate::mapper::Mapper;
use crate::nid::Area;
use crate::num::{clamp_len, narrow, wide};

/// Reads the data of an inode of any type, including directories and symbolic links.
#[derive(Debug)]
pub(crate) struct Data<'a, A> {
    image: &'a A,
    inode: Inode,
    mapper: Mapper,
    /// The extent that was read from last.
    current: Option<Extent>,
    /// Its bytes, if they had to be decoded.
    decoded: Option<Arc<Vec<u8>>>,
    /// Room for compressed bytes.
    input: Vec<u8>,
    /// The data of the packed inode, once it was needed.
    packed: Option<Box<Data<'a, A>>>,
}

impl<'a, A: Areas> Data<'a, A> {
    pub(crate) fn new(image: &'a A, inode: &Inode) -> Result<Self, Error> {
        Ok(Self {
            image,
            inode: *inode,
            mapper: Mapper::new(image, inode)?,
            current: None,
            decoded: None,
            input: Vec::new(),
            packed: None,
        })
    }

    /// Reads at most `buf.len()` bytes at `offset`; fewer where an extent or the data ends.
    pub(crate) fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize, Error> {
        if offset >= self.inode.size || buf.is_empty() {
            return Ok(0);
        }
        let extent = match self.current {
            Some(extent) if (extent.logical..extent.end()).contains(&offset) => extent,
            _ => self.mapper.at(self.image, offset)?,
        };
        if self.current != Some(extent) {
            self.current = Some(extent);
            self.decoded = None;
        }
        let within = offset.saturating_sub(extent.logical);
        let n = clamp_len(buf.len(), extent.length.saturating_sub(within));
        let buf = buf.get_mut(..n).unwrap_or_default();
        let nid = self.inode.nid;
        match extent.source {
            Source::Hole => buf.fill(0),
            Source::Data { device, offset } => {
                let at = offset.saturating_add(within);
                self.image
                    .storage()
                    .read_device(device, Some(nid), buf, at)?;
            }
            Source::Inline { offset } => {
                let at = offset.saturating_add(within);
                self.image.read_area(self.inode.area(), nid, buf, at)?;
            }
            Source::Compressed { .. } | Source::CompressedInline { .. } => {
                if let Some(decoded) = self.decoded(&extent) {
                    let from = decoded.get(narrow(within)..).unwrap_or_default();
                    if let Some(from) = from.get(..n) {
                        buf.copy_from_slice(from);
                    }
                } else if wide(n) == extent.length {
                    // A read of the whole extent is unlikely to be repeated, so it is not cached.
                    self.decode(&extent, buf)?;
                } else {
                    let mut decoded = vec![0; narrow(extent.length)];
                    self.decode(&extent, &mut decoded)?;
                    let decoded = Arc::new(decoded);
                    self.image
                        .storage()
                        .pclusters
                        .put(nid, extent.logical, &decoded);
                    let from = decoded.get(narrow(within)..).unwrap_or_default();
                    if let Some(from) = from.get(..n) {
                        buf.copy_from_slice(from);
                    }
                    self.decoded = Some(decoded);
                }
            }
            Source::Fragment { offset } => {
                let at = offset.saturating_add(within);
                let packed = match &mut self.packed {
                    Some(packed) => packed,
                    None => {
                        let packed = packed(self.image, &self.inode)?;
                        let data = Data::new(self.image, &packed)?;
                        self.packed.insert(Box::new(data))
                    }
                };
                if packed.read_full_at(buf, at)? < n {
                    let what = Detail::Fragment {
                        start: offset,
                        length: extent.length,
                        size: packed.inode.size,
                    };
                    return Err(self.inode.corrupt(self.inode.position, what));
                }
            }
        }
        Ok(n)
    }

    /// The bytes of a compressed extent, where they were decoded already.
    fn decoded(&mut self, extent: &Extent) -> Option<&[u8]> {
        if self.decoded.is_none() {
            self.decoded = self
                .image
                .storage()
                .pclusters
                .get(self.inode.nid, extent.logical);
        }
        self.decoded.as_ref().map(|bytes| &bytes[..])
    }

    /// Decodes a compressed extent into `output`, which has its length.
    fn decode(&mut self, extent: &Extent, output: &mut [u8]) -> Result<(), Error> {
        let nid = self.inode.nid;
        let (length, algorithm) = match extent.source {
            Source::Compressed {
                length, algorithm, ..
            }
            | Source::CompressedInline {
                length, algorithm, ..
            } => (narrow(length), algorithm),
            _ => return Ok(()),
        };
        match extent.source {
            Source::Compressed { device, offset, .. } => {
                self.image
                    .storage()
                    .check_range(device, Some(nid), offset, wide(length))?;
                self.input.resize(length, 0);
                self.image
                    .storage()
                    .read_device(device, Some(nid), &mut self.input, offset)?;
            }
            Source::CompressedInline { offset, .. } => {
                self.input.resize(length, 0);
                let area = self.inode.area();
                self.image.read_area(area, nid, &mut self.input, offset)?;
            }
            _ => {}
        }
        let padded = self.image.superblock().is_padded();
        self.image.storage().decoders.with(|decoders| {
            decoders.decode(self.inode.place(), algorithm, padded, &self.input, output)
        })
    }

    /// Fills `buf` from `offset`, or returns the number of bytes that exist.
    pub(crate) fn read_full_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize, Error> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let n = self.read_at(rest, offset.saturating_add(wide(done)))?;
            if n == 0 {
                break;
            }
            done = done.saturating_add(n);
        }
        Ok(done)
    }
}

/// Returns the packed inode, which `inode` needs. Reading the packed inode must not need `inode`.
pub(crate) fn packed<A: Areas>(image: &A, inode: &Inode) -> Result<Inode, Error> {
    let sb = image.superblock();
    let nid = sb
        .packed_nid
        .ok_or_else(|| inode.corrupt(inode.position(), Detail::NoSpecialInode))?;
    let in_metabox = nid.area().0 == Area::Metabox;
    let is_metabox = Some(inode.nid()) == sb.metabox_nid;
    if inode.nid() == nid || (is_metabox && in_metabox) {
        return Err(inode.corrupt(inode.position(), Detail::SelfReference));
    }
    Inode::read(image, nid)
}
