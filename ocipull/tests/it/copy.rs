//! Images copied as they are between registries, layouts and archives.

use std::fs;
use std::path::Path;

use ocipull::{
    CopyOptions, Credentials, Digest, Error, Event, Events, Options, Pushed, Reference, copy,
};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use testkit::{Registry, oracle};

use crate::support::{GZIP, Layer, Layout, TAR, ZSTD, open_with, read, tar};

fn options() -> CopyOptions {
    let mut options = CopyOptions::default();
    for side in [&mut options.source, &mut options.target] {
        side.plain_http = true;
        side.credentials = Credentials::Anonymous;
    }
    options
}

fn copied(source: &str, target: &str, options: &CopyOptions) -> Result<Digest, Error> {
    let reference = |text: &str| text.parse::<Reference>().expect("a reference");
    copy(&reference(source), &reference(target), options)
}

/// A layout of an index for two platforms and an attestation, and the index's descriptor.
fn two_platforms() -> (Layout, Value) {
    let mut layout = Layout::new();
    let mut entries: Vec<Value> = ["amd64", "arm64"]
        .iter()
        .map(|architecture| {
            let layers = [GZIP, ZSTD, TAR].map(|kind| Layer::new(&tar(architecture, 50_000), kind));
            let mut image = layout.image(&layers[..2]);
            if *architecture == "arm64" {
                image = layout.image(&layers);
            }
            image["platform"] = json!({"os": "linux", "architecture": architecture});
            image
        })
        .collect();
    let statement = layout.blob("application/vnd.in-toto+json", b"{\"signed\":true}");
    let config = layout.blob("application/vnd.oci.empty.v1+json", b"{}");
    let mut attestation = layout.document(&json!({
        "schemaVersion": 2, "mediaType": crate::support::MANIFEST,
        "config": config, "layers": [statement],
    }));
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    entries.push(attestation);
    let index = layout.index(&entries);
    layout.list(index.clone(), Some("v1"));
    (layout, index)
}

#[test]
fn several_that_create_one_layout_at_once_all_add_their_image() {
    let source = Layout::of(&[Layer::new(&tar("a", 1_000), GZIP)]);
    let source = format!("oci:{}", source.path().display());
    let folder = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let target = folder.path().join(format!("new{round}"));
        let add = |number: usize| {
            let target = format!("oci:{}:v{number}", target.display());
            copied(&source, &target, &options())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..6).map(|n| scope.spawn(move || add(n))).collect();
            for thread in threads {
                thread.join().unwrap().unwrap();
            }
        });
        let index = fs::read(target.join("index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), 6);
    }
}

#[test]
fn everything_that_a_name_leads_to_is_copied_and_every_digest_stays() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let (layout, index) = two_platforms();
    let dir = tempfile::tempdir().unwrap();
    let host = &registry.host;
    let first = format!("oci:{}:v1", layout.path().display());
    let way = [
        format!("{host}/one/app:v1"),
        format!("oci:{}:again", dir.path().join("layout").display()),
        format!("oci-archive:{}:v1", dir.path().join("a.tar").display()),
        format!("{host}/two/app:v1"),
    ];
    let mut from = first.as_str();
    for to in &way {
        let digest = copied(from, to, &options()).unwrap();
        assert_eq!(digest.as_str(), index["digest"].as_str().unwrap(), "{to}");
        for architecture in ["amd64", "arm64"] {
            let mut reading = options().source;
            reading.platform = format!("linux/{architecture}").parse().unwrap();
            let image = open_with(to, &reading).unwrap();
            for layer in 0..image.layers().len() {
                assert!(read(&image, layer).unwrap() == tar(architecture, 50_000));
            }
        }
        from = to;
    }
    // Programs of others read what was written.
    for place in &way[1..3] {
        let Some(mut skopeo) = oracle("skopeo") else {
            return;
        };
        let output = skopeo.args(["inspect", "--raw", place]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let digest = Digest::sha256(&output.stdout);
        assert_eq!(digest.as_str(), index["digest"].as_str().unwrap());
    }
}

