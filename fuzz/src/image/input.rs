//! What the bytes of an input say: options, attributes and names.

use std::num::NonZeroUsize;

use erofs_writer::{
    Addresses, Algorithm, BlockSize, Compression, Fragments, InodeLayout, Label, Metadata, Options,
    Timestamp, Uuid, XattrPrefixes,
};

/// The input, from which whatever is needed is taken; zeros where it ends.
#[derive(Clone)]
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n
    }

    pub(super) fn number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        let given = self.bytes(8);
        bytes[..given.len()].copy_from_slice(given);
        u64::from_le_bytes(bytes)
    }

    pub(super) fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}

pub(super) fn options(input: &mut Input<'_>) -> Options {
    let block_size = BlockSize::new(512 << input.below(8)).expect("a power of two");
    let flags = input.byte();
    let compression = Algorithm::ALL.get(input.below(8)).map(|&algorithm| {
        let mut compression = Compression::new(algorithm);
        // The highest levels take memory and time for nothing that they do otherwise.
        compression.level = input.byte() % 5;
        compression.cluster_size = match input.below(8) {
            0..=3 => 0,
            n => block_size.bytes() << (n - 3),
        };
        compression
    });
    let more = input.byte();
    let label = input.bytes(usize::from(more & 7));
    let has = |bit: u8| flags & bit != 0;
    Options::default()
        .block_size(block_size)
        .uuid(match more >> 3 & 3 {
            0 => Uuid::Nil,
            1 => Uuid::Given([7; 16]),
            _ => Uuid::Derived,
        })
        .label(Label::new(label).unwrap_or_default())
        .build_time(has(0x01).then_some(i64::from(more) << (more & 63)))
        .inodes(match more >> 5 & 3 {
            0 => InodeLayout::Extended,
            1 => InodeLayout::Compact,
            _ => InodeLayout::Auto,
        })
        .epoch((more >> 7 != 0).then(|| timestamp(input)))
        .xattr_prefixes(match has(0x02) {
            true => {
                XattrPrefixes::new(["user.long.", "trusted.overlay.", "user.l"]).expect("valid")
            }
            false => XattrPrefixes::default(),
        })
        .addresses(match has(0x04) {
            true => Addresses::Bits48,
            false => Addresses::Bits32,
        })
        .chunk_indexes(has(0x08))
        .inline_tails(has(0x10))
        .compression(compression)
        .full_indexes(has(0x20))
        .tail_packing(has(0x40))
        .fragments(match input.below(4) {
            0 => Fragments::Tails,
            1 => Fragments::Files,
            _ => Fragments::None,
        })
        .dedupe_extents(has(0x80))
        .threads(NonZeroUsize::new(1))
}

pub(super) fn timestamp(input: &mut Input<'_>) -> Timestamp {
    let choice = input.byte();
    let secs = match choice & 3 {
        0 => 1_700_000_000,
        1 => i64::from(choice),
        2 => -i64::from(choice),
        _ => input.number().cast_signed(),
    };
    let nanos = match choice >> 2 & 3 {
        0 | 1 => 0,
        2 => 999_999_999,
        _ => input.number() as u32,
    };
    Timestamp { secs, nanos }
}

pub(super) fn metadata(input: &mut Input<'_>) -> Metadata {
    let choice = input.byte();
    if choice & 3 == 0 {
        return Metadata::new(0o755);
    }
    let id = |input: &mut Input<'_>| match choice & 4 {
        0 => u32::from(input.byte()),
        _ => input.number() as u32,
    };
    let mode = u16::from_le_bytes([input.byte(), input.byte() & 0x1f]);
    let (uid, gid, mtime) = (id(input), id(input), timestamp(input));
    let mut xattrs = Vec::new();
    for _ in 0..choice >> 5 {
        let base: &[u8] = [
            &b"user."[..],
            b"user.long.",
            b"trusted.overlay.",
            b"security.",
            b"system.posix_acl_access",
            b"system.posix_acl_default",
            b"other.",
            b"user.same",
        ][input.below(8)];
        let shape = input.byte();
        let name = match shape & 3 {
            0 => base.to_vec(),
            1 => [base, b"a"].concat(),
            2 => [base, input.bytes(usize::from(shape >> 4))].concat(),
            _ => [base, &vec![b'n'; usize::from(shape)][..]].concat(),
        };
        let value = match shape >> 2 & 3 {
            0 => b"value".to_vec(),
            1 => input.bytes(usize::from(shape >> 4)).to_vec(),
            2 => [&[2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255][..]].concat(),
            _ => vec![shape; usize::from(shape) * 16],
        };
        xattrs.push((name, value));
    }
    Metadata::new(mode)
        .uid(uid)
        .gid(gid)
        .mtime(mtime)
        .xattrs(xattrs)
}

/// A name of a small choice, so that names meet; or any bytes.
pub(super) fn name(input: &mut Input<'_>) -> Vec<u8> {
    let choice = input.byte();
    match choice & 7 {
        0..=3 => vec![b'a' + (choice >> 3)],
        4 => format!("a rather longer name {choice}").into_bytes(),
        5 => vec![b'n'; usize::from(choice) + 2],
        6 => input.bytes(usize::from(choice >> 3)).to_vec(),
        _ => [b".", &b".."[..], b"", b"a/b", b"\0", b"\xff", b"A", b"..."]
            [usize::from(choice >> 5)]
        .to_vec(),
    }
}
