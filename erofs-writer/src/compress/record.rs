//! Compact records of compressed contents, kept in memory while an image is written.
//!
//! Numbers have seven bits in each byte, the lowest first; all bytes but a number's last have their
//! highest bit set.

use super::algorithm::Algorithm;
use super::compressed::{Compressed, Run, Tail};
use super::extent::Extent;

/// The first number: the tail's kind in its lowest bits, then whether clusters are big, then the
/// algorithm.
const TAIL_BITS: u32 = 2;
const INLINE: u64 = 1;
const FRAGMENT: u64 = 2;

/// Before an extent's length.
const PLAIN: u64 = 1;
const PARTIAL: u64 = 2;
const EXTENT_BITS: u32 = 2;

/// Appends a record.
pub(crate) fn put(out: &mut Vec<u8>, contents: &Compressed) {
    let tail = match contents.tail {
        Tail::Cluster => 0,
        Tail::Inline { .. } => INLINE,
        Tail::Fragment { .. } => FRAGMENT,
    };
    let algorithm = u64::from(contents.algorithm.number());
    put_number(
        out,
        tail | (u64::from(contents.big) | algorithm << 1) << TAIL_BITS,
    );
    match contents.tail {
        Tail::Cluster => {}
        Tail::Inline { kept, length } => {
            put_number(out, kept);
            put_number(out, length.into());
        }
        Tail::Fragment { offset } => put_number(out, offset),
    }
    put_number(out, contents.runs.len() as u64);
    for run in &contents.runs {
        put_number(out, run.first.into());
        put_number(out, run.block);
    }
    put_number(out, contents.extents.len() as u64);
    for extent in &contents.extents {
        let plain = if extent.plain { PLAIN } else { 0 };
        let partial = if extent.partial { PARTIAL } else { 0 };
        put_number(
            out,
            u64::from(extent.length) << EXTENT_BITS | plain | partial,
        );
        put_number(out, extent.blocks.into());
    }
}

/// Reads the record at the start of `bytes`, of contents of `size` bytes.
pub(crate) fn get(bytes: &[u8], size: u64) -> Compressed {
    let mut numbers = Numbers(bytes);
    let head = numbers.take();
    let tail = match head & ((1 << TAIL_BITS) - 1) {
        INLINE => Tail::Inline {
            kept: numbers.take(),
            length: numbers.take() as u16,
        },
        FRAGMENT => Tail::Fragment {
            offset: numbers.take(),
        },
        _ => Tail::Cluster,
    };
    let number = (head >> (TAIL_BITS + 1)) as usize;
    let count = numbers.take();
    let runs = (0..count).map(|_| Run {
        first: numbers.take() as u32,
        block: numbers.take(),
    });
    let runs = runs.collect();
    let count = numbers.take();
    let extents = (0..count).map(|_| {
        let length = numbers.take();
        Extent {
            length: (length >> EXTENT_BITS) as u32,
            blocks: numbers.take() as u16,
            plain: length & PLAIN != 0,
            partial: length & PARTIAL != 0,
        }
    });
    Compressed {
        size,
        algorithm: Algorithm::ALL[number & 3],
        big: head >> TAIL_BITS & 1 != 0,
        extents: extents.collect(),
        runs,
        tail,
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 1 << 7 {
        out.push(number as u8 | 1 << 7);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Numbers one after the other.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    /// Returns the next number, or 0 at the end.
    fn take(&mut self) -> u64 {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let Some((&byte, rest)) = self.0.split_first() else {
                break;
            };
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte >> 7 == 0 {
                break;
            }
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn extent() -> impl Strategy<Value = Extent> {
        let length = prop_oneof![0..9000_u32, any::<u32>()];
        let fields = (length, any::<u16>(), any::<bool>(), any::<bool>());
        fields.prop_map(|(length, blocks, plain, partial)| Extent {
            length,
            blocks,
            plain,
            partial,
        })
    }

    fn tail() -> impl Strategy<Value = Tail> {
        prop_oneof![
            Just(Tail::Cluster),
            any::<(u64, u16)>().prop_map(|(kept, length)| Tail::Inline { kept, length }),
            any::<u64>().prop_map(|offset| Tail::Fragment { offset }),
        ]
    }

    proptest! {
        #[test]
        fn records_are_read_back_from_any_position(
            size: u64,
            algorithm in 0..4_usize,
            big: bool,
            extents in vec(extent(), 0..9),
            runs in vec(any::<(u32, u64)>(), 0..9),
            tail in tail(),
        ) {
            let runs = runs.into_iter().map(|(first, block)| Run { first, block });
            let contents = Compressed {
                size,
                algorithm: Algorithm::ALL[algorithm],
                big,
                extents,
                runs: runs.collect(),
                tail,
            };
            let mut bytes = vec![0x80; 5];
            put(&mut bytes, &contents);
            bytes.extend([0xff; 5]);
            prop_assert_eq!(get(&bytes[5..], size), contents);
        }
    }
}