#[test]
fn the_image_for_one_platform_can_be_copied_alone() {
    let (layout, _) = two_platforms();
    let dir = tempfile::tempdir().unwrap();
    let to = format!("oci:{}:v1", dir.path().join("layout").display());
    let mut options = options();
    options.platform = Some("linux/arm64".parse().unwrap());
    let from = format!("oci:{}:v1", layout.path().display());
    let digest = copied(&from, &to, &options).unwrap();
    let image = open_with(&to, &Options::default()).unwrap();
    assert_eq!(*image.manifest_digest(), digest);
    assert_eq!(image.layers().len(), 3);
}

#[test]
fn blobs_are_mounted_within_a_registry_and_not_pushed_twice() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let (layout, _) = two_platforms();
    let (one, two) = (
        format!("{}/one:v1", registry.host),
        format!("{}/two:v1", registry.host),
    );
    let how = Arc::new(Mutex::new(Vec::new()));
    let mut options = options();
    let seen = how.clone();
    options.target.events = Some(Events::new(move |event| {
        if let Event::Pushed { pushed, .. } = event {
            seen.lock().unwrap().push(*pushed);
        }
    }));
    let of = |from: &str, to: &str| {
        copied(from, to, &options).unwrap();
        std::mem::take(&mut *how.lock().unwrap())
    };
    let uploaded = of(&format!("oci:{}:v1", layout.path().display()), &one);
    assert!(uploaded.len() >= 6 && uploaded.iter().all(|how| *how == Pushed::Uploaded));
    assert!(of(&one, &two).iter().all(|how| *how == Pushed::Mounted));
    assert!(of(&one, &two).iter().all(|how| *how == Pushed::Existed));
}

#[test]
fn a_damaged_source_changes_nothing_that_the_target_leads_to() {
    let layout = Layout::of(&[Layer::new(&tar("a", 300_000), TAR)]);
    let good = format!("oci:{}:latest", layout.path().display());
    let dir = tempfile::tempdir().unwrap();
    let (out, archive) = (dir.path().join("layout"), dir.path().join("a.tar"));
    let to = format!("oci:{}:v1", out.display());
    copied(&good, &to, &options()).unwrap();
    let before = fs::read(out.join("index.json")).unwrap();

    let bad = Layout::of(&[Layer::new(&tar("b", 300_000), TAR)]);
    let digest = Digest::sha256(&tar("b", 300_000));
    let blob = bad.blob_path(digest.as_str());
    let whole = fs::read(&blob).unwrap();
    let mut flipped = whole.clone();
    flipped[100_000] ^= 1;
    let from = format!("oci:{}:latest", bad.path().display());
    let tar_target = format!("oci-archive:{}", archive.display());
    for (bytes, expected) in [(&flipped[..], "digest"), (&whole[..100_000], "bytes")] {
        fs::write(&blob, bytes).unwrap();
        for to in [&to, &tar_target] {
            let error = copied(&from, to, &options()).unwrap_err().to_string();
            assert!(
                error.contains(digest.as_str()) && error.contains(expected),
                "{error}"
            );
        }
    }
    assert_eq!(fs::read(out.join("index.json")).unwrap(), before);
    let left = names(dir.path());
    assert_eq!(left, ["layout"], "an archive or a temporary file was left");
    let blobs = names(&out.join("blobs/sha256"));
    assert!(blobs.iter().all(|name| name.len() == 64), "{blobs:?}");
}

#[test]
fn a_wrong_blob_never_reaches_the_registry() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let bad = Layout::of(&[Layer::new(&tar("b", 300_000), TAR)]);
    let digest = Digest::sha256(&tar("b", 300_000));
    let blob = bad.blob_path(digest.as_str());
    let mut bytes = fs::read(&blob).unwrap();
    bytes[100_000] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let from = format!("oci:{}:latest", bad.path().display());
    let error = copied(&from, &format!("{}/app:v1", registry.host), &options()).unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    let missing = open_with(&format!("{}/app:v1", registry.host), &options().source);
    assert!(
        matches!(missing, Err(Error::NotFound { .. })),
        "{missing:?}"
    );
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a folder");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| name.into_string().expect("text"))
        .collect();
    names.sort();
    names
}

