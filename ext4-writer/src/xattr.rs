//! Extended attributes: in the inode where they fit, the rest in a block of their own.

use zerocopy::{FromBytes, IntoBytes};

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

/// The name, after `system.`, of the attribute with the contents of inline files
/// (`EXT4_XATTR_SYSTEM_DATA`).
const DATA: &[u8] = b"data";
/// The bytes of `i_block`.
const I_BLOCK: usize = 60;
/// Four zero bytes follow the last entry.
const END: usize = 4;

/// The largest value (`XATTR_SIZE_MAX`).
pub(crate) const VALUE_MAX: usize = 65536;

/// An attribute as the disk has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Attribute {
    // The order of these fields is the order in which the kernel keeps a block's entries.
    index: u8,
    name_len: usize,
    name: Vec<u8>,
    value: Vec<u8>,
    /// The value's hash, where the value lies in an inode of its own.
    outside: Option<u32>,
}

impl Attribute {
    fn new(full_name: &[u8], value: &[u8]) -> Result<Self, XattrProblem> {
        let (name, index) = PREFIXES
            .into_iter()
            .find_map(|(prefix, index)| Some((full_name.strip_prefix(prefix)?, index)))
            .ok_or(XattrProblem::Namespace)?;
        let is_acl = index == 2 || index == 3;
        // system.data holds the contents of files that lie in their inode.
        if (is_acl && !name.is_empty()) || (index == 7 && name == DATA) {
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
        Ok(Self::stored(index, name, value))
    }

    fn stored(index: u8, name: &[u8], value: Vec<u8>) -> Self {
        Self {
            index,
            name_len: name.len(),
            name: name.to_vec(),
            value,
            outside: None,
        }
    }

    fn entry_len(&self) -> usize {
        (size_of::<XattrEntry>() + self.name.len()).next_multiple_of(4)
    }

    fn value_len(&self) -> usize {
        match self.outside {
            Some(_) => 0,
            None => self.value.len().next_multiple_of(4),
        }
    }

    fn len(&self) -> usize {
        self.entry_len() + self.value_len()
    }

    /// `ext4_xattr_hash_entry`.
    fn hash(&self) -> u32 {
        let name = self
            .name
            .iter()
            .fold(0_u32, |hash, &byte| hash.rotate_left(5) ^ u32::from(byte));
        if let Some(value) = self.outside {
            return name.rotate_left(16) ^ value;
        }
        let mut value = self.value.clone();
        value.resize(self.value_len(), 0);
        value.as_chunks().0.iter().fold(name, |hash, &word| {
            hash.rotate_left(16) ^ u32::from_le_bytes(word)
        })
    }
}

/// An inode's attributes, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Xattrs {
    /// The bytes after `struct ext4_inode` in the inode's slot.
    pub(crate) inode: [u8; INODE_XATTR_SPACE],
    /// The bytes of it that are free.
    room: usize,
    /// A block. The caller sets its reference count and checksum.
    pub(crate) block: Option<Vec<u8>>,
    /// Values that need inodes of their own.
    pub(crate) values: Vec<Value>,
}

/// A value that lies in an inode of its own (`EXT4_EA_INODE_FL`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) bytes: Vec<u8>,
    pub(crate) hash: u32,
    /// Whether its entry is in the block and not in the inode.
    pub(crate) in_block: bool,
    /// The offset of the inode's number there (`e_value_inum`).
    at: usize,
}

impl Xattrs {
    /// How many bytes of contents fit in the inode too: those in `i_block` and those in an
    /// attribute.
    pub(crate) fn inline_room(&self) -> usize {
        match self.room.checked_sub(size_of::<XattrEntry>() + DATA.len()) {
            Some(room) => I_BLOCK + room,
            None => 0,
        }
    }

    /// Sets the inode of value `index` to `ino`.
    pub(crate) fn set_value_inode(&mut self, index: usize, ino: u32) {
        let value = &self.values[index];
        let bytes = match (&mut self.block, value.in_block) {
            (Some(block), true) => &mut block[..],
            _ => &mut self.inode[..],
        };
        bytes[value.at..value.at + size_of::<u32>()].copy_from_slice(&ino.to_le_bytes());
    }
}

/// The parameters of the encoding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoder {
    pub(crate) block_size: usize,
    /// Whether values may lie in inodes of their own.
    pub(crate) value_inodes: bool,
    /// The seed of their hashes.
    pub(crate) seed: Checksum,
}

