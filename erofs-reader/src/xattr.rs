//! Extended attributes.

pub(crate) mod prefix;

use alloc::vec;
use alloc::vec::Vec;

use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use crate::areas::Areas;
use crate::corruption::Detail;
use crate::error::{Error, Unsupported};
use crate::format::{self, XattrEntry, XattrIbodyHeader};
use crate::image::Image;
use crate::inode::Inode;
use crate::nid::Area;
use crate::num::{align_up, narrow, wide};
use crate::read_at::ReadAt;

/// An extended attribute: its full name and its value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// An entry as stored, its name still without prefix.
pub(crate) struct Raw {
    pub(crate) index: u8,
    pub(crate) name: Vec<u8>,
    value: Vec<u8>,
}

/// A decoded xattr area: entries, and the ids of shared ones.
pub(crate) struct XattrBody {
    pub(crate) filter: u32,
    pub(crate) own: Vec<Raw>,
    pub(crate) shared: Vec<u32>,
}

/// Returns the prefix of a name index, or `None` if the kernel hides its xattrs.
fn short_prefix(index: u8) -> Option<&'static [u8]> {
    Some(match index {
        1 => b"user.",
        2 => b"system.posix_acl_access",
        3 => b"system.posix_acl_default",
        4 => b"trusted.",
        6 => b"security.",
        _ => return None,
    })
}

/// Whether the kernel shows xattrs of this name index.
pub(crate) fn is_known_index(index: u8) -> bool {
    short_prefix(index).is_some()
}

impl<R: ReadAt> Image<R> {
    /// Returns the extended attributes of `inode`, with full names: first its own, then those it
    /// shares with other inodes, each in stored order.
    ///
    /// Values are as `getxattr` returns them; ACLs have the format of `system.posix_acl_*` xattrs.
    /// Entries with an unknown name index are skipped, as in the kernel: padding looks like them.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// let inode = image.metadata("/bin/ping")?;
    /// for (name, value) in image.xattrs(&inode)? {
    ///     println!("{}: {} bytes", name.escape_ascii(), value.len());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if the xattr area, a shared xattr or the table of long prefixes is damaged.
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>, Error> {
        let mut found = Vec::new();
        let Some(body) = self.xattr_body(inode)? else {
            return Ok(found);
        };
        let shared = body.shared.iter().map(|&id| self.shared_xattr(inode, id));
        for raw in body.own.into_iter().map(Ok).chain(shared) {
            let raw = raw?;
            if let Some(name) = self.full_name(inode, &raw)? {
                found.push((name, raw.value));
            }
        }
        Ok(found)
    }

    /// The xattr area of `inode`, decoded but for the shared xattrs.
    pub(crate) fn xattr_body(&self, inode: &Inode) -> Result<Option<XattrBody>, Error> {
        if inode.xattr_size == 0 {
            return Ok(None);
        }
        if inode.xattr_size == wide(size_of::<XattrIbodyHeader>()) {
            return Err(Error::unsupported(inode.nid, Unsupported::EmptyXattrArea));
        }
        let start = inode.position.saturating_add(inode.inode_size);
        let area = inode.xattr_area(self)?;
        let corrupt = |what| inode.corrupt(start, what);
        let bad_count = |shared| {
            corrupt(Detail::SharedXattrCount {
                shared,
                area: inode.xattr_size,
            })
        };
        let (header, rest) = XattrIbodyHeader::read_from_prefix(&area).map_err(|_| bad_count(0))?;
        let count = header.h_shared_count;
        let (ids, mut rest) = <[U32]>::ref_from_prefix_with_elems(rest, count.into())
            .map_err(|_| bad_count(count))?;
        let mut own = Vec::new();
        while !rest.is_empty() {
            let (raw, length) = parse_entry(rest).map_err(|length| corrupt(length.beyond(rest)))?;
            own.push(raw);
            rest = rest.get(length..).unwrap_or_default();
        }
        Ok(Some(XattrBody {
            filter: header.h_name_filter.get(),
            own,
            shared: ids.iter().map(|id| id.get()).collect(),
        }))
    }

    /// Where shared xattr `id` lies, and how many bytes it takes; they exist.
    fn locate_shared(&self, inode: &Inode, id: u32) -> Result<(Area, u64, u64), Error> {
        let sb = self.superblock();
        let area = if sb.has_compat(format::EROFS_FEATURE_COMPAT_SHARED_EA_IN_METABOX)
            && sb.metabox_nid.is_some()
        {
            Area::Metabox
        } else {
            Area::Primary
        };
        let at = sb
            .block_size
            .position(sb.xattr_block.into())
            .and_then(|base| base.checked_add(u64::from(id).saturating_mul(4)))
            .ok_or_else(|| inode.corrupt(0, Detail::AddressOverflow))?;
        let mut head = [0; size_of::<XattrEntry>()];
        self.read_area(area, inode.nid, &mut head, at)?;
        let length = EntryLength::of(&head).0;
        self.check_area(area, inode.nid, at, length)?;
        Ok((area, at, length))
    }

