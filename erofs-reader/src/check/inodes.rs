//! The check of one inode.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use xxhash_rust::xxh32::xxh32;

use super::ranges::{Owner, Ranges};
use super::report::Report;
use crate::areas::Areas;
use crate::corruption::{Detail, Structure};
use crate::data::packed;
use crate::error::Error;
use crate::extent::Source;
use crate::format;
use crate::image::Image;
use crate::inode::Inode;
use crate::mapper::Mapper;
use crate::nid::{Area, Nid};
use crate::num::wide;
use crate::read_at::ReadAt;
use crate::xattr::{Raw, is_known_index};

/// `EROFS_XATTR_FILTER_SEED`.
const FILTER_SEED: u32 = 0x25bb_e08f;

/// Checks inodes one by one, and records the bytes that they claim.
pub(super) struct Inodes<'a, R> {
    image: &'a Image<R>,
    metadata: Ranges,
    /// Data on the primary device: its range and its inode.
    data: Vec<(u64, u64, Nid)>,
    /// Physical clusters on the primary device, likewise.
    clusters: Vec<(u64, u64, Nid)>,
    /// Shared xattrs that were found good.
    shared: BTreeSet<u32>,
    /// Whether to read all data.
    contents: bool,
}

impl<'a, R: ReadAt> Inodes<'a, R> {
    /// `metadata` holds the ranges that are claimed already.
    pub(super) fn new(image: &'a Image<R>, contents: bool, metadata: Ranges) -> Self {
        Self {
            image,
            metadata,
            data: Vec::new(),
            clusters: Vec::new(),
            shared: BTreeSet::new(),
            contents,
        }
    }

    pub(super) fn check(&mut self, inode: &Inode, path: &[u8], report: &mut Report) {
        let nanoseconds = inode.mtime().nanos;
        // Those of a compact inode come from the superblock, which has its own finding.
        if nanoseconds >= 1_000_000_000 && !inode.is_compact() {
            let what = Detail::Nanoseconds(nanoseconds);
            report.warn(Some(inode.nid()), Some(path), inode.position(), what);
        }
        let body_end = match inode.tail() {
            Ok(end) => end,
            Err(e) => return report.error(Some(path), e),
        };
        // Overlapping metadata is not examined further. So each byte is examined at most once, and
        // the check's time is bounded however often inodes share their tables.
        if !self.claim(inode, inode.position(), body_end, path, report) {
            return;
        }
        if let Err(e) = self.check_xattrs(inode, path, report) {
            report.error(Some(path), e);
        }
        if inode.file_type().has_data()
            && let Err(e) = self.check_data(inode, body_end, path, report)
        {
            report.error(Some(path), e);
        }
        if inode.is_symlink()
            && let Err(e) = self.image.read_link(inode)
        {
            report.error(Some(path), e);
        }
    }

    /// Notes that `start..end` is metadata of `inode`; false, with a finding, where it is
    /// another's.
    fn claim(
        &mut self,
        inode: &Inode,
        start: u64,
        end: u64,
        path: &[u8],
        report: &mut Report,
    ) -> bool {
        let owner = Owner::Inode(inode.nid());
        let claimed = self.metadata.claim(inode.area(), start, end, owner);
        if let Err(other) = claimed {
            let what = other.overlapped(start, end);
            report.error(Some(path), inode.corrupt(start, what));
        }
        claimed.is_ok()
    }

    fn check_data(
        &mut self,
        inode: &Inode,
        body_end: u64,
        path: &[u8],
        report: &mut Report,
    ) -> Result<(), Error> {
        if inode.is_file() {
            report.bytes = report.bytes.saturating_add(inode.size());
        }
        let table_end = Mapper::new(self.image, inode)?.end(body_end);
        let area = inode.area();
        let table_length = table_end.saturating_sub(body_end);
        self.image
            .check_area(area, inode.nid(), body_end, table_length)?;
        if !self.claim(inode, body_end, table_end, path, report) {
            return Ok(());
        }
        let mut readable = true;
        for extent in self.image.extents(inode)? {
            let (device, start, length) = match extent.source {
                Source::Hole => continue,
                Source::Data { device, offset } => (device, offset, extent.length),
                Source::Compressed {
                    device,
                    offset,
                    length,
                    ..
                } => (device, offset, length),
                Source::Inline { offset } => {
                    let end = offset.saturating_add(extent.length);
                    self.image
                        .check_area(area, inode.nid(), offset, extent.length)?;
                    // After a table, it is part of the range claimed already.
                    if !inode.is_compressed() {
                        self.claim(inode, offset, end, path, report);
                    }
                    continue;
                }
                Source::CompressedInline { offset, length, .. } => {
                    self.image.check_area(area, inode.nid(), offset, length)?;
                    continue;
                }
                Source::Fragment { offset } => {
                    let packed = packed(self.image, inode)?;
                    let end = offset.checked_add(extent.length);
                    if end.is_none_or(|end| end > packed.size()) {
                        let what = Detail::Fragment {
                            start: offset,
                            length: extent.length,
                            size: packed.size(),
                        };
                        report.error(Some(path), inode.corrupt(inode.position(), what));
                    }
                    continue;
                }
            };
            if self.is_on_missing_device(device, start, length) {
                readable = false;
                continue;
            }
            match self
                .image
                .storage()
                .check_range(device, Some(inode.nid()), start, length)
            {
                Ok(()) if device == 0 => {
                    let place = (start, start.saturating_add(length), inode.nid());
                    self.data.push(place);
                    if matches!(extent.source, Source::Compressed { .. }) {
                        self.clusters.push(place);
                    }
                }
                Ok(()) => {}
                Err(e) => {
                    readable = false;
                    report.error(Some(path), e);
                }
            }
        }
        if self.contents && readable {
            self.read(inode)?;
        }
        Ok(())
    }