#[test]
fn other_images_of_a_layout_stay_and_one_of_the_same_name_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let place = |tag: &str| format!("oci:{}:{tag}", dir.path().join("l").display());
    let of = |size| Layout::of(&[Layer::new(&tar("a", size), GZIP)]);
    for (size, tag) in [(10, "one"), (20, "two"), (30, "one")] {
        let layout = of(size);
        let from = format!("oci:{}", layout.path().display());
        copied(&from, &place(tag), &options()).unwrap();
    }
    for (tag, size) in [("one", 30), ("two", 20)] {
        let image = open_with(&place(tag), &Options::default()).unwrap();
        assert!(read(&image, 0).unwrap() == tar("a", size), "{tag}");
    }
    let full = tempfile::tempdir().unwrap();
    fs::write(full.path().join("precious"), "").unwrap();
    let layout = of(1);
    let from = format!("oci:{}", layout.path().display());
    let error = copied(&from, &format!("oci:{}", full.path().display()), &options());
    assert!(
        matches!(error, Err(Error::InvalidSource { .. })),
        "{error:?}"
    );
    assert_eq!(names(full.path()), ["precious"]);
    for refused in ["docker-archive:x.tar", "dir:x", "oci-archive:-", "oci:x:@1"] {
        let error = copied(&from, refused, &options());
        assert!(
            matches!(error, Err(Error::InvalidReference { .. })),
            "{error:?}"
        );
    }
}

#[test]
fn documents_of_more_bytes_than_memory_should_hold_are_not_copied() {
    let mut layout = Layout::new();
    let manifest = layout.manifest(&[]);
    let entries: Vec<_> = (0..17)
        .map(|number| {
            let mut large = manifest.clone();
            let text = format!("{number}{}", "x".repeat(4_000_000));
            large["annotations"] = json!({"note": text});
            layout.document(&large)
        })
        .collect();
    let index = layout.index(&entries);
    layout.list(index, Some("v1"));
    let dir = tempfile::tempdir().unwrap();
    let from = format!("oci:{}:v1", layout.path().display());
    let to = format!("oci:{}:v1", dir.path().join("out").display());
    let refused = copied(&from, &to, &options());
    assert!(
        matches!(refused, Err(Error::TooLarge { .. })),
        "{refused:?}"
    );
}

#[test]
fn an_image_may_have_more_blobs_than_an_index_may_have_manifests() {
    let mut layout = Layout::new();
    let mut manifest = layout.manifest(&[]);
    let layers = (0..4500).map(|number: u32| layout.blob(TAR, &number.to_le_bytes()));
    manifest["layers"] = layers.collect();
    let image = layout.document(&manifest);
    let index = layout.index(&[image.clone(), image]);
    layout.list(index.clone(), Some("v1"));
    let dir = tempfile::tempdir().unwrap();
    let from = format!("oci:{}:v1", layout.path().display());
    let to = format!("oci:{}:v1", dir.path().join("out").display());
    let digest = copied(&from, &to, &options()).unwrap();
    assert_eq!(digest.as_str(), index["digest"].as_str().unwrap());
}

#[test]
fn foreign_layers_stay_where_their_urls_say() {
    let mut layout = Layout::new();
    let mut manifest = layout.manifest(&[Layer::new(&tar("a", 100), GZIP)]);
    let foreign = Digest::sha256(b"elsewhere");
    let layers = manifest["layers"].as_array_mut().unwrap();
    layers.push(json!({
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": foreign.as_str(), "size": 9, "urls": ["https://elsewhere.example/layer"],
    }));
    let image = layout.document(&manifest);
    layout.list(image.clone(), Some("v1"));
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let from = format!("oci:{}:v1", layout.path().display());
    let digest = copied(&from, &format!("oci:{}:v1", out.display()), &options()).unwrap();
    assert_eq!(digest.as_str(), image["digest"].as_str().unwrap());
    assert!(!out.join("blobs/sha256").join(foreign.hex()).exists());
}