    /// The area that shared xattr `id` lies in, and where it begins and ends there.
    pub(crate) fn shared_xattr_range(
        &self,
        inode: &Inode,
        id: u32,
    ) -> Result<(Area, u64, u64), Error> {
        let (area, at, length) = self.locate_shared(inode, id)?;
        Ok((area, at, at.saturating_add(length)))
    }

    fn shared_xattr(&self, inode: &Inode, id: u32) -> Result<Raw, Error> {
        let (area, at, length) = self.locate_shared(inode, id)?;
        self.read_shared(inode, area, at, length)
    }

    fn read_shared(&self, inode: &Inode, area: Area, at: u64, length: u64) -> Result<Raw, Error> {
        let mut entry = vec![0; narrow(length)];
        self.read_area(area, inode.nid, &mut entry, at)?;
        let (raw, _) =
            parse_entry(&entry).map_err(|length| inode.corrupt(at, length.beyond(&entry)))?;
        Ok(raw)
    }

    /// Shared xattr `id` without its value, so that looking at many takes no longer than their
    /// names.
    pub(crate) fn shared_xattr_name(&self, inode: &Inode, id: u32) -> Result<Raw, Error> {
        let (area, at, length) = self.locate_shared(inode, id)?;
        let mut entry =
            vec![0; narrow(length.min(wide(size_of::<XattrEntry>()).saturating_add(255)))];
        self.read_area(area, inode.nid, &mut entry, at)?;
        let found = XattrEntry::read_from_prefix(&entry)
            .ok()
            .and_then(|(header, rest)| {
                Some(Raw {
                    index: header.e_name_index,
                    name: rest.get(..header.e_name_len.into())?.to_vec(),
                    value: Vec::new(),
                })
            });
        found.ok_or_else(|| inode.corrupt(at, EntryLength(length).beyond(&entry)))
    }

    /// The base name index of an entry, and its name after that index's prefix.
    pub(crate) fn base_name(&self, inode: &Inode, raw: &Raw) -> Result<(u8, Vec<u8>), Error> {
        if raw.name.contains(&0) {
            return Err(inode.corrupt(inode.position, Detail::XattrName(raw.name.clone().into())));
        }
        if raw.index & format::EROFS_XATTR_LONG_PREFIX == 0 {
            return Ok((raw.index, raw.name.clone()));
        }
        let number = raw.index & format::EROFS_XATTR_LONG_PREFIX_MASK;
        let prefix = self
            .xattr_prefixes
            .get(self)?
            .get(usize::from(number))
            .ok_or_else(|| inode.corrupt(inode.position, Detail::XattrPrefix(number)))?;
        Ok((prefix.base_index, [&prefix.infix[..], &raw.name].concat()))
    }

    /// The full name of an entry, or `None` where its index means nothing.
    pub(crate) fn full_name(&self, inode: &Inode, raw: &Raw) -> Result<Option<Vec<u8>>, Error> {
        let (base, name) = self.base_name(inode, raw)?;
        Ok(short_prefix(base).map(|prefix| [prefix, &name].concat()))
    }
}

/// The length in bytes that an entry's header claims for it, without padding.
struct EntryLength(u64);

impl EntryLength {
    fn of(header: &[u8]) -> Self {
        let Ok((header, _)) = XattrEntry::read_from_prefix(header) else {
            return Self(wide(size_of::<XattrEntry>()));
        };
        Self(
            wide(size_of::<XattrEntry>())
                .saturating_add(header.e_name_len.into())
                .saturating_add(header.e_value_size.get().into()),
        )
    }

    fn beyond(&self, area: &[u8]) -> Detail {
        Detail::XattrLength {
            length: self.0,
            remaining: wide(area.len()),
        }
    }
}

/// Returns the entry at the start of `bytes`, and its length with padding.
fn parse_entry(bytes: &[u8]) -> Result<(Raw, usize), EntryLength> {
    let length = EntryLength::of(bytes);
    let parsed = XattrEntry::read_from_prefix(bytes)
        .ok()
        .and_then(|(header, rest)| {
            let (name, rest) = rest.split_at_checked(header.e_name_len.into())?;
            let value = rest.get(..header.e_value_size.get().into())?;
            Some(Raw {
                index: header.e_name_index,
                name: name.to_vec(),
                value: value.to_vec(),
            })
        });
    match parsed {
        Some(raw) => {
            let padded = align_up(length.0, 4).unwrap_or(u64::MAX);
            Ok((raw, narrow(padded)))
        }
        None => Err(length),
    }
}
