//! The decoders of clusters beside independent libraries: what one accepts, the other
//! takes for the same bytes.

#![cfg(all(feature = "deflate", feature = "lzma"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Read;

use erofs_reader::{Algorithm, decode_cluster};
use proptest::prelude::*;

/// Data that compresses in parts: noise, runs, and what was there before at many distances.
fn data() -> impl Strategy<Value = Vec<u8>> {
    let noise = prop::collection::vec(any::<u8>(), 0..600).prop_map(|bytes| (bytes, 0, 0));
    let few = prop::collection::vec(0_u8..4, 0..600).prop_map(|bytes| (bytes, 0, 0));
    let again = (0_usize..30_000, 0_usize..2_000).prop_map(|(at, length)| (vec![], at, length));
    let part = prop_oneof![noise, few, again];
    prop::collection::vec(part, 0..40).prop_map(|parts| {
        let mut data: Vec<u8> = Vec::new();
        for (bytes, distance, length) in parts {
            data.extend(bytes);
            for _ in 0..length {
                let from = data.len().checked_sub(1 + distance % data.len().max(1));
                data.push(from.map_or(7, |from| data[from]));
            }
        }
        data
    })
}

/// Bytes to change, by their positions in thousandths of a length.
fn damage() -> impl Strategy<Value = Vec<(usize, u8)>> {
    prop::collection::vec((0_usize..1000, 1_u8..=255), 1..4)
}

fn damaged(mut bytes: Vec<u8>, damage: &[(usize, u8)]) -> Vec<u8> {
    for (at, by) in damage {
        let at = at * bytes.len() / 1000;
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= by;
        }
    }
    bytes
}

/// Decodes to `length` bytes, by this crate and by another, and compares. What is after the last
/// byte that was asked for is nobody's matter: so the other may see an error there.
fn compare(
    algorithm: Algorithm,
    input: &[u8],
    length: usize,
    theirs: impl Fn(&[u8], &mut [u8]) -> usize,
) -> Result<(), TestCaseError> {
    if length == 0 {
        return Ok(());
    }
    let mut expected = vec![0; length];
    let whole = theirs(input, &mut expected) == length;
    let mut found = vec![0; length];
    let decoded = decode_cluster(algorithm, input, &mut found);
    prop_assert_eq!(decoded.is_some(), whole);
    if whole {
        prop_assert!(found == expected);
    }
    Ok(())
}

fn deflated(data: &[u8], level: u32) -> Vec<u8> {
    use flate2::{Compress, Compression, FlushCompress};
    let mut compress = Compress::new(Compression::new(level), false);
    let mut bytes = Vec::with_capacity(data.len() * 2 + 100);
    compress
        .compress_vec(data, &mut bytes, FlushCompress::Finish)
        .unwrap();
    bytes
}

/// How many bytes zlib decodes.
fn zlib(input: &[u8], output: &mut [u8]) -> usize {
    use flate2::{Decompress, FlushDecompress};
    let mut inflate = Decompress::new(false);
    let _ = inflate.decompress(input, output, FlushDecompress::Finish);
    inflate.total_out() as usize
}

fn micro_lzma(data: &[u8], (lc, lp, pb): (u32, u32, u32)) -> Vec<u8> {
    let mut options = lzma_rust2::LzmaOptions::with_preset(3);
    (options.lc, options.lp, options.pb) = (lc, lp, pb);
    let mut encoder = lzma_rust2::MicroLzmaEncoder::new(&options).unwrap();
    let mut bytes = vec![0; data.len() * 2 + 100];
    let (taken, length) = encoder.compress_prefix(data, &mut bytes).unwrap();
    assert_eq!(taken, data.len());
    bytes.truncate(length);
    bytes
}

/// How many bytes the crate `lzma-rust2` decodes, byte by byte as it gives them.
fn lzma_rust2(input: &[u8], output: &mut [u8]) -> usize {
    let Some((&first, rest)) = input.split_first() else {
        return 0;
    };
    let properties = !first;
    let (lc, lp, pb) = (properties % 9, properties / 9 % 5, properties / 45);
    if pb > 4 || lc + lp > 4 {
        return 0;
    }
    let stream = [&[0][..], rest].concat();
    // A match may go on after what is asked for.
    let length = output.len() as u64 + 273;
    let dictionary = output.len().max(4096) as u32;
    let (lc, lp, pb) = (lc.into(), lp.into(), pb.into());
    let reader = lzma_rust2::LzmaReader::new(&stream[..], length, lc, lp, pb, dictionary, None);
    let Ok(mut reader) = reader else {
        return 0;
    };
    for (done, byte) in output.iter_mut().enumerate() {
        if reader.read_exact(std::slice::from_mut(byte)).is_err() {
            return done;
        }
    }
    output.len()
}

fn properties() -> impl Strategy<Value = (u32, u32, u32)> {
    (0_u32..=4, 0_u32..=4, 0_u32..=4).prop_map(|(lc, lp, pb)| (lc, lp.min(4 - lc), pb))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn deflate_decodes_any_prefix_of_zlib_data(
        data in data(), level in 0_u32..10, part in 0_usize..1000
    ) {
        let input = deflated(&data, level);
        let part = data.len() * part / 1000;
        for length in [data.len(), part] {
            let mut found = vec![0; length];
            prop_assert!(decode_cluster(Algorithm::Deflate, &input, &mut found).is_some());
            prop_assert!(found == data[..length]);
        }
        prop_assert!(decode_cluster(Algorithm::Deflate, &input, &mut vec![0; data.len() + 1]).is_none());
    }

    #[test]
    fn deflate_accepts_the_damaged_streams_that_zlib_accepts(
        data in data(), level in 0_u32..10, damage in damage(), part in 1_usize..=1000
    ) {
        let input = damaged(deflated(&data, level), &damage);
        compare(Algorithm::Deflate, &input, data.len() * part / 1000, zlib)?;
        let cut = &input[..input.len() * part / 1000];
        compare(Algorithm::Deflate, cut, data.len(), zlib)?;
    }

    #[test]
    fn lzma_decodes_any_prefix_of_the_data(
        data in data(), properties in properties(), part in 0_usize..1000
    ) {
        let input = micro_lzma(&data, properties);
        let part = data.len() * part / 1000;
        for length in [data.len(), part] {
            let mut found = vec![0; length];
            prop_assert!(decode_cluster(Algorithm::Lzma, &input, &mut found).is_some());
            prop_assert!(found == data[..length]);
        }
    }

    #[test]
    fn lzma_accepts_the_damaged_streams_that_another_decoder_accepts(
        data in data(), properties in properties(), damage in damage(), part in 1_usize..=1000
    ) {
        let input = damaged(micro_lzma(&data, properties), &damage);
        compare(Algorithm::Lzma, &input, data.len() * part / 1000, lzma_rust2)?;
        let cut = &input[..input.len() * part / 1000];
        compare(Algorithm::Lzma, cut, data.len(), lzma_rust2)?;
    }
}