    /// Reads all data of `inode` but its holes.
    fn read(&self, inode: &Inode) -> Result<(), Error> {
        let mut data = self.image.data(inode)?;
        let mut buffer = vec![0; 1 << 16];
        for extent in self.image.extents(inode)? {
            let mut offset = extent.logical;
            while extent.source != Source::Hole && offset < extent.end() {
                match data.read_at(&mut buffer, offset)? {
                    0 => break,
                    n => offset = offset.saturating_add(wide(n)),
                }
            }
        }
        Ok(())
    }

    /// Whether bytes lie on a device of the device table that was not given, and is not on the
    /// primary one either.
    fn is_on_missing_device(&self, device: u16, start: u64, length: u64) -> bool {
        let sb = self.image.superblock();
        if device != 0 || self.image.has_devices() {
            return false;
        }
        let unit = sb.block_size.bytes();
        let size = self.image.device_size(0).unwrap_or(0);
        let end = start.saturating_add(length);
        end > size
            && sb.devices.iter().any(|device| {
                let first = device.uniaddr.saturating_mul(unit);
                let last = first.saturating_add(device.blocks.saturating_mul(unit));
                // The whole device is missing: the image is not stitched, rather than truncated.
                first >= size && start >= first && end <= last
            })
    }

    fn check_xattrs(
        &mut self,
        inode: &Inode,
        path: &[u8],
        report: &mut Report,
    ) -> Result<(), Error> {
        let Some(body) = self.image.xattr_body(inode)? else {
            return Ok(());
        };
        for raw in &body.own {
            // All zeros is padding.
            if raw.index != 0 || !raw.name.is_empty() {
                self.check_name(inode, raw, body.filter, path, report)?;
            }
        }
        for id in body.shared {
            // Each inode has its own name filter, but reading all shared names again for each would
            // take quadratic time.
            if self.shared.contains(&id) {
                continue;
            }
            let raw = self.image.shared_xattr_name(inode, id)?;
            self.check_name(inode, &raw, body.filter, path, report)?;
            let (area, start, end) = self.image.shared_xattr_range(inode, id)?;
            let owner = Owner::Structure(Structure::SharedXattr);
            if let Err(other) = self.metadata.claim(area, start, end, owner) {
                let what = other.overlapped(start, end);
                report.error(Some(path), inode.corrupt(start, what));
            }
            self.shared.insert(id);
        }
        Ok(())
    }

    fn check_name(
        &self,
        inode: &Inode,
        raw: &Raw,
        filter: u32,
        path: &[u8],
        report: &mut Report,
    ) -> Result<(), Error> {
        let (index, name) = self.image.base_name(inode, raw)?;
        let mut warn = |what| report.warn(Some(inode.nid()), Some(path), inode.position(), what);
        // The kernel hides the xattr with the digest of an inode's contents.
        if !is_known_index(index) && !self.image.superblock().is_digest(raw.index) {
            warn(Detail::XattrIndex(index));
        }
        let sb = self.image.superblock();
        if sb.has_compat(format::EROFS_FEATURE_COMPAT_XATTR_FILTER) && !sb.filter_disabled() {
            // A bit of 1 says that no name with this hash is there (`erofs_getxattr`).
            let bit = xxh32(&name, FILTER_SEED.wrapping_add(index.into())) & 31;
            if filter & 1_u32.wrapping_shl(bit) != 0 {
                let what = Detail::XattrFilter(name.into());
                report.error(Some(path), inode.corrupt(inode.position(), what));
            }
        }
        Ok(())
    }

    /// Checks that need all metadata to be known.
    pub(super) fn finish(mut self, report: &mut Report) {
        for (start, end, nid) in self.data {
            if let Some(other) = self.metadata.overlapping(Area::Primary, start, end) {
                report.warn(Some(nid), None, start, other.holds_data(start, end));
            }
        }
        // Equal data may be in one cluster. No tool writes clusters that overlap in part
        // (CVE-2024-47736).
        self.clusters.sort_unstable();
        let mut last = (0, 0);
        for &(start, end, nid) in &self.clusters {
            if start != last.0 && start < last.1 {
                report.warn(
                    Some(nid),
                    None,
                    start,
                    Detail::ClusterOverlap { start, end },
                );
            }
            if end > last.1 {
                last = (start, end);
            }
        }
    }
}
