use std::io::{BufReader, Write};
use std::num::NonZeroUsize;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;

/// Small parts, so that little data has many.
const SMALL: Cut = Cut {
    part: 2000,
    search: 120_000,
    most: 1 << 20,
    ahead: 3,
};

fn cores(count: usize) -> Cores {
    Cores::new(NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN))
}

/// All bytes up to the end or an error, and what was done.
fn gunzip(bytes: &[u8], cut: Cut) -> (Vec<u8>, io::Result<()>, Work) {
    let mut reader = Gunzip::new(BufReader::new(bytes), cores(5), cut);
    let mut out = Vec::new();
    let result = reader.read_to_end(&mut out).map(drop);
    (out, result, reader.work())
}

fn serial(bytes: &[u8]) -> (Vec<u8>, io::Result<()>) {
    let mut out = Vec::new();
    let result = MultiGzDecoder::new(bytes).read_to_end(&mut out).map(drop);
    (out, result)
}

fn gzip(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(bytes).expect("a vector takes all");
    encoder.finish().expect("a vector takes all")
}

/// Words in an order that a seed gives: what compresses, with references near and far.
fn words(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len + 16);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match state % 8 {
            0 => bytes.extend(state.to_le_bytes()),
            1 if bytes.len() > 40_000 => {
                let from = bytes.len() - 20_000 - (state >> 20) as usize % 12_000;
                bytes.extend_from_within(from..from + 3 + (state >> 40) as usize % 200);
            }
            _ => bytes.extend(format!("{:x} ", state >> 54).bytes()),
        }
    }
    bytes
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let bytes = (0..len).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    });
    bytes.collect()
}

fn equal(bytes: &[u8], cut: Cut) -> Work {
    let (expected, result) = serial(bytes);
    let (actual, found, work) = gunzip(bytes, cut);
    let kind = |result: &io::Result<()>| result.as_ref().map_err(io::Error::kind).copied();
    assert_eq!(kind(&found), kind(&result));
    if result.is_ok() {
        assert!(actual == expected, "other bytes");
    } else {
        let common = actual.len().min(expected.len());
        assert!(actual[..common] == expected[..common], "other bytes");
    }
    work
}

#[test]
fn parts_inflated_ahead_are_what_the_serial_decoder_makes_of_them() {
    for level in [2, 6, 9] {
        let work = equal(&gzip(&words(7, 3 << 20), level), SMALL);
        assert!(work.known > 0 && work.ahead > 10, "{work:?}");
        assert_eq!(work.again, 0, "{work:?}");
    }
}

#[test]
fn markers_end_once_the_window_is_known() {
    let cut = Cut {
        part: 200 << 10,
        ..Cut::default()
    };
    // What does not compress has no references; others go on for ever.
    let mut data = Vec::new();
    for part in 0..16 {
        data.extend(words(part, 400_000));
        data.extend(noise(100_000));
    }
    let work = equal(&gzip(&data, 6), cut);
    assert!(work.ahead > 4 && work.again == 0, "{work:?}");
    assert!(work.marked < data.len() as u64 / 2, "{work:?}");
}

#[test]
fn without_a_spare_core_nothing_is_inflated_ahead() {
    let bytes = gzip(&words(3, 1 << 20), 6);
    let shared = cores(3);
    let _other = shared.occupy();
    let mut reader = Gunzip::new(&bytes[..], shared, SMALL);
    let mut out = Vec::new();
    reader.read_to_end(&mut out).expect("it is whole");
    let work = reader.work();
    assert!(out == serial(&bytes).0);
    assert!(
        work.known > 0 && work.ahead == 0 && work.again == 0,
        "{work:?}"
    );
    let mut reader = Gunzip::new(&bytes[..], cores(2), SMALL);
    reader.read_to_end(&mut Vec::new()).expect("it is whole");
    assert_eq!(reader.work(), Work::default());
}

