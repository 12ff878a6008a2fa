//! A registry behind a proxy that fails at random: every transfer ends right or with one error, and
//! nothing wrong is kept.

use std::time::Duration;

use ocipull::{CopyOptions, Credentials, Digest, Image, Options, Reference, copy};
use testkit::{FaultyProxy, Registry, transfers};

use crate::support::{GZIP, Layer, Layout, TAR, ZSTD, read, tar};

fn options() -> Options {
    let mut options = Options::default();
    options.plain_http = true;
    options.credentials = Credentials::Anonymous;
    options.stall_timeout = Duration::from_millis(400);
    options.retries = 3;
    options
}

#[test]
fn pulls_through_a_failing_proxy_are_right_or_say_what_failed() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let tars = [300_000, 1000, 900_000].map(|size| tar("f", size));
    let layers: Vec<_> = tars
        .iter()
        .zip([GZIP, ZSTD, TAR])
        .map(|(tar, kind)| Layer::new(tar, kind))
        .collect();
    let layout = Layout::of(&layers);
    let source = format!("oci:{}", layout.path().display());
    let place = format!("{}/app:v1", registry.host);
    copied(&source, &place).expect("nothing fails yet");
    let mut right = 0;
    for seed in 1..=transfers(300) {
        let proxy = FaultyProxy::start(registry.host.clone(), seed * 0x9e37_79b9);
        let reference: Reference = format!("{}/app:v1", proxy.host).parse().expect("a name");
        let pulled = Image::open(&reference, &options()).and_then(|image| {
            (0..tars.len())
                .map(|layer| read(&image, layer))
                .collect::<Result<Vec<_>, _>>()
        });
        match pulled {
            Ok(pulled) => {
                assert!(pulled == tars, "seed {seed}");
                right += 1;
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    // Most faults pass, and trying again helps.
    assert!(right * 2 > transfers(300), "{right} pulls");
}

#[test]
fn pulls_in_ranges_that_are_taken_up_again_are_right_whatever_fails() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let tars = [900_000, 400_000].map(|size| tar("f", size));
    let layers = [Layer::new(&tars[0], TAR), Layer::new(&tars[1], GZIP)];
    let layout = Layout::of(&layers);
    let source = format!("oci:{}", layout.path().display());
    copied(&source, &format!("{}/app:v1", registry.host)).expect("nothing fails yet");
    let mut right = 0;
    for seed in 1..=transfers(200) {
        let proxy = FaultyProxy::start(registry.host.clone(), seed * 0xc2b2_ae35);
        let reference: Reference = format!("{}/app:v1", proxy.host).parse().expect("a name");
        let folder = tempfile::tempdir().expect("a folder");
        let mut options = options();
        options.range_bytes = 32 << 10;
        options.partial_downloads = Some(folder.path().to_owned());
        // The next attempt goes on with what came in this one.
        options.retries = 1;
        for _ in 0..4 {
            let pulled = Image::open(&reference, &options).and_then(|image| {
                (0..tars.len())
                    .map(|layer| read(&image, layer))
                    .collect::<Result<Vec<_>, _>>()
            });
            match pulled {
                Ok(pulled) => {
                    assert!(pulled == tars, "seed {seed}");
                    right += 1;
                    break;
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
    assert!(right * 2 > transfers(200), "{right} pulls");
}

fn copied(source: &str, target: &str) -> Result<Digest, ocipull::Error> {
    copied_in_chunks(source, target, 0)
}

/// As [`copied`], with at most `chunk` bytes in a request, or any number if that is 0.
fn copied_in_chunks(source: &str, target: &str, chunk: u64) -> Result<Digest, ocipull::Error> {
    let mut copying = CopyOptions::default();
    (copying.source, copying.target) = (options(), options());
    copying.target.upload_chunk = chunk;
    let reference = |text: &str| text.parse::<Reference>().expect("a reference");
    copy(&reference(source), &reference(target), &copying)
}

#[test]
fn pushes_through_a_failing_proxy_leave_the_registry_right() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let mut right = 0;
    for seed in 1..=transfers(100) {
        let tars = [200_000 + seed as usize, 500_000].map(|size| tar("f", size));
        let layout = Layout::of(&[Layer::new(&tars[0], GZIP), Layer::new(&tars[1], TAR)]);
        let source = format!("oci:{}", layout.path().display());
        let proxy = FaultyProxy::start(registry.host.clone(), seed * 0x85eb_ca6b);
        let chunk = if seed % 2 == 0 { 0 } else { 70_000 };
        let target = format!("{}/app{seed}:v1", proxy.host);
        let pushed = copied_in_chunks(&source, &target, chunk);
        right += u64::from(pushed.is_ok());
        // Whatever the client reported, the tag names the image or nothing.
        let reference: Reference = format!("{}/app{seed}:v1", registry.host)
            .parse()
            .expect("a name");
        match (Image::open(&reference, &options()), pushed) {
            (Ok(image), pushed) => {
                if let Ok(digest) = pushed {
                    assert_eq!(*image.manifest_digest(), digest, "seed {seed}");
                }
                for (layer, tar) in tars.iter().enumerate() {
                    let there = read(&image, layer).expect("whole");
                    assert!(there == *tar, "seed {seed}");
                }
            }
            (Err(error), Ok(_)) => panic!("seed {seed}: pushed, but {error}"),
            (Err(_), Err(_)) => {}
        }
    }
    assert!(right * 2 > transfers(100), "{right} pushes");
}
