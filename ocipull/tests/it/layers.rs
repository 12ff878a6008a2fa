//! Layers as streams: compression in all its forms, and every way of being wrong.

use std::io::{self, BufRead, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ocipull::{Digest, Document, Error, Options, Progress, decompress, decompress_bounded};
use proptest::prelude::*;

use crate::support::{GZIP, Layer, Layout, TAR, ZSTD, failure, gzip, open_with, read, tar, zstd};

/// Reads a layer stored as `stored` that should be `tar`.
fn read_stored(stored: Vec<u8>, media_type: &str, tar: &[u8]) -> Result<Vec<u8>, Error> {
    let layout = Layout::of(&[Layer::stored(stored, media_type, tar)]);
    read(&layout.open().expect("sound"), 0)
}

#[test]
fn every_gzip_member_and_zstd_frame_is_read() {
    let tar = tar("a", 400_000);
    let (head, tail) = tar.split_at(150_001);
    let skippable =
        |number: u8| [&[0x50 | number, 0x2a, 0x4d, 0x18, 3, 0, 0, 0], &b"abc"[..]].concat();
    for (name, stored, media_type) in [
        ("members", [gzip(head), gzip(tail)].concat(), GZIP),
        (
            "an empty member",
            [gzip(head), gzip(b""), gzip(tail)].concat(),
            GZIP,
        ),
        ("frames", [zstd(head), zstd(tail)].concat(), ZSTD),
        ("skippable first", [skippable(0), zstd(&tar)].concat(), ZSTD),
        (
            "skippable between",
            [zstd(head), skippable(15), zstd(tail)].concat(),
            ZSTD,
        ),
        ("skippable last", [zstd(&tar), skippable(7)].concat(), ZSTD),
    ] {
        assert!(
            read_stored(stored, media_type, &tar).expect(name) == tar,
            "{name}"
        );
    }
}

#[test]
fn a_wrong_media_type_is_ignored_if_the_bytes_show_the_compression() {
    let tar = tar("a", 1000);
    for media_type in [TAR, GZIP, ZSTD] {
        for stored in [tar.clone(), gzip(&tar), zstd(&tar)] {
            assert_eq!(
                read_stored(stored, media_type, &tar).expect(media_type),
                tar
            );
        }
    }
}

#[test]
fn bytes_after_the_compressed_stream_are_an_error() {
    let tar = tar("a", 1000);
    for (mut stored, media_type) in [(gzip(&tar), GZIP), (zstd(&tar), ZSTD)] {
        stored.extend_from_slice(b"garbage that is no member");
        match failure(Layer::stored(stored, media_type, &tar)) {
            Error::Compression { blob: Some(_), .. } => {}
            other => panic!("{media_type}: {other:?}"),
        }
    }
}

#[test]
fn a_stream_cut_off_is_an_error() {
    let tar = tar("a", 300_000);
    for (stored, media_type) in [(gzip(&tar), GZIP), (zstd(&tar), ZSTD)] {
        for keep in [1, 5, stored.len() / 2, stored.len() - 1] {
            // The digest and the size are those of what is there, as if it had been pushed like
            // this.
            match failure(Layer::stored(stored[..keep].to_vec(), media_type, &tar)) {
                Error::Compression { .. } => assert!(keep > 1),
                // Too short to be seen as compressed.
                Error::DiffIdMismatch { .. } => assert_eq!(keep, 1),
                other => panic!("{media_type}, {keep} bytes: {other:?}"),
            }
        }
    }
}

#[test]
fn a_truncated_blob_is_named_with_its_sizes() {
    let tar = tar("a", 300_000);
    for media_type in [TAR, GZIP, ZSTD] {
        let whole = Layer::new(&tar, media_type);
        let digest = Digest::sha256(&whole.stored).to_string();
        for keep in [0, 1, whole.stored.len() / 2, whole.stored.len() - 1] {
            let layer = Layer {
                stored: whole.stored[..keep].to_vec(),
                digest: Some(digest.clone()),
                size: Some(whole.stored.len()),
                ..whole.clone()
            };
            match failure(layer) {
                Error::SizeMismatch {
                    document: Document::Layer,
                    expected,
                    actual,
                    ..
                } => {
                    assert_eq!((expected, actual), (whole.stored.len() as u64, keep as u64));
                }
                other => panic!("{media_type}, {keep} bytes: {other:?}"),
            }
        }
    }
}

#[test]
fn a_blob_longer_than_its_descriptor_is_refused() {
    let mut layer = Layer::new(&tar("a", 300_000), GZIP);
    layer.size = Some(layer.stored.len() - 1);
    assert!(matches!(failure(layer), Error::SizeMismatch { .. }));
}

#[test]
fn a_changed_blob_is_reported_by_its_digest_even_if_it_does_not_inflate() {
    let tar = tar("a", 300_000);
    for media_type in [TAR, GZIP, ZSTD] {
        let whole = Layer::new(&tar, media_type);
        let digest = Digest::sha256(&whole.stored).to_string();
        for at in [0, 3, 20, whole.stored.len() / 2, whole.stored.len() - 1] {
            let mut layer = whole.clone();
            layer.stored[at] ^= 0x55;
            layer.digest = Some(digest.clone());
            match failure(layer) {
                Error::DigestMismatch {
                    document: Document::Layer,
                    expected,
                    ..
                } => {
                    assert_eq!(expected.as_str(), digest);
                }
                other => panic!("{media_type}, byte {at}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_wrong_diff_id_is_named() {
    for media_type in [TAR, GZIP, ZSTD] {
        let mut layer = Layer::new(&tar("a", 300_000), media_type);
        layer.diff_id = Digest::sha256(b"another").to_string();
        match failure(layer) {
            Error::DiffIdMismatch { expected, .. } => {
                assert_eq!(expected, Digest::sha256(b"another"));
            }
            other => panic!("{media_type}: {other:?}"),
        }
    }
}

#[test]
fn sha512_digests_are_verified_too() {
    use sha2::Digest as _;
    let tar = tar("a", 1000);
    let hex: String = sha2::Sha512::digest(&tar)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let mut layer = Layer::new(&tar, GZIP);
    layer.diff_id = format!("sha512:{hex}");
    let layout = Layout::of(&[layer.clone()]);
    assert_eq!(read(&layout.open().unwrap(), 0).unwrap(), tar);
    layer.diff_id = format!("sha512:{}", "0".repeat(128));
    assert!(matches!(failure(layer), Error::DiffIdMismatch { .. }));
}

#[test]
fn finish_verifies_a_layer_that_was_read_to_its_last_entry() {
    let tar = tar("a", 300_000);
    let mut layer = Layer::new(&tar, GZIP);
    layer.diff_id = Digest::sha256(b"another").to_string();
    let layout = Layout::of(&[layer]);
    let image = layout.open().unwrap();
    let mut reader = image.layer(0).unwrap();
    reader.read_exact(&mut [0; 1000]).unwrap();
    assert!(matches!(reader.finish(), Err(Error::DiffIdMismatch { .. })));
}

#[test]
fn a_swapped_blob_is_rejected_by_read_layer_even_if_only_a_part_is_read() {
    let tar = tar("a", 300_000);
    for media_type in [TAR, GZIP, ZSTD] {
        let mut layer = Layer::new(&tar, media_type);
        layer.digest = Some(Digest::sha256(&layer.stored).to_string());
        // Another tar of the same length, compressed as well: only the digest shows it.
        let mut other = tar.clone();
        *other.last_mut().unwrap() ^= 1;
        other[1000] ^= 1;
        layer.stored = Layer::new(&other, media_type).stored;
        layer.size = Some(layer.stored.len());
        let layout = Layout::of(&[layer]);
        let image = layout.open().unwrap();
        let read = |bytes: usize| {
            image.read_layer(0, |reader| -> Result<Vec<u8>, io::Error> {
                let mut part = vec![0; bytes];
                reader.read_exact(&mut part)?;
                Ok(part)
            })
        };
        for bytes in [0, 10, 1000] {
            let error = read(bytes).unwrap_err();
            assert!(
                matches!(Error::of(&error), Some(Error::DigestMismatch { .. })),
                "{media_type}, {bytes}: {error:?}"
            );
        }
    }
}

#[test]
fn read_layer_returns_what_was_read_or_the_readers_own_error() {
    let tar = tar("a", 300_000);
    let layout = Layout::of(&[Layer::new(&tar, GZIP)]);
    let image = layout.open().unwrap();
    let copied = image.read_layer(0, |reader| io::copy(reader, &mut io::sink()));
    assert_eq!(copied.unwrap(), tar.len() as u64);
    let first = image.read_layer(0, |reader| {
        let mut first = [0];
        reader.read_exact(&mut first).map(|()| first[0])
    });
    assert_eq!(first.unwrap(), tar[0]);
    let own: Result<(), io::Error> = image.read_layer(0, |_| Err(io::Error::other("full")));
    assert_eq!(own.unwrap_err().to_string(), "full");
    let none: Result<(), Error> = image.read_layer(1, |_| Ok(()));
    assert!(matches!(none, Err(Error::NoLayer { .. })));
}

/// What was logged at warn level while `run` ran.
fn warnings(run: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Log(Arc<std::sync::Mutex<Vec<u8>>>);
    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("a sound test").write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, run);
    let bytes = log.0.lock().expect("a sound test").clone();
    String::from_utf8(bytes).expect("a sound test")
}

#[test]
fn a_layer_dropped_before_its_end_is_warned_of_by_its_digest() {
    let tar = tar("a", 300_000);
    let layout = Layout::of(&[Layer::new(&tar, GZIP)]);
    let image = layout.open().unwrap();
    let digest = image.layers()[0].digest.to_string();
    let dropped = warnings(|| drop(image.layer(0).unwrap()));
    assert!(
        dropped.contains(&digest) && dropped.contains("not verified"),
        "{dropped}"
    );
    // Reading it to its end, below, makes up for that.
    assert!(matches!(image.verified(), Err(Error::Unverified { .. })));
    let sound = warnings(|| {
        image.layer(0).unwrap().finish().unwrap();
        image.layer(0).unwrap().abandon();
        let mut whole = image.layer(0).unwrap();
        io::copy(&mut whole, &mut io::sink()).unwrap();
        let failed: Result<(), io::Error> = image.read_layer(0, |_| Err(io::Error::other("full")));
        assert!(failed.is_err());
    });
    assert_eq!(sound, "");
    image.verified().unwrap();
}

#[test]
fn a_layer_dropped_before_its_end_fails_the_reading_of_the_next_one() {
    let tars = [tar("a", 300_000), tar("b", 300_000)];
    let layout = Layout::of(&tars.map(|tar| Layer::new(&tar, GZIP)));
    let image = layout.open().unwrap();
    let mut first = image.layer(0).unwrap();
    first.read_exact(&mut [0; 512]).unwrap();
    drop(first);
    let next = image.read_layer(1, |_| Ok::<_, Error>(())).unwrap_err();
    let dropped = &image.layers()[0].digest;
    assert!(
        matches!(&next, Error::Unverified { layer } if layer == dropped),
        "{next:?}"
    );
    image.read_layer(0, |_| Ok::<_, Error>(())).unwrap();
    image.read_layer(1, |_| Ok::<_, Error>(())).unwrap();
}

#[test]
fn zstd_chunked_and_estargz_are_read_as_plain_streams() {
    let tar = tar("a", 300_000);
    // containers/storage's `zstd:chunked`: a frame for each file, then a skippable frame with the
    // table of contents and one with the footer, which ends in "GNUlInUx".
    let skippable = |bytes: &[u8]| {
        let len = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        [&[0x50, 0x2a, 0x4d, 0x18][..], &len, bytes].concat()
    };
    let mut footer = vec![0; 56];
    footer.extend_from_slice(b"GNUlInUx");
    let frames: Vec<u8> = tar.chunks(70_000).flat_map(zstd).collect();
    let chunked = [frames, skippable(&zstd(b"{}")), skippable(&footer)].concat();
    assert!(read_stored(chunked, ZSTD, &tar).unwrap() == tar);

    // eStargz: a gzip member for each file, one with the table of contents as the last entry of the
    // tar, and an empty member whose extra field (RFC 1952, FEXTRA) is the footer.
    let toc = testkit::TarBuilder::new()
        .file("stargz.index.json", r#"{"version":1,"entries":[]}"#)
        .finish();
    let without_end = &tar[..tar.len() - 1024];
    let whole = [without_end, &toc].concat();
    let members: Vec<u8> = without_end.chunks(70_000).flat_map(gzip).collect();
    let mut footer = vec![
        0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 26, 0, b'S', b'G', 22, 0,
    ];
    footer.extend_from_slice(b"0000000000001234STARGZ");
    footer.extend_from_slice(&[1, 0, 0, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0]);
    let estargz = [members, gzip(&toc), footer].concat();
    assert!(read_stored(estargz, GZIP, &whole).unwrap() == whole);
}

#[test]
fn a_layer_that_is_dropped_stops() {
    let tar = tar("a", 8 << 20);
    let layout = Layout::of(&[Layer::new(&tar, GZIP), Layer::new(&tar, TAR)]);
    let image = layout.open().unwrap();
    for index in 0..2 {
        let mut reader = image.layer(index).unwrap();
        reader.read_exact(&mut [0; 10]).unwrap();
        let fetched = reader.fetched();
        reader.abandon();
        // All it could have fetched is what its buffers hold.
        assert!(fetched.bytes() < 4 << 20);
    }
}

#[test]
fn layers_that_inflate_without_end_are_stopped() {
    let zeros = vec![0; 64 << 20];
    let layout = Layout::of(&[Layer::new(&zeros, GZIP), Layer::new(&zeros, ZSTD)]);
    let reference = format!("oci:{}", layout.path().display());
    let mut options = Options::default();
    options.max_layer_bytes = 1 << 20;
    let image = open_with(&reference, &options).unwrap();
    for index in 0..2 {
        let mut reader = image.layer(index).unwrap();
        let mut bytes = 0;
        let error = loop {
            match reader.fill_buf() {
                Ok(buffer) => {
                    assert!(!buffer.is_empty(), "no error at the end");
                    bytes += buffer.len();
                    let n = buffer.len();
                    reader.consume(n);
                }
                Err(error) => break error,
            }
        };
        assert!(bytes <= 1 << 20);
        assert!(
            matches!(
                Error::of(&error),
                Some(Error::Bomb {
                    limit: 1_048_576,
                    ..
                })
            ),
            "{error}"
        );
    }
}

#[test]
fn progress_adds_up_to_the_size_of_the_blob() {
    let layout = Layout::of(&[Layer::new(&tar("a", 1 << 20), GZIP)]);
    let total = Arc::new(AtomicU64::new(0));
    let mut options = Options::default();
    let counter = total.clone();
    options.progress = Some(Progress::new(move |done| {
        counter.fetch_max(done.bytes, Ordering::Relaxed);
    }));
    let image = open_with(&format!("oci:{}", layout.path().display()), &options).unwrap();
    let mut reader = image.layer(0).unwrap();
    io::copy(&mut reader, &mut io::sink()).unwrap();
    assert_eq!(reader.bytes_fetched(), image.layers()[0].size);
    assert_eq!(total.load(Ordering::Relaxed), image.layers()[0].size);
}

#[test]
fn any_stream_is_decompressed_by_what_it_is() {
    let tar = tar("a", 300_000);
    for stored in [tar.clone(), gzip(&tar), zstd(&tar), Vec::new()] {
        let expected = if stored.is_empty() { &[][..] } else { &tar };
        let mut stream = decompress(Cursor::new(stored)).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        assert!(bytes == expected);
        assert_eq!(stream.finish().unwrap(), Digest::sha256(expected));
    }
    for stored in [gzip(&tar), tar.clone()] {
        let mut stream = decompress_bounded(Cursor::new(stored), 1000).unwrap();
        let error = stream.read_to_end(&mut Vec::new()).unwrap_err();
        assert!(matches!(
            Error::of(&error),
            Some(Error::Bomb {
                blob: None,
                limit: 1000
            })
        ));
    }
    let cut = gzip(&tar)[..100].to_vec();
    assert!(matches!(
        decompress(Cursor::new(cut)).unwrap().finish(),
        Err(Error::Compression {
            blob: None,
            compression: "gzip",
            ..
        })
    ));
}

#[test]
fn the_error_of_a_stream_is_passed_on() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::new(io::ErrorKind::TimedOut, "gone"))
        }
    }
    let tar = tar("a", 1 << 20);
    for stored in [&[][..], &tar, &gzip(&tar)] {
        let before = stored.len() / 2;
        let broken = Cursor::new(stored[..before].to_vec()).chain(Broken);
        let mut stream = decompress(broken).unwrap();
        let error = stream.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "after {before}");
        assert!(matches!(Error::of(&error), Some(Error::Read { .. })));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn streams_compressed_in_pieces_are_decompressed_whole(
        pieces in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..5000), 1..40_usize), 1..5),
        format in 0..3,
    ) {
        let mut whole = Vec::new();
        let mut stored = Vec::new();
        for (bytes, times) in pieces {
            let piece = bytes.repeat(times);
            match format {
                0 => stored.extend(gzip(&piece)),
                1 => stored.extend(zstd(&piece)),
                _ => stored.extend(&piece),
            }
            whole.extend(piece);
        }
        // Plain bytes may look like something else by chance.
        prop_assume!(format < 2 || !matches!(whole.first(), Some(0x1f | 0x28 | 0x50..=0x5f)));
        prop_assert_eq!(decompress(Cursor::new(stored)).unwrap().finish().unwrap(), Digest::sha256(&whole));
    }

    #[test]
    fn no_bytes_make_the_decoders_panic_or_hang(
        magic in prop::sample::select(vec![&[0x1f, 0x8b, 8, 0][..], &[0x28, 0xb5, 0x2f, 0xfd], &[0x50, 0x2a, 0x4d, 0x18], &[]]),
        bytes in prop::collection::vec(any::<u8>(), 0..500),
    ) {
        let _ = decompress_bounded(Cursor::new([magic, &bytes].concat()), 1 << 24).unwrap().finish();
    }
}
