//! Directory blocks: entries, then their names, sorted by the bytes of the names.

use zerocopy::IntoBytes;

use crate::format::Dirent;

/// Bytes of a directory with names of these lengths, in order: whole blocks and what the last one uses.
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

/// Forms the blocks of a directory, which are as [`size`] says, and gives each to `emit`; the last one is not padded.
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