#[test]
fn stored_fixed_and_flushed_blocks_are_inflated() {
    // Incompressible, so stored; and gzip within gzip, whose blocks look like the outer ones.
    let noise = noise(400_000);
    equal(&gzip(&noise, 0), SMALL);
    equal(&gzip(&noise, 6), SMALL);
    equal(&gzip(&gzip(&words(5, 2 << 20), 6), 0), SMALL);
    equal(&gzip(&gzip(&words(5, 2 << 20), 6), 6), SMALL);
    // As pigz and `gzip --rsyncable` write it.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    for part in words(11, 1 << 20).chunks(10_000) {
        encoder.write_all(part).expect("a vector takes all");
        encoder.flush().expect("a vector takes all");
    }
    let work = equal(&encoder.finish().expect("a vector takes all"), SMALL);
    assert!(work.ahead > 10 && work.again == 0, "{work:?}");
}

#[test]
fn all_members_are_inflated() {
    let mut bytes = Vec::new();
    for member in 0..300 {
        bytes.extend(gzip(&words(member, 1000), 6));
    }
    equal(&bytes, SMALL);
    let mut bytes = gzip(&words(1, 400_000), 6);
    bytes.extend(gzip(&words(2, 400_000), 6));
    equal(&bytes, SMALL);
    bytes.extend(b"garbage");
    equal(&bytes, SMALL);
}

#[test]
fn what_inflates_to_too_much_goes_to_the_serial_decoder() {
    let cut = Cut {
        most: 100_000,
        ..SMALL
    };
    let mut data = words(1, 300_000);
    data.extend(vec![0; 40 << 20]);
    data.extend(words(2, 300_000));
    let work = equal(&gzip(&data, 6), cut);
    assert!(work.again > 0, "{work:?}");
}

#[test]
fn damage_gives_the_serial_decoders_error() {
    let whole = gzip(&words(21, 300_000), 6);
    for at in (0..whole.len()).step_by(whole.len() / 50) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        equal(&damaged, SMALL);
        equal(&whole[..at], SMALL);
    }
    for at in whole.len() - 9..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        equal(&damaged, SMALL);
        equal(&whole[..at], SMALL);
    }
}

#[test]
fn a_part_is_spliced_at_every_bit_of_a_byte() {
    let data = words(13, 3 << 20);
    let bytes = gzip(&data, 6);
    let body = &bytes[10..];
    let (mut bits, mut blocks, mut out) = (Bits::at(body, 0), Blocks::new(), Marked::new(4 << 20));
    let mut ends = vec![(0, 0)];
    while !blocks.block(&mut bits, &mut out).expect("it is whole") {
        ends.push((bits.position(), out.values.len() - WINDOW));
    }
    let mut seen = [false; 8];
    for pair in ends.windows(2) {
        let [(start, from), (end, to)] = *pair else {
            continue;
        };
        seen[start % 8] = true;
        let window = &data[from.saturating_sub(WINDOW)..from];
        let part = splice::inflate(Vec::new(), window, body, start, end, 1 << 20).expect("blocks");
        assert!(part[window.len()..] == data[from..to]);
        for wrong in [end - 9, end - 1, end + 1, end + 9] {
            assert!(splice::inflate(Vec::new(), window, body, start, wrong, 1 << 20).is_err());
        }
        assert!(splice::inflate(Vec::new(), window, body, start, end, to - from - 1).is_err());
    }
    assert!(seen.iter().all(|&seen| seen), "{seen:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_data_inflates_as_the_serial_decoder_does(
        seed in any::<u64>(),
        len in 0_usize..600_000,
        level in 0_u32..10,
        flip in prop::option::of(any::<prop::sample::Index>()),
        part in 100_usize..20_000,
    ) {
        let mut bytes = gzip(&words(seed, len), level);
        if let Some(flip) = flip {
            let at = flip.index(bytes.len() * 8);
            bytes[at / 8] ^= 1 << (at % 8);
        }
        equal(&bytes, Cut { part, ..SMALL });
    }
}
