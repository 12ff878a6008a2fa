//! Extended attributes: in the inode where they fit, the rest in a block of their own.

use zerocopy::IntoBytes;

use crate::checksum::Checksum;
use crate::format::{EXT4_XATTR_MAGIC, INODE_XATTR_SPACE, XattrEntry, XattrHeader};
use crate::{Error, XattrProblem, acl};

/// The prefixes that have a number (`EXT4_XATTR_INDEX_*`); those that are whole names come first.
const PREFIXES: [(&[u8], u8); 6] = [
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"user.", 1),
    (b"trusted.", 4),
    (b"security.", 6),
    (b"system.", 7),
];

/// Behind the last entry lie four zero bytes.
const END: usize = 4;

/// An attribute as the disk has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Attribute {
    // The order of these fields is the order in which the kernel keeps a block's entries.
    index: u8,
    name_len: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Attribute {
    fn new(full_name: &[u8], value: &[u8]) -> Result<Self, XattrProblem> {
        let (name, index) = PREFIXES
            .into_iter()
            .find_map(|(prefix, index)| Some((full_name.strip_prefix(prefix)?, index)))
            .ok_or(XattrProblem::Namespace)?;
        let is_acl = index == 2 || index == 3;
        // system.data holds the contents of files that lie in their inode.
        if (is_acl && !name.is_empty()) || (index == 7 && name == b"data") {
            return Err(XattrProblem::Namespace);
        }
        if (!is_acl && name.is_empty()) || full_name.len() > 255 || name.contains(&0) {
            return Err(XattrProblem::Name);
        }
        let value = if is_acl {
            acl::to_disk(value).ok_or(XattrProblem::Acl)?
        } else {
            value.to_vec()
        };
        Ok(Self {
            index,
            name_len: name.len(),
            name: name.to_vec(),
            value,
        })
    }

    fn entry_len(&self) -> usize {
        (size_of::<XattrEntry>() + self.name.len()).next_multiple_of(4)
    }

    fn value_len(&self) -> usize {
        self.value.len().next_multiple_of(4)
    }

    fn len(&self) -> usize {
        self.entry_len() + self.value_len()
    }

    /// `ext4_xattr_hash_entry`.
    fn hash(&self) -> u32 {
        let mut hash = self
            .name
            .iter()
            .fold(0_u32, |hash, &byte| hash.rotate_left(5) ^ u32::from(byte));
        let mut value = self.value.clone();
        value.resize(self.value_len(), 0);
        for &word in value.as_chunks().0 {
            hash = hash.rotate_left(16) ^ u32::from_le_bytes(word);
        }
        hash
    }
}

/// An inode's attributes, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Xattrs {
    /// What follows `struct ext4_inode` in the inode's slot.
    pub(crate) inode: [u8; INODE_XATTR_SPACE],
    /// A block, for the caller to set the reference count and the checksum of.
    pub(crate) block: Option<Vec<u8>>,
}

/// Encodes attributes given by full name and value.
pub(crate) fn encode(xattrs: &[(Vec<u8>, Vec<u8>)], block_size: usize) -> Result<Xattrs, Error> {
    let mut encoded = Xattrs {
        inode: [0; INODE_XATTR_SPACE],
        block: None,
    };
    if xattrs.is_empty() {
        return Ok(encoded);
    }
    let problem = |name: &[u8], problem| Error::Xattr {
        name: name.to_vec(),
        problem,
    };
    let mut attributes = xattrs
        .iter()
        .map(|(name, value)| {
            Ok((
                Attribute::new(name, value).map_err(|p| problem(name, p))?,
                name,
            ))
        })
        .collect::<Result<Vec<_>, Error>>()?;
    attributes.sort();
    for pair in attributes.windows(2) {
        if (pair[0].0.index, &pair[0].0.name) == (pair[1].0.index, &pair[1].0.name) {
            return Err(problem(pair[1].1, XattrProblem::Duplicate));
        }
    }

    // The smallest go into the inode: access lists and capabilities, mostly.
    let mut by_size: Vec<usize> = (0..attributes.len()).collect();
    by_size.sort_by_key(|&i| attributes[i].0.len());
    let mut room = INODE_XATTR_SPACE - size_of::<u32>() - END;
    let mut block_room = block_size - size_of::<XattrHeader>() - END;
    let mut in_inode = vec![false; attributes.len()];
    for i in by_size {
        let len = attributes[i].0.len();
        if len <= room {
            room -= len;
            in_inode[i] = true;
        } else if len <= block_room {
            block_room -= len;
        } else {
            return Err(problem(attributes[i].1, XattrProblem::TooLarge));
        }
    }
    let part = |wanted: bool| {
        let attributes = attributes.iter().zip(&in_inode);
        let wanted = attributes.filter(move |(_, in_inode)| **in_inode == wanted);
        wanted.map(|((attribute, _), _)| attribute)
    };
    if in_inode.contains(&true) {
        let (magic, body) = encoded.inode.split_at_mut(size_of::<u32>());
        magic.copy_from_slice(&EXT4_XATTR_MAGIC.to_le_bytes());
        // Values are found relative to the first entry, and entries are not hashed.
        fill(body, 0, part(true).map(|attribute| (attribute, 0)));
    }
    if in_inode.contains(&false) {
        encoded.block = Some(block(block_size, part(false)));
    }
    Ok(encoded)
}