impl Encoder {
    /// Encodes attributes given by full name and value, and the contents after `i_block` of a file
    /// that lies in its inode.
    pub(crate) fn encode(
        &self,
        xattrs: &[(Vec<u8>, Vec<u8>)],
        contents: Option<&[u8]>,
    ) -> Result<Xattrs, Error> {
        let mut encoded = Xattrs {
            inode: [0; INODE_XATTR_SPACE],
            room: INODE_XATTR_SPACE - size_of::<u32>() - END,
            block: None,
            values: Vec::new(),
        };
        if xattrs.is_empty() && contents.is_none() {
            return Ok(encoded);
        }
        let problem = |name: &[u8], problem| Error::Xattr {
            name: name.into(),
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
        let (mut attributes, names): (Vec<_>, Vec<_>) = attributes.into_iter().unzip();
        let contents = contents.map(|bytes| Attribute::stored(7, DATA, bytes.to_vec()));
        encoded.room -= contents.as_ref().map_or(0, Attribute::len);
        let (in_inode, room) = self
            .place(&mut attributes, encoded.room)
            .map_err(|at| problem(names[at], XattrProblem::TooLarge))?;
        encoded.room = room;

        let part = |wanted: bool| {
            let attributes = attributes.iter().zip(&in_inode);
            let wanted = attributes.filter(move |(_, in_inode)| **in_inode == wanted);
            wanted.map(|(attribute, _)| attribute)
        };
        if in_inode.contains(&true) || contents.is_some() {
            let (magic, body) = encoded.inode.split_at_mut(size_of::<u32>());
            magic.copy_from_slice(&EXT4_XATTR_MAGIC.to_le_bytes());
            // Values are found relative to the first entry, and only entries of values that are
            // elsewhere are hashed.
            let entries = part(true).chain(&contents).map(|attribute| {
                let hash = attribute.outside.map_or(0, |_| attribute.hash());
                (attribute, hash)
            });
            let mut values = fill(body, 0, entries);
            values
                .iter_mut()
                .for_each(|value| value.at += size_of::<u32>());
            encoded.values = values;
        }
        if in_inode.contains(&false) {
            let (block, mut values) = block(self.block_size, part(false));
            values.iter_mut().for_each(|value| value.in_block = true);
            encoded.values.append(&mut values);
            encoded.block = Some(block);
        }
        Ok(encoded)
    }

    /// Decides which attributes lie in the inode, and which values get inodes of their own: as few
    /// as possible, the largest ones. Returns the rest of the inode's `room`, or the attribute that
    /// does not fit.
    fn place(
        &self,
        attributes: &mut [Attribute],
        room: usize,
    ) -> Result<(Vec<bool>, usize), usize> {
        let block_room = self.block_size - size_of::<XattrHeader>() - END;
        let too_large = |(_, attribute): &(usize, &Attribute)| attribute.value.len() > VALUE_MAX;
        if let Some((at, _)) = attributes.iter().enumerate().find(too_large) {
            return Err(at);
        }
        let mut names = 0;
        for (at, attribute) in attributes.iter().enumerate() {
            names += attribute.entry_len();
            if names > room + block_room {
                return Err(at);
            }
        }
        // The smallest go into the inode: access lists and capabilities, mostly.
        let mut by_size: Vec<usize> = (0..attributes.len()).collect();
        by_size.sort_by_key(|&at| attributes[at].len());
        let mut largest = by_size.clone().into_iter().rev();
        loop {
            // The entries of attributes with external values need the space most.
            by_size.sort_by_key(|&at| (attributes[at].outside.is_none(), attributes[at].len()));
            match distribute(&by_size, attributes, room, block_room) {
                Ok(placed) => return Ok(placed),
                Err(at) => {
                    let next = largest.next().filter(|_| self.value_inodes).ok_or(at)?;
                    let attribute = &mut attributes[next];
                    if attribute.value.is_empty() {
                        return Err(at);
                    }
                    attribute.outside = Some(self.seed.add(&attribute.value).value());
                }
            }
        }
    }
}

/// Fills the inode, then the block. Returns which attributes are in the inode, and the rest of its
/// room.
fn distribute(
    order: &[usize],
    attributes: &[Attribute],
    mut room: usize,
    mut block_room: usize,
) -> Result<(Vec<bool>, usize), usize> {
    let mut in_inode = vec![false; attributes.len()];
    for &at in order {
        let len = attributes[at].len();
        if len <= room {
            room -= len;
            in_inode[at] = true;
        } else if len <= block_room {
            block_room -= len;
        } else {
            return Err(at);
        }
    }
    Ok((in_inode, room))
}

fn block<'a>(
    block_size: usize,
    attributes: impl Iterator<Item = &'a Attribute>,
) -> (Vec<u8>, Vec<Value>) {
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
    let values = fill(&mut bytes, first, hashed.into_iter());
    (bytes, values)
}

