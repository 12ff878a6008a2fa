use std::io::Read;

use flate2::read::DeflateDecoder;
use proptest::collection::vec;
use proptest::prelude::*;
use testkit::{noise, text};

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

/// What zlib makes of as much.
fn zlib(input: &[u8]) -> usize {
    let level = flate2::Compression::new(6);
    let mut out = Vec::new();
    let mut encoder = flate2::read::DeflateEncoder::new(input, level);
    encoder.read_to_end(&mut out).unwrap()
}

const LEVELS: std::ops::RangeInclusive<u8> = 1..=9;

#[test]
fn empty_input_gives_an_empty_stream_if_that_fits() {
    for level in LEVELS {
        for capacity in 0..10 {
            let packed = pack(level, &[], capacity);
            assert_eq!(packed.bytes.len(), if capacity < 2 { 0 } else { 2 });
        }
    }
}

#[test]
fn small_capacities_are_filled_but_for_five_bytes() {
    for input in [text(5, 3000), noise(5, 3000), vec![0; 3000]] {
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
fn incompressible_input_is_stored() {
    for (length, capacity) in [
        (10_000, 4096),
        (100_000, 65_536),
        (4000, 4096),
        (1 << 20, 1 << 20),
    ] {
        let packed = pack(6, &noise(3, length), capacity);
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
    let repeated = noise(9, 258);
    // As far as can be, and a byte too far.
    for (between, shrinks) in [(32_768 - 258, true), (32_769 - 258, false)] {
        let input = [&repeated[..], &noise(11, between), &repeated].concat();
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
        text(1, 300_000),
        noise(2, 200_000),
        vec![1; 100_000],
        text(3, 500_000).iter().map(|byte| byte & 0x1f).collect(),
        noise(4, 90_000).iter().map(|byte| byte & 0x83).collect(),
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
fn higher_levels_fit_more_input_into_a_cluster() {
    let input = text(3, 100_000);
    let consumed = |level| pack(level, &input, 16_384).consumed;
    assert!(consumed(1) < consumed(6));
    assert!(consumed(6) <= consumed(9));
}

#[test]
fn streams_do_not_depend_on_earlier_inputs_even_where_positions_overflow() {
    let input = text(1, 40_000);
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
        for before in [text(1, 40_000), text(2, 40_000), noise(3, 9000)] {
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

#[test]
fn data_after_a_long_run_of_one_value_is_still_compressed() {
    let input = [vec![7; 7080], text(1, 15_977)].concat();
    let packed = pack(6, &input, 7945);
    let more = packed.consumed + packed.consumed / 100;
    assert!(zlib(&input[..more]) > 7945, "{}", packed.consumed);
}

/// Contents, and whether parts of them have few values.
fn any_input() -> impl Strategy<Value = (Vec<u8>, bool)> {
    let piece = (0..5_usize, 0..20_000_usize, any::<u64>());
    vec(piece, 0..6).prop_map(|pieces| {
        let few = pieces.iter().any(|(kind, ..)| *kind == 4);
        let piece = |(kind, length, seed)| match kind {
            0 => text(seed, length),
            1 => noise(seed, length),
            2 => vec![seed as u8; length],
            3 => noise(seed, length % 300),
            _ => noise(seed, length).iter().map(|byte| byte & 0x45).collect(),
        };
        let contents = pieces.into_iter().map(piece).collect::<Vec<_>>().concat();
        (contents, few)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_stream_inflates_to_the_consumed_input_and_is_not_much_larger_than_zlibs(
        (input, few) in any_input(),
        capacity in prop_oneof![0..100_usize, 100..9000_usize, 9000..100_000_usize],
        level in LEVELS,
    ) {
        let packed = pack(level, &input, capacity);
        // Clusters are blocks. Of few values each costs less than is guessed at first.
        if level >= 6 && capacity >= 512 && !few {
            // Of 4 % more and a few bytes, zlib makes more than fits.
            let more = packed.consumed + packed.consumed * 4 / 100 + 48;
            prop_assert!(
                more > input.len() || zlib(&input[..more]) > capacity,
                "{} in {capacity}, where zlib takes {more}", packed.consumed,
            );
        }
        let again = pack(level, &input, capacity);
        prop_assert!(packed.consumed == again.consumed && packed.bytes == again.bytes);
    }
}
