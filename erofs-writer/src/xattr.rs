//! Extended attributes: stored once each in memory, and on disk once where that is smaller.

use std::cmp::Reverse;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};

use hashbrown::HashTable;
use xxhash_rust::xxh32::xxh32;
use zerocopy::IntoBytes;

use crate::format::{
    XATTR_FILTER_SEED, XATTR_INDEX_POSIX_ACL_ACCESS, XATTR_INDEX_POSIX_ACL_DEFAULT, XattrEntry,
    XattrIbodyHeader,
};
use crate::{XattrPrefixes, XattrProblem, prefix};

/// An inode without attributes.
pub(crate) const NO_XATTRS: u32 = 0;

/// `i_xattr_icount` counts words after the header, plus one.
const IBODY_MAX: usize = size_of::<XattrIbodyHeader>() + 4 * (u16::MAX as usize - 1);
/// `h_shared_count` has eight bits.
const SHARED_MAX: usize = u8::MAX as usize;
/// What Linux passes to a file system (`XATTR_NAME_MAX`).
const NAME_MAX: usize = 255;

/// An attribute as the disk has it. The derived order is the one on disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Xattr {
    /// The namespace's index.
    index: u8,
    /// The name without its namespace.
    name: Box<[u8]>,
    value: Box<[u8]>,
    /// The index of the namespace or long prefix, and the length of the part of `name` that it
    /// replaces.
    e_name_index: u8,
    prefix: u8,
}

impl Xattr {
    fn parse(name: &[u8], value: &[u8], prefixes: &XattrPrefixes) -> Result<Self, XattrProblem> {
        if name.len() > NAME_MAX || name.contains(&0) {
            return Err(XattrProblem::InvalidName);
        }
        if value.len() > usize::from(u16::MAX) {
            return Err(XattrProblem::ValueTooLong);
        }
        let (index, rest) = match name {
            b"system.posix_acl_access" => (XATTR_INDEX_POSIX_ACL_ACCESS, &b""[..]),
            b"system.posix_acl_default" => (XATTR_INDEX_POSIX_ACL_DEFAULT, &b""[..]),
            _ => match prefix::namespace(name) {
                None => return Err(XattrProblem::UnknownNamespace),
                Some((_, b"")) => return Err(XattrProblem::InvalidName),
                Some(found) => found,
            },
        };
        if rest.is_empty() && !is_acl(value) {
            return Err(XattrProblem::MalformedAcl);
        }
        let (e_name_index, prefix) = prefixes.find(index, rest);
        Ok(Self {
            index,
            name: rest.into(),
            value: value.into(),
            e_name_index,
            prefix,
        })
    }

    /// Its bytes in an inode or in the shared area, a multiple of four.
    fn size(&self) -> usize {
        (size_of::<XattrEntry>() + self.e_name().len() + self.value.len()).next_multiple_of(4)
    }

    fn e_name(&self) -> &[u8] {
        &self.name[self.prefix.into()..]
    }

    fn emit(&self, into: &mut Vec<u8>) {
        let end = into.len() + self.size();
        let entry = XattrEntry {
            e_name_len: self.e_name().len() as u8,
            e_name_index: self.e_name_index,
            e_value_size: (self.value.len() as u16).into(),
        };
        into.extend_from_slice(entry.as_bytes());
        into.extend_from_slice(self.e_name());
        into.extend_from_slice(&self.value);
        into.resize(end, 0);
    }

    /// Its bit in `h_name_filter`, which is cleared where the attribute may be present.
    fn filter_bit(&self) -> u32 {
        let seed = XATTR_FILTER_SEED.wrapping_add(u32::from(self.index));
        1 << (xxh32(&self.name, seed) % u32::BITS)
    }
}

/// Whether the kernel's `posix_acl_from_xattr` accepts `value`: it is called at every access to a
/// file with an ACL, and the access fails where it fails. EROFS keeps ACLs in this form, unlike
/// ext4.
fn is_acl(value: &[u8]) -> bool {
    const VERSION: [u8; 4] = 2_u32.to_le_bytes();
    let Some(entries) = value.strip_prefix(&VERSION) else {
        return false;
    };
    entries.len() % 8 == 0
        && entries.chunks_exact(8).all(|entry| {
            let tag = u16::from_le_bytes([entry[0], entry[1]]);
            matches!(tag, 0x01 | 0x02 | 0x04 | 0x08 | 0x10 | 0x20)
        })
}

/// Every distinct attribute and every distinct set of them.
#[derive(Debug)]
pub(crate) struct XattrStore {
    prefixes: XattrPrefixes,
    xattrs: Interned<Xattr>,
    sets: Interned<Box<[u32]>>,
}

/// Values, each once, by number.
#[derive(Debug)]
struct Interned<T> {
    values: Vec<T>,
    index: HashTable<u32>,
    // Seeded at random, because values may be hostile. Nothing depends on the order of the table.
    hasher: RandomState,
}