/// Writes entries from `next` upwards and their values from the end downwards; offsets count from
/// the start of `bytes`. Returns the values that are stored elsewhere.
fn fill<'a>(
    bytes: &mut [u8],
    mut next: usize,
    attributes: impl Iterator<Item = (&'a Attribute, u32)>,
) -> Vec<Value> {
    const VALUE_INUM: usize = std::mem::offset_of!(XattrEntry, e_value_inum);
    let mut elsewhere = Vec::new();
    let mut values = bytes.len();
    for (attribute, hash) in attributes {
        values -= attribute.value_len();
        let entry = XattrEntry {
            e_name_len: attribute.name.len() as u8,
            e_name_index: attribute.index,
            e_value_offs: match attribute.value_len() {
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
        match attribute.outside {
            Some(hash) => elsewhere.push(Value {
                bytes: attribute.value.clone(),
                hash,
                in_block: false,
                at: next + VALUE_INUM,
            }),
            None => bytes[values..values + attribute.value.len()].copy_from_slice(&attribute.value),
        }
        next += attribute.entry_len();
    }
    elsewhere
}

/// The inodes that hold values of the entries which begin at `at`, each as often as entries refer
/// to it; `None` where the entries have no end.
pub(crate) fn value_inodes(bytes: &[u8], mut at: usize) -> Option<Vec<u32>> {
    let mut inodes = Vec::new();
    loop {
        let rest = bytes.get(at..)?;
        if *rest.first_chunk::<END>()? == [0; END] {
            return Some(inodes);
        }
        let (entry, _) = XattrEntry::read_from_prefix(rest).ok()?;
        if entry.e_value_inum.get() != 0 {
            inodes.push(entry.e_value_inum.get());
        }
        at += (size_of::<XattrEntry>() + usize::from(entry.e_name_len)).next_multiple_of(4);
    }
}

/// The prefix that has this number.
pub(crate) fn prefix(index: u8) -> Option<&'static [u8]> {
    let found = PREFIXES.into_iter().find(|(_, number)| *number == index);
    found.map(|(prefix, _)| prefix)
}

/// Whether an attribute's prefix is the whole name of an access list.
pub(crate) fn is_acl(index: u8) -> bool {
    matches!(index, 2 | 3)
}

/// An attribute as it lies on the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored<'a> {
    pub(crate) index: u8,
    pub(crate) name: &'a [u8],
    /// Empty where the value lies in an inode of its own.
    pub(crate) value: &'a [u8],
    pub(crate) value_inode: u32,
    pub(crate) size: usize,
}

/// The attributes whose entries begin at `at`; values are found relative to the first byte of
/// `bytes`. `None` where the entries have no end, or a value is elsewhere.
pub(crate) fn decode(bytes: &[u8], mut at: usize) -> Option<Vec<Stored<'_>>> {
    let mut found = Vec::new();
    loop {
        let rest = bytes.get(at..)?;
        if *rest.first_chunk::<END>()? == [0; END] {
            return Some(found);
        }
        let (entry, name) = XattrEntry::read_from_prefix(rest).ok()?;
        let name = name.get(..usize::from(entry.e_name_len))?;
        let size = usize::try_from(entry.e_value_size.get()).ok()?;
        let value_inode = entry.e_value_inum.get();
        let value = match value_inode {
            0 if size > 0 => {
                let start = usize::from(entry.e_value_offs.get());
                bytes.get(start..start.checked_add(size)?)?
            }
            _ => &[],
        };
        if name.contains(&0) || name.is_empty() != is_acl(entry.e_name_index) {
            return None;
        }
        found.push(Stored {
            index: entry.e_name_index,
            name,
            value,
            value_inode,
            size,
        });
        at += (size_of::<XattrEntry>() + name.len()).next_multiple_of(4);
    }
}

/// Completes a block that lies at `address` and that `references` inodes share
/// (`ext4_xattr_block_csum`).
pub(crate) fn seal(block: &mut [u8], address: u64, references: u32, seed: Checksum) {
    const REFCOUNT: std::ops::Range<usize> = 4..8;
    const CHECKSUM: std::ops::Range<usize> = 16..20;
    block[REFCOUNT].copy_from_slice(&references.to_le_bytes());
    block[CHECKSUM].fill(0);
    let checksum = seed.add(&address.to_le_bytes()).add(block).value();
    block[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(xattrs: &[(Vec<u8>, Vec<u8>)], value_inodes: bool) -> Result<Xattrs, Error> {
        let encoder = Encoder {
            block_size: 4096,
            value_inodes,
            seed: Checksum::START,
        };
        encoder.encode(xattrs, None)
    }

    fn one(name: &str, value: usize) -> Result<Xattrs, Error> {
        encode(&[(name.as_bytes().to_vec(), vec![7; value])], false)
    }

    #[test]
    fn the_largest_values_move_to_inodes_of_their_own_until_the_rest_fits() {
        let named = |len: usize| (format!("user.{len}").into_bytes(), vec![len as u8; len]);
        let sizes = |xattrs: &Xattrs| {
            let mut sizes: Vec<_> = xattrs.values.iter().map(|v| v.bytes.len()).collect();
            sizes.sort_unstable();
            sizes
        };
        let fits = encode(&[named(3900), named(40)], true).unwrap();
        assert_eq!(sizes(&fits), []);
        let one = encode(&[named(3900), named(3000), named(50)], true).unwrap();
        assert_eq!(sizes(&one), [3900]);
        let two = encode(&[named(65536), named(5000), named(50)], true).unwrap();
        assert_eq!(sizes(&two), [5000, 65536]);
        assert!(encode(&[named(65537)], true).is_err());
    }

    #[test]
    fn attributes_fill_the_inode_first_and_then_a_block() {
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
        assert!(encode(&twice, false).is_err());
    }
}
