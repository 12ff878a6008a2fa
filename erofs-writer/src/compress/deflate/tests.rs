use std::io::Read;

use flate2::read::DeflateDecoder;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Encodes, and checks what must always hold.
fn pack(level: u8, input: &[u8], capacity: usize) -> Packed {
    let packed = Encoder::new(level).pack(input, capacity).unwrap();
    assert!(packed.bytes.len() <= capacity);
    let mut out = Vec::new();
    if !packed.bytes.is_empty() {
        let mut decoder = DeflateDecoder::new(&packed.bytes[..]);
        decoder.read_to_end(&mut out).unwrap();
        assert_eq!(decoder.total_in(), packed.bytes.len() as u64);
    }
    assert!(out == input[..packed.consumed]);
    packed
}

/// Bytes that do not shrink.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Bytes of which a few are new and the rest were there before.
fn text(length: usize, seed: u64) -> Vec<u8> {
    let words = noise(4200, 1);
    let mut state = seed | 1;
    let mut text = Vec::with_capacity(length + 32);
    while text.len() < length {
        state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        let at = (state >> 40) as usize % 4000;
        text.extend_from_slice(&words[at..at + 3 + (state >> 58) as usize / 4]);
    }
    text.truncate(length);
    text
}

/// What zlib makes of as much.
fn zlib(input: &[u8]) -> usize {
    let level = flate2::Compression::new(6);
    let mut out = Vec::new();
    let mut encoder = flate2::read::DeflateEncoder::new(input, level);
    encoder.read_to_end(&mut out).unwrap()
}

const LEVELS: std::ops::RangeInclusive<u8> = 1..=9;

#[test]
fn nothing_is_an_empty_stream_where_that_fits() {
    for level in LEVELS {
        for capacity in 0..10 {
            let packed = pack(level, &[], capacity);
            assert_eq!(packed.bytes.len(), if capacity < 2 { 0 } else { 2 });
        }
    }
}

#[test]
fn any_few_bytes_are_filled() {
    for input in [text(3000, 5), noise(3000, 5), vec![0; 3000]] {
        for capacity in 0..200 {
            for level in [1, 6, 9] {
                let packed = pack(level, &input, capacity);
                let least = capacity.saturating_sub(5);
                assert!(
                    packed.consumed >= least,
                    "{} in {capacity}",
                    packed.consumed
                );
            }
        }
    }
}

#[test]
fn what_does_not_shrink_is_stored() {
    for (length, capacity) in [
        (10_000, 4096),
        (100_000, 65_536),
        (4000, 4096),
        (1 << 20, 1 << 20),
    ] {
        let packed = pack(6, &noise(length, 3), capacity);
        let most = length.min(capacity);
        // The first block cannot be, where more follow.
        let least = most - 5 - most / 256 - 5 * (most / STORED_MAX);
        assert!(packed.consumed >= least, "{} of {most}", packed.consumed);
    }
}

/// Bytes of a stored block at most.
const STORED_MAX: usize = 65_535;

#[test]
fn one_symbol_fills_clusters_of_any_size() {
    for byte in [0, 7, 255] {
        for (length, capacity) in [
            (1, 4096),
            (2, 64),
            (5000, 64),
            (1 << 20, 4096),
            (1 << 20, 1 << 20),
        ] {
            let packed = pack(6, &vec![byte; length], capacity);
            assert!(packed.consumed == length || packed.bytes.len() == capacity);
        }
    }
}

#[test]
fn the_longest_and_the_farthest_matches_are_found() {
    let repeated = noise(258, 9);
    // As far as can be, and a byte too far.
    for (between, shrinks) in [(32_768 - 258, true), (32_769 - 258, false)] {
        let input = [&repeated[..], &noise(between, 11), &repeated].concat();
        for level in LEVELS {
            let packed = pack(level, &input, input.len() + 100);
            assert_eq!(packed.consumed, input.len());
            let saved = input.len() as isize - packed.bytes.len() as isize;
            assert_eq!(saved > 150, shrinks, "{saved} at level {level}");
        }
    }
}

#[test]
fn large_clusters_take_little_more_than_zlib_does() {
    let mixed = [
        text(300_000, 1),
        noise(200_000, 2),
        vec![1; 100_000],
        text(500_000, 3).iter().map(|byte| byte & 0x1f).collect(),
        noise(90_000, 4).iter().map(|byte| byte & 0x83).collect(),
    ];
    let input = mixed.concat();
    for capacity in [4096, 65_536, 200_000, 1 << 20] {
        let packed = pack(6, &input, capacity);
        let other = zlib(&input[..packed.consumed]);
        assert!(
            packed.bytes.len() * 100 <= other * 101,
            "{} or {other}",
            packed.bytes.len()
        );
        let full = packed.consumed == input.len() || packed.bytes.len() + 8 >= capacity;
        assert!(full, "{} of {capacity}", packed.bytes.len());
    }
}

#[test]
fn higher_levels_take_more_input() {
    let input = text(100_000, 3);
    let consumed = |level| pack(level, &input, 16_384).consumed;
    assert!(consumed(1) < consumed(6));
    assert!(consumed(6) <= consumed(9));
}

#[test]
fn streams_do_not_depend_on_inputs_before_even_where_positions_run_out() {
    let input = text(40_000, 1);
    let expected = pack(6, &input, 4096).bytes;
    for base in [
        1,
        1 << 20,
        u32::MAX - 40_001,
        u32::MAX - 40_000,
        u32::MAX - 39_999,
        u32::MAX,
    ] {
        let mut encoder = Encoder::new(6);
        for before in [text(40_000, 1), text(40_000, 2), noise(9000, 3)] {
            encoder.pack(&before, 4096).unwrap();
        }
        encoder.finder.base = encoder.finder.base.max(base);
        assert!(
            encoder.pack(&input, 4096).unwrap().bytes == expected,
            "{base}"
        );
        assert!(
            encoder.pack(&input, 4096).unwrap().bytes == expected,
            "{base}"
        );
    }
}

fn any_input() -> impl Strategy<Value = Vec<u8>> {
    let piece = (0..5_usize, 0..20_000_usize, any::<u64>());
    vec(piece, 0..6).prop_map(|pieces| {
        let piece = |(kind, length, seed)| match kind {
            0 => text(length, seed),
            1 => noise(length, seed),
            2 => vec![seed as u8; length],
            3 => noise(length % 300, seed),
            _ => noise(length, seed).iter().map(|byte| byte & 0x45).collect(),
        };
        pieces.into_iter().map(piece).collect::<Vec<_>>().concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn anything_inflates_to_as_much_as_was_taken_and_zlib_takes_little_less(
        input in any_input(),
        capacity in prop_oneof![0..100_usize, 100..9000_usize, 9000..100_000_usize],
        level in LEVELS,
    ) {
        let packed = pack(level, &input, capacity);
        if level >= 6 {
            // Of 3 % more and a few bytes, zlib makes more than fits.
            let more = packed.consumed + packed.consumed * 3 / 100 + 48;
            prop_assert!(
                more > input.len() || zlib(&input[..more]) > capacity,
                "{} in {capacity}, where zlib takes {more}", packed.consumed,
            );
        }
        let again = pack(level, &input, capacity);
        prop_assert!(packed.consumed == again.consumed && packed.bytes == again.bytes);
    }
}
