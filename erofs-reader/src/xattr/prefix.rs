//! The table of long name prefixes of extended attributes.

use alloc::vec;
use alloc::vec::Vec;

use zerocopy::little_endian::U16;

use crate::areas::Areas;
use crate::corruption::Detail;
use crate::data::Data;
use crate::error::Error;
use crate::format;
use crate::inode::Inode;
use crate::nid::{Area, Nid};
use crate::num::{align_up, wide};
use crate::sync::Once;

/// A long name prefix (`struct erofs_xattr_long_prefix`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    pub(crate) base_index: u8,
    pub(crate) infix: Vec<u8>,
}

/// The table of an image, read when it is first needed.
#[derive(Debug)]
pub(crate) struct Prefixes(Once<Vec<Prefix>>);

impl Default for Prefixes {
    fn default() -> Self {
        Self(Once::new())
    }
}

impl Prefixes {
    /// Returns the prefixes of `image`, which must be the same in every call.
    pub(crate) fn get<A: Areas>(&self, image: &A) -> Result<&[Prefix], Error> {
        if let Some(prefixes) = self.0.get() {
            return Ok(prefixes);
        }
        let prefixes = read(image)?;
        Ok(self.0.get_or_init(|| prefixes))
    }

    /// Where the table of long prefixes begins and ends on the primary device, unless it lies in an
    /// inode's data.
    pub(crate) fn range<A: Areas>(&self, image: &A) -> Result<Option<(u64, u64)>, Error> {
        let sb = image.superblock();
        let plain = sb.has_compat(format::EROFS_FEATURE_COMPAT_PLAIN_XATTR_PFX);
        if !plain && (sb.packed_nid.is_some() || sb.metabox_nid.is_some()) {
            return Ok(None);
        }
        let start = u64::from(sb.xattr_prefix_start).saturating_mul(4);
        let end = self.get(image)?.iter().fold(start, |at, prefix| {
            // Its length, the base index and the rest of it.
            let length = wide(prefix.infix.len()).saturating_add(3);
            align_up(at, 4).unwrap_or(u64::MAX).saturating_add(length)
        });
        Ok(Some((start, end)))
    }
}

fn read<A: Areas>(image: &A) -> Result<Vec<Prefix>, Error> {
    let sb = image.superblock();
    let mut at = u64::from(sb.xattr_prefix_start).saturating_mul(4);
    let plain = sb.has_compat(format::EROFS_FEATURE_COMPAT_PLAIN_XATTR_PFX);
    // Where the kernel looks (`erofs_xattr_prefixes_init`).
    let special = match (plain, sb.packed_nid, sb.metabox_nid) {
        (true, _, _) => None,
        (false, Some(nid), _) | (false, None, Some(nid)) => Some(Inode::read(image, nid)?),
        (false, None, None) => None,
    };
    let read = |buf: &mut [u8], at: u64| match &special {
        None => image.storage().read_device(0, None, buf, at),
        Some(inode) => {
            let got = Data::new(image, inode)?.read_full_at(buf, at)?;
            if got == buf.len() {
                Ok(())
            } else {
                Err(image.beyond(Area::Primary, inode.nid, at, wide(buf.len())))
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
            return Err(Error::corrupt(nid, at, Detail::XattrPrefixLength(size)));
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
