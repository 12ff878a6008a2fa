//! Directory blocks: entries, then their names, sorted by the bytes of the names.

use zerocopy::IntoBytes;

use crate::format::Dirent;

/// Bytes of a directory with names of these lengths, in order: whole blocks and what the last one
/// uses.
pub(crate) fn size(lengths: impl Iterator<Item = usize>, block_size: u32) -> u64 {
    let (mut full, mut used) = (0_u64, 0);
    for length in lengths {
        let need = size_of::<Dirent>() + length;
        if used + need > block_size as usize {
            full += 1;
            used = 0;
        }
        used += need;
    }
    full * u64::from(block_size) + used as u64
}

/// An entry to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) nid: u64,
    pub(crate) file_type: u8,
}

/// Forms the blocks of a directory, which are as [`size`] says, and gives each to `emit`; the last
/// one is not padded.
pub(crate) fn blocks<'a>(
    entries: impl Iterator<Item = Entry<'a>>,
    block_size: u32,
    mut emit: impl FnMut(&[u8]),
) {
    let mut pending = Vec::new();
    let mut block = Vec::new();
    let mut used = 0;
    for entry in entries {
        let need = size_of::<Dirent>() + entry.name.len();
        if used + need > block_size as usize {
            form(&mut block, &pending);
            block.resize(block_size as usize, 0);
            emit(&block);
            pending.clear();
            used = 0;
        }
        used += need;
        pending.push(entry);
    }
    form(&mut block, &pending);
    emit(&block);
}

fn form(block: &mut Vec<u8>, entries: &[Entry<'_>]) {
    block.clear();
    // The first name's offset tells readers how many entries there are.
    let mut nameoff = entries.len() * size_of::<Dirent>();
    for entry in entries {
        let dirent = Dirent {
            nid: entry.nid.into(),
            nameoff: (nameoff as u16).into(),
            file_type: entry.file_type,
            reserved: 0,
        };
        block.extend_from_slice(dirent.as_bytes());
        nameoff += entry.name.len();
    }
    for entry in entries {
        block.extend_from_slice(entry.name);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn blocks_are_as_large_as_the_size_says(lengths in vec(1..=255_usize, 1..300), bits in 9..=12_u32) {
            let names: Vec<Vec<u8>> = lengths.iter().map(|&length| vec![b'n'; length]).collect();
            let entries = names.iter().map(|name| Entry { name, nid: 7, file_type: 1 });
            let mut length = 0;
            let mut padded = 0;
            blocks(entries, 1 << bits, |block| {
                assert_eq!(padded, length);
                length += block.len() as u64;
                padded += 1 << bits;
            });
            prop_assert_eq!(length, size(lengths.iter().copied(), 1 << bits));
        }
    }

    #[test]
    fn a_block_begins_with_the_offset_of_its_first_name() {
        let entries = [(&b"."[..], 1), (b"..", 1), (b"name", 9)];
        let entries = entries.map(|(name, nid)| Entry {
            name,
            nid,
            file_type: 2,
        });
        let mut found = Vec::new();
        blocks(entries.into_iter(), 512, |block| found.push(block.to_vec()));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].len(), 3 * 12 + 7);
        assert_eq!(found[0][8..10], [36, 0]);
        assert!(found[0].ends_with(b"...name"));
    }
}
