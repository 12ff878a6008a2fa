//! The directory hash half-MD4 (`fs/ext4/hash.c`): MD4's rounds, each over half of its steps.

/// The hash of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NameHash {
    /// What the index is ordered by. Always even: an odd hash in an index means that the block
    /// before goes on.
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

/// The largest hash, which readdir needs as the end of a directory (`EXT4_HTREE_EOF_32BIT << 1`).
const END: u32 = 0xffff_fffe;

const START: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// Hashes a name, taken as signed or unsigned chars, with the superblock's seed; a seed of zeros is
/// no seed.
pub(crate) fn half_md4(name: &[u8], seed: [u8; 16], signed: bool) -> NameHash {
    let mut state = START;
    if seed != [0; 16] {
        for (word, bytes) in state.iter_mut().zip(seed.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
    }
    for (i, chunk) in name.chunks(32).enumerate() {
        // The padding is the length of all that is left of the name, not of this chunk only.
        let left = (name.len() - i * 32) as u32 & 0xff;
        mix(&mut state, &words(chunk, left * 0x0101_0101, signed));
    }
    let major = state[1] & !1;
    NameHash {
        major: if major == END { END - 2 } else { major },
        minor: state[2],
    }
}

/// Eight big-endian words of bytes, sign-extended or not, padded.
fn words(chunk: &[u8], padding: u32, signed: bool) -> [u32; 8] {
    let mut words = [padding; 8];
    for (word, bytes) in words.iter_mut().zip(chunk.chunks(4)) {
        for &byte in bytes {
            let byte = match signed {
                true => byte as i8 as u32,
                false => byte.into(),
            };
            *word = (*word << 8).wrapping_add(byte);
        }
    }
    words
}

fn mix(state: &mut [u32; 4], input: &[u32; 8]) {
    type Select = fn(u32, u32, u32) -> u32;
    /// A round's function, its constant, the order in which it takes the input, and its rotations.
    type Round = (Select, u32, [usize; 8], [u32; 4]);
    const ROUNDS: [Round; 3] = [
        (
            |x, y, z| z ^ (x & (y ^ z)),
            0,
            [0, 1, 2, 3, 4, 5, 6, 7],
            [3, 7, 11, 19],
        ),
        (
            |x, y, z| (x & y).wrapping_add((x ^ y) & z),
            0x5a82_7999,
            [1, 3, 5, 7, 0, 2, 4, 6],
            [3, 5, 9, 13],
        ),
        (
            |x, y, z| x ^ y ^ z,
            0x6ed9_eba1,
            [3, 7, 2, 6, 1, 5, 0, 4],
            [3, 9, 11, 15],
        ),
    ];
    let [mut a, mut b, mut c, mut d] = *state;
    for (select, constant, order, rotations) in ROUNDS {
        for (step, at) in order.into_iter().enumerate() {
            let sum = a
                .wrapping_add(select(b, c, d))
                .wrapping_add(input[at])
                .wrapping_add(constant);
            let rotated = sum.rotate_left(rotations[step % 4]);
            (a, b, c, d) = (d, rotated, b, c);
        }
    }
    for (word, sum) in state.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(sum);
    }
}