fn block<'a>(block_size: usize, attributes: impl Iterator<Item = &'a Attribute>) -> Vec<u8> {
    let hashed: Vec<_> = attributes
        .map(|attribute| (attribute, attribute.hash()))
        .collect();
    // `ext4_xattr_rehash`: blocks with an entry whose hash is 0 are never shared, and have no hash.
    let hash = if hashed.iter().any(|(_, hash)| *hash == 0) {
        0
    } else {
        hashed
            .iter()
            .fold(0_u32, |all, (_, hash)| all.rotate_left(16) ^ hash)
    };
    let header = XattrHeader {
        h_magic: EXT4_XATTR_MAGIC.into(),
        h_refcount: 0.into(),
        h_blocks: 1.into(),
        h_hash: hash.into(),
        h_checksum: 0.into(),
        h_reserved: [0.into(); 3],
    };
    let mut bytes = vec![0; block_size];
    let first = size_of::<XattrHeader>();
    bytes[..first].copy_from_slice(header.as_bytes());
    fill(&mut bytes, first, hashed.into_iter());
    bytes
}

/// Writes entries from `next` upwards and their values from the end downwards; offsets count from the start of `bytes`.
fn fill<'a>(
    bytes: &mut [u8],
    mut next: usize,
    attributes: impl Iterator<Item = (&'a Attribute, u32)>,
) {
    let mut values = bytes.len();
    for (attribute, hash) in attributes {
        values -= attribute.value_len();
        let entry = XattrEntry {
            e_name_len: attribute.name.len() as u8,
            e_name_index: attribute.index,
            e_value_offs: match attribute.value.len() {
                0 => 0,
                _ => values as u16,
            }
            .into(),
            e_value_inum: 0.into(),
            e_value_size: (attribute.value.len() as u32).into(),
            e_hash: hash.into(),
        };
        let name = next + size_of::<XattrEntry>();
        bytes[next..name].copy_from_slice(entry.as_bytes());
        bytes[name..name + attribute.name.len()].copy_from_slice(&attribute.name);
        bytes[values..values + attribute.value.len()].copy_from_slice(&attribute.value);
        next += attribute.entry_len();
    }
}

/// Completes a block that lies at `address` and that `references` inodes share (`ext4_xattr_block_csum`).
pub(crate) fn seal(block: &mut [u8], address: u64, references: u32, seed: Checksum) {
    const REFCOUNT: std::ops::Range<usize> = 4..8;
    const CHECKSUM: std::ops::Range<usize> = 16..20;
    block[REFCOUNT].copy_from_slice(&references.to_le_bytes());
    let checksum = seed.add(&address.to_le_bytes()).add(block).value();
    block[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: usize) -> Result<Xattrs, Error> {
        encode(&[(name.as_bytes().to_vec(), vec![7; value])], 4096)
    }

    #[test]
    fn what_fits_goes_into_the_inode_and_the_rest_into_a_block() {
        // 96 bytes: magic 4, entry 20, value 68, end 4.
        assert_eq!(one("user.a", 68).unwrap().block, None);
        let larger = one("user.a", 69).unwrap();
        assert_eq!(larger.inode, [0; INODE_XATTR_SPACE]);
        assert!(larger.block.is_some());
        assert!(one("user.a", 4096 - 32 - 20 - 4).is_ok());
        let too_large = one("user.a", 4096 - 32 - 20 - 4 + 1);
        assert!(matches!(
            too_large,
            Err(Error::Xattr {
                problem: XattrProblem::TooLarge,
                ..
            })
        ));
    }

    #[test]
    fn names_that_ext4_cannot_store_are_refused() {
        for (name, expected) in [
            ("other.a", XattrProblem::Namespace),
            ("system.data", XattrProblem::Namespace),
            ("system.posix_acl_accessory", XattrProblem::Namespace),
            ("user.", XattrProblem::Name),
            ("user.a\0b", XattrProblem::Name),
            ("system.posix_acl_access", XattrProblem::Acl),
        ] {
            match one(name, 1) {
                Err(Error::Xattr { problem, .. }) => assert_eq!(problem, expected, "{name}"),
                other => panic!("{name}: {other:?}"),
            }
        }
        let twice = vec![(b"user.a".to_vec(), vec![1]), (b"user.a".to_vec(), vec![2])];
        assert!(encode(&twice, 4096).is_err());
    }
}