impl<T: Eq + Hash> Interned<T> {
    fn new() -> Self {
        Self {
            values: Vec::new(),
            index: HashTable::new(),
            hasher: RandomState::new(),
        }
    }

    fn number(&mut self, value: T) -> u32 {
        let hash = self.hasher.hash_one(&value);
        let same = |&i: &u32| self.values[i as usize] == value;
        if let Some(&i) = self.index.find(hash, same) {
            return i;
        }
        let i = self.values.len() as u32;
        self.values.push(value);
        let (values, hasher) = (&self.values, &self.hasher);
        self.index
            .insert_unique(hash, i, |&i| hasher.hash_one(&values[i as usize]));
        i
    }
}

impl XattrStore {
    pub(crate) fn new(prefixes: XattrPrefixes) -> Self {
        let mut sets = Interned::new();
        sets.number(Box::default());
        Self {
            prefixes,
            xattrs: Interned::new(),
            sets,
        }
    }

    /// The index of a set of attributes.
    ///
    /// # Errors
    ///
    /// If one is impossible: the attribute's index in `xattrs`, and the reason.
    pub(crate) fn intern(
        &mut self,
        xattrs: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<u32, (usize, XattrProblem)> {
        if xattrs.is_empty() {
            return Ok(NO_XATTRS);
        }
        let mut parsed = Vec::with_capacity(xattrs.len());
        let mut size = size_of::<XattrIbodyHeader>();
        for (i, (name, value)) in xattrs.iter().enumerate() {
            let xattr =
                Xattr::parse(name, value, &self.prefixes).map_err(|problem| (i, problem))?;
            size += xattr.size();
            if size > IBODY_MAX {
                return Err((i, XattrProblem::TooMany));
            }
            parsed.push((xattr, i));
        }
        parsed.sort_unstable();
        let same = |a: &Xattr, b: &Xattr| (a.index, &a.name) == (b.index, &b.name);
        if let Some(twice) = parsed.windows(2).find(|pair| same(&pair[0].0, &pair[1].0)) {
            return Err((twice[1].1, XattrProblem::Duplicate));
        }
        let mut set: Box<[u32]> = parsed
            .into_iter()
            .map(|(xattr, _)| self.xattrs.number(xattr))
            .collect();
        // By number, so that one set has one form.
        set.sort_unstable();
        Ok(self.sets.number(set))
    }

    /// Decides which attributes are shared, given the set of each inode, and encodes all of them,
    /// with or without the name filter.
    pub(crate) fn plan(
        self,
        sets_of_inodes: impl Iterator<Item = u32>,
        share: bool,
        filter: bool,
    ) -> XattrPlan {
        let Self { xattrs, sets, .. } = self;
        let (xattrs, sets) = (xattrs.values, sets.values);
        let mut set_uses = vec![0_u64; sets.len()];
        for set in sets_of_inodes {
            set_uses[set as usize] += 1;
        }
        let mut uses = vec![0_u64; xattrs.len()];
        for (set, n) in sets.iter().zip(&set_uses) {
            for &xattr in set {
                uses[xattr as usize] += n;
            }
        }
        // Inline, every use takes the whole entry; shared, each takes a four-byte reference to the
        // one entry.
        let mut shared: Vec<usize> = (0..xattrs.len())
            .filter(|&i| {
                let size = xattrs[i].size() as u64;
                share && uses[i] * size > uses[i] * 4 + size
            })
            .collect();
        shared.sort_unstable_by_key(|&i| (Reverse(uses[i]), &xattrs[i]));
        let mut area = Vec::new();
        let mut ids = vec![None; xattrs.len()];
        for i in shared {
            ids[i] = Some((area.len() / 4) as u32);
            xattrs[i].emit(&mut area);
        }
        let bodies = sets
            .iter()
            .zip(&set_uses)
            .map(|(set, &uses)| {
                if uses == 0 {
                    Box::default()
                } else {
                    body(&xattrs, set, &ids, filter)
                }
            })
            .collect();
        XattrPlan { bodies, area }
    }
}

/// A set's bytes after the inode.
fn body(xattrs: &[Xattr], set: &[u32], ids: &[Option<u32>], filter: bool) -> Box<[u8]> {
    if set.is_empty() {
        return Box::default();
    }
    let mut shared: Vec<u32> = set.iter().filter_map(|&i| ids[i as usize]).collect();
    shared.sort_unstable();
    // The most used come first.
    shared.truncate(SHARED_MAX);
    let last = shared.last().copied();
    let is_shared = |i: u32| ids[i as usize].is_some_and(|id| Some(id) <= last);
    let mut inline: Vec<&Xattr> = set
        .iter()
        .filter(|&&i| !is_shared(i))
        .map(|&i| &xattrs[i as usize])
        .collect();
    inline.sort_unstable();
    let present = set
        .iter()
        .fold(0, |bits, &i| bits | xattrs[i as usize].filter_bit());
    let header = XattrIbodyHeader {
        h_name_filter: if filter { !present } else { 0 }.into(),
        h_shared_count: shared.len() as u8,
        ..XattrIbodyHeader::default()
    };
    let mut body = header.as_bytes().to_vec();
    for id in shared {
        body.extend_from_slice(&id.to_le_bytes());
    }
    for xattr in inline {
        xattr.emit(&mut body);
    }
    body.into()
}

/// The bytes of all attributes.
#[derive(Debug)]
pub(crate) struct XattrPlan {
    /// By set: the bytes after the inode, empty or a header and words.
    bodies: Vec<Box<[u8]>>,
    /// The shared attributes (`xattr_blkaddr`).
    pub(crate) area: Vec<u8>,
}

impl XattrPlan {
    /// The bytes after an inode with this set.
    pub(crate) fn body(&self, set: u32) -> &[u8] {
        &self.bodies[set as usize]
    }

