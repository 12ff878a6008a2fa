//! Extended attributes.

use zerocopy::FromBytes;
use zerocopy::little_endian::{U16, U32};

use crate::error::{Corruption, Error, Unsupported};
use crate::format::{self, XattrEntry, XattrIbodyHeader};
use crate::image::{Area, Image};
use crate::inode::{Inode, Nid};
use crate::num::{align_up, narrow, wide};
use crate::read_at::ReadAt;

/// An extended attribute: its full name and its value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// A long name prefix (`struct erofs_xattr_long_prefix`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    pub(crate) base_index: u8,
    pub(crate) infix: Vec<u8>,
}

/// An entry as stored, its name still without prefix.
struct Raw {
    index: u8,
    name: Vec<u8>,
    value: Vec<u8>,
}

/// What a name index stands for, or `None` where the kernel shows no xattrs of it.
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

impl<R: ReadAt> Image<R> {
    /// The extended attributes of `inode`: full names and values, first those of its own, then those it shares with other
    /// inodes, each in the order they are stored.
    ///
    /// The values are as `getxattr` gives them; ACLs are stored in the form of `system.posix_acl_*` xattrs. Entries with a
    /// name index that means nothing are left out, as by the kernel: that is how padding looks.
    ///
    /// # Errors
    ///
    /// Where the xattr area, a shared xattr or the table of long prefixes is damaged.
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>, Error> {
        let mut found = Vec::new();
        for raw in self.raw_xattrs(inode)? {
            if let Some(name) = self.full_name(inode, &raw)? {
                found.push((name, raw.value));
            }
        }
        Ok(found)
    }

    fn raw_xattrs(&self, inode: &Inode) -> Result<Vec<Raw>, Error> {
        let header_size = size_of::<XattrIbodyHeader>();
        if inode.xattr_size == 0 {
            return Ok(Vec::new());
        }
        if inode.xattr_size == wide(header_size) {
            return Err(Error::unsupported(inode.nid, Unsupported::EmptyXattrArea));
        }
        let start = inode.position.saturating_add(inode.inode_size);
        let area = inode.xattr_area(self)?;
        let corrupt = |what| inode.corrupt(start, what);
        let bad_count = |shared| {
            corrupt(Corruption::SharedXattrCount {
                shared,
                area: inode.xattr_size,
            })
        };
        let (header, rest) = XattrIbodyHeader::read_from_prefix(&area).map_err(|_| bad_count(0))?;
        let shared = header.h_shared_count;
        let (ids, mut rest) = <[U32]>::ref_from_prefix_with_elems(rest, shared.into())
            .map_err(|_| bad_count(shared))?;
        let mut found = Vec::new();
        while !rest.is_empty() {
            let (raw, length) = parse_entry(rest).map_err(|length| corrupt(length.beyond(rest)))?;
            found.push(raw);
            rest = rest.get(length..).unwrap_or_default();
        }
        for id in ids {
            found.push(self.shared_xattr(inode, id.get())?);
        }
        Ok(found)
    }

    fn shared_xattr(&self, inode: &Inode, id: u32) -> Result<Raw, Error> {
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
            .ok_or_else(|| inode.corrupt(0, Corruption::AddressOverflow))?;
        let mut head = [0; size_of::<XattrEntry>()];
        self.read_area(area, inode.nid, &mut head, at)?;
        let length = EntryLength::of(&head);
        self.check_area(area, inode.nid, at, length.0)?;
        let mut entry = vec![0; narrow(length.0)];
        self.read_area(area, inode.nid, &mut entry, at)?;
        let (raw, _) =
            parse_entry(&entry).map_err(|length| inode.corrupt(at, length.beyond(&entry)))?;
        Ok(raw)
    }

    /// The full name of an entry, or `None` where its index means nothing.
    fn full_name(&self, inode: &Inode, raw: &Raw) -> Result<Option<Vec<u8>>, Error> {
        let (base, infix) = if raw.index & format::EROFS_XATTR_LONG_PREFIX == 0 {
            (raw.index, &[][..])
        } else {
            let number = raw.index & format::EROFS_XATTR_LONG_PREFIX_MASK;
            let prefix = self
                .prefixes()?
                .get(usize::from(number))
                .ok_or_else(|| inode.corrupt(inode.position, Corruption::XattrPrefix(number)))?;
            (prefix.base_index, &prefix.infix[..])
        };
        Ok(short_prefix(base).map(|prefix| [prefix, infix, &raw.name].concat()))
    }

    /// The table of long prefixes, read when it is first needed.
    pub(crate) fn prefixes(&self) -> Result<&[Prefix], Error> {
        if let Some(prefixes) = self.xattr_prefixes.get() {
            return Ok(prefixes);
        }
        let prefixes = self.read_prefixes()?;
        Ok(self.xattr_prefixes.get_or_init(|| prefixes))
    }

    fn read_prefixes(&self) -> Result<Vec<Prefix>, Error> {
        let sb = self.superblock();
        let mut at = u64::from(sb.xattr_prefix_start).saturating_mul(4);
        let plain = sb.has_compat(format::EROFS_FEATURE_COMPAT_PLAIN_XATTR_PFX);
        // Where the kernel looks (`erofs_xattr_prefixes_init`).
        let special = match (plain, sb.packed_nid, sb.metabox_nid) {
            (true, _, _) => None,
            (false, Some(nid), _) | (false, None, Some(nid)) => Some(self.inode(nid)?),
            (false, None, None) => None,
        };
        let read = |buf: &mut [u8], at: u64| match &special {
            None => self.read_device(0, None, buf, at),
            Some(inode) => {
                let got = self.data(inode)?.read_full_at(buf, at)?;
                if got == buf.len() {
                    Ok(())
                } else {
                    Err(self.beyond(Area::Primary, inode.nid, at, wide(buf.len())))
                }
            }
        };
        let mut prefixes = Vec::new();
        for _ in 0..sb.xattr_prefix_count {
            let mut size = [0; 2];
            read(&mut size, at)?;
            let size = U16::from_bytes(size).get();
            let mut content = vec![0; size.into()];
            read(&mut content, at.saturating_add(2))?;
            let Some((&base_index, infix)) = content
                .split_first()
                .filter(|(_, infix)| infix.len() <= format::EROFS_NAME_LEN)
            else {
                let nid: Option<Nid> = special.map(|inode| inode.nid);
                return Err(Error::corrupt(nid, at, Corruption::XattrPrefixLength(size)));
            };
            prefixes.push(Prefix {
                base_index,
                infix: infix.to_vec(),
            });
            let end = at.saturating_add(2).saturating_add(size.into());
            at = align_up(end, 4).unwrap_or(u64::MAX);
        }
        Ok(prefixes)
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

    fn beyond(&self, area: &[u8]) -> Corruption {
        Corruption::XattrLength {
            length: self.0,
            remaining: wide(area.len()),
        }
    }
}

/// The entry that `bytes` begins with, and how many bytes it takes with its padding.
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