    /// Whether any inode has attributes.
    pub(crate) fn any(&self) -> bool {
        self.bodies.iter().any(|body| !body.is_empty())
    }
}

/// `i_xattr_icount` of an inode with these bytes after it.
pub(crate) fn icount(body: &[u8]) -> u16 {
    match body.len().checked_sub(size_of::<XattrIbodyHeader>()) {
        Some(words) => (words / 4 + 1) as u16,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(sets: &[&[(&str, &str)]]) -> (XattrStore, Vec<u32>) {
        let mut store = XattrStore::new(XattrPrefixes::default());
        let ids = sets
            .iter()
            .map(|set| {
                let set: Vec<_> = set
                    .iter()
                    .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
                    .collect();
                store.intern(&set).unwrap()
            })
            .collect();
        (store, ids)
    }

    #[test]
    fn xattr_filter_bits_equal_those_the_kernel_tests() {
        // fs/erofs/xattr.c, erofs_inode_has_noacl(): 30 for the access ACL, 21 for the default ACL.
        let acl = [
            &2_u32.to_le_bytes()[..],
            &[0x20, 0, 4, 0, 255, 255, 255, 255],
        ]
        .concat();
        let bit = |name: &[u8]| {
            Xattr::parse(name, &acl, &XattrPrefixes::default())
                .unwrap()
                .filter_bit()
        };
        assert_eq!(bit(b"system.posix_acl_access"), 1 << 30);
        assert_eq!(bit(b"system.posix_acl_default"), 1 << 21);
    }

    #[test]
    fn equal_sets_in_any_order_are_stored_once() {
        let (_, ids) = store(&[
            &[("user.a", "1"), ("user.b", "2")],
            &[("user.b", "2"), ("user.a", "1")],
            &[("user.a", "1")],
            &[],
        ]);
        assert_eq!(ids[0], ids[1]);
        assert_ne!(ids[0], ids[2]);
        assert_eq!(ids[3], NO_XATTRS);
    }

    #[test]
    fn xattrs_are_shared_only_if_that_is_smaller() {
        // Entries of 8, 16 and 16 bytes; the last is used once.
        let sets: [&[_]; 3] = [
            &[("user.a", "1"), ("user.long", "value_x")],
            &[
                ("user.a", "1"),
                ("user.long", "value_x"),
                ("user.once", "value_x"),
            ],
            &[],
        ];
        let (store, ids) = store(&sets);
        let plan = store.plan(ids.iter().copied(), true, true);
        // Twice 8 bytes inline are 16, as are 8 shared and twice 4.
        assert_eq!(plan.area.len(), 16);
        assert_eq!(plan.body(ids[0]).len(), 12 + 4 + 8);
        assert_eq!(plan.body(ids[1]).len(), 12 + 4 + 8 + 16);
        assert_eq!(icount(plan.body(ids[0])), 4);
        assert_eq!(icount(plan.body(ids[2])), 0);
    }

    #[test]
    fn ids_do_not_depend_on_the_order_of_inodes() {
        let sets: [&[_]; 3] = [
            &[("user.a", "a longer value"), ("user.b", "another value")],
            &[("user.c", "yet another value")],
            &[
                ("user.a", "a longer value"),
                ("trusted.x", "some other value"),
            ],
        ];
        let bytes = |order: [usize; 3]| {
            let (store, ids) = store(&order.map(|i| sets[i]));
            let plan = store.plan(ids.iter().chain(&ids).copied(), true, true);
            let mut bodies = [(); 3].map(|()| Vec::new());
            for (position, i) in order.into_iter().enumerate() {
                bodies[i] = plan.body(ids[position]).to_vec();
            }
            (plan.area, bodies)
        };
        let one = bytes([0, 1, 2]);
        for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            assert_eq!(bytes(order), one);
        }
    }
}
