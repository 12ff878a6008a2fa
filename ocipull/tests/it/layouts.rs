//! OCI layouts: names, indexes, platforms, and what is not an image.

use std::fs;

use ocipull::{Digest, Document, Error, Options, SourceProblem};
use serde_json::{Value, json};

use crate::support::{GZIP, INDEX, Layer, Layout, MANIFEST, TAR, ZSTD, open, open_with, read, tar};

#[test]
fn every_layer_is_read_whatever_its_compression() {
    let tars = [
        tar("a", 10),
        tar("b", 1 << 20),
        tar("c", 300_000),
        Vec::new(),
    ];
    let layers: Vec<_> = tars
        .iter()
        .zip([GZIP, ZSTD, TAR, GZIP])
        .map(|(tar, kind)| Layer::new(tar, kind))
        .collect();
    let layout = Layout::of(&layers);
    let image = layout.open().unwrap();
    assert_eq!(image.layers().len(), 4);
    for (index, tar) in tars.iter().enumerate() {
        let layer = &image.layers()[index];
        assert_eq!(layer.diff_id, Digest::sha256(tar));
        assert_eq!(layer.digest, Digest::sha256(&layers[index].stored));
        assert!(read(&image, index).unwrap() == *tar, "layer {index}");
    }
    assert_eq!(
        *image.manifest_digest(),
        Digest::sha256(image.manifest_bytes())
    );
    assert_eq!(*image.config_digest(), Digest::sha256(image.config_bytes()));
    let config = image.config().config().unwrap();
    assert_eq!(config.cmd(), ["/bin/true"]);
    assert!(matches!(
        image.layer(4),
        Err(Error::NoLayer {
            index: 4,
            layers: 4
        })
    ));
}

#[test]
fn a_layer_listed_twice_is_read_twice() {
    let layer = Layer::new(&tar("a", 1000), GZIP);
    let image = Layout::of(&[layer.clone(), layer]).open().unwrap();
    let (first, second) = (read(&image, 0), read(&image, 1));
    // The layout is gone by now, so both must fail alike, on the file.
    assert!(matches!(
        (first, second),
        (Err(Error::Io { .. }), Err(Error::Io { .. }))
    ));
    let layer = Layer::new(&tar("a", 1000), GZIP);
    let layout = Layout::of(&[layer.clone(), layer]);
    let image = layout.open().unwrap();
    assert_eq!(read(&image, 0).unwrap(), read(&image, 1).unwrap());
}

#[test]
fn images_have_no_layers_or_many() {
    for count in [0, 1, 127, 500] {
        let tars: Vec<_> = (0..count).map(|index| tar("f", index)).collect();
        let layers: Vec<_> = tars.iter().map(|tar| Layer::new(tar, TAR)).collect();
        let layout = Layout::of(&layers);
        let image = layout.open().unwrap();
        assert_eq!(image.layers().len(), count);
        if let Some(last) = count.checked_sub(1) {
            assert_eq!(read(&image, last).unwrap(), tars[last]);
        }
    }
}

#[test]
fn a_layer_that_is_part_of_another_is_refused_by_its_role() {
    for (role, refused) in [
        ("overlay-lower", false),
        ("device", true),
        ("overlay-data", true),
    ] {
        let mut layout = Layout::new();
        let layers = [Layer::new(&tar("a", 1), TAR), Layer::new(&tar("b", 2), TAR)];
        let mut manifest = layout.manifest(&layers);
        manifest["layers"][0]["annotations"] = json!({"org.erofs.role": role});
        let image = layout.document(&manifest);
        layout.list(image, Some("latest"));
        match layout.open() {
            Ok(_) => assert!(!refused, "{role}"),
            Err(Error::LayerRole {
                digest,
                role: named,
            }) => {
                assert!(refused && named == role);
                assert_eq!(digest.as_str(), manifest["layers"][0]["digest"]);
            }
            other => panic!("{role}: {other:?}"),
        }
    }
}

#[test]
fn images_are_found_by_name() {
    let mut layout = Layout::new();
    let one = layout.image(&[Layer::new(&tar("one", 1), TAR)]);
    let two = layout.image(&[Layer::new(&tar("two", 2), TAR)]);
    layout.list(one.clone(), Some("v1"));
    layout.list(two.clone(), Some("docker.io/library/x:v2"));
    let path = layout.path().display();
    for (tag, expected) in [("v1", &one), ("docker.io/library/x:v2", &two)] {
        let image = open(&format!("oci:{path}:{tag}")).unwrap();
        assert_eq!(
            image.manifest_digest().as_str(),
            expected["digest"].as_str().unwrap()
        );
    }
    match open(&format!("oci:{path}")) {
        Err(Error::NoSuchImage {
            tag: None,
            available,
            ..
        }) => {
            assert_eq!(available, ["docker.io/library/x:v2", "v1"]);
        }
        other => panic!("{other:?}"),
    }
    match open(&format!("oci:{path}:v3")) {
        Err(Error::NoSuchImage { tag: Some(tag), .. }) => assert_eq!(tag, "v3"),
        other => panic!("{other:?}"),
    }
}

/// `descriptor` for a platform.
fn on(mut descriptor: Value, os: &str, architecture: &str) -> Value {
    descriptor["platform"] = json!({"os": os, "architecture": architecture});
    descriptor
}

#[test]
fn the_wanted_platform_is_taken_from_nested_indexes_past_attestations() {
    let mut layout = Layout::new();
    let arm = layout.image(&[Layer::new(&tar("arm", 1), TAR)]);
    let amd = layout.image(&[Layer::new(&tar("amd", 2), TAR)]);
    let attestation = layout.image(&[Layer::new(&tar("sbom", 3), TAR)]);
    let inner = layout.index(&[
        on(attestation, "unknown", "unknown"),
        on(arm.clone(), "linux", "arm64"),
        on(amd.clone(), "linux", "amd64"),
    ]);
    let outer = layout.index(&[inner]);
    layout.list(outer, Some("latest"));
    let reference = format!("oci:{}", layout.path().display());
    for (platform, expected) in [("linux/arm64", &arm), ("linux/amd64", &amd)] {
        let mut options = Options::default();
        options.platform = platform.parse().unwrap();
        let image = open_with(&reference, &options).unwrap();
        assert_eq!(
            image.manifest_digest().as_str(),
            expected["digest"].as_str().unwrap()
        );
    }
    let mut options = Options::default();
    options.platform = "linux/riscv64".parse().unwrap();
    match open_with(&reference, &options) {
        Err(Error::NoPlatform { available, .. }) => {
            let available: Vec<_> = available.iter().map(ToString::to_string).collect();
            assert_eq!(available, ["linux/arm64", "linux/amd64"]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn indexes_nested_too_deeply_are_refused() {
    for (depth, sound) in [(3, true), (5, false)] {
        let mut layout = Layout::new();
        let mut entry = layout.image(&[]);
        for _ in 0..depth {
            entry = layout.index(&[entry]);
        }
        layout.list(entry, None);
        match layout.open() {
            Ok(_) => assert!(sound),
            Err(Error::IndexDepth { .. }) => assert!(!sound),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn docker_media_types_mean_the_same() {
    let mut layout = Layout::new();
    let tar = tar("a", 1000);
    let layer = Layer::stored(
        crate::support::gzip(&tar),
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        &tar,
    );
    let mut manifest = layout.manifest(&[layer]);
    manifest["mediaType"] = json!("application/vnd.docker.distribution.manifest.v2+json");
    manifest["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
    let manifest = layout.document(&manifest);
    layout.list(manifest, None);
    assert_eq!(read(&layout.open().unwrap(), 0).unwrap(), tar);
}

/// Opens an image whose manifest `change` has changed.
fn open_changed(change: impl FnOnce(&mut Value)) -> Error {
    let mut layout = Layout::new();
    let mut manifest = layout.manifest(&[Layer::new(&tar("a", 1), GZIP)]);
    change(&mut manifest);
    let descriptor = layout.blob(MANIFEST, manifest.to_string().as_bytes());
    layout.list(descriptor, None);
    layout.open().expect_err("not an image")
}

#[test]
fn unknown_media_types_are_named() {
    for (path, media_type, document) in [
        (
            "/layers/0/mediaType",
            "application/vnd.example.model",
            Document::Layer,
        ),
        (
            "/config/mediaType",
            "application/vnd.cncf.helm.config.v1+json",
            Document::Config,
        ),
        (
            "/mediaType",
            "application/vnd.docker.distribution.manifest.v1+json",
            Document::Manifest,
        ),
    ] {
        match open_changed(|manifest| *manifest.pointer_mut(path).unwrap() = json!(media_type)) {
            Error::MediaType {
                document: found,
                media_type: text,
                ..
            } => {
                assert_eq!((found, text.as_str()), (document, media_type));
            }
            other => panic!("{other:?}"),
        }
    }
    let old = open_changed(|manifest| manifest["schemaVersion"] = json!(1));
    assert!(matches!(old, Error::MediaType { .. }), "{old:?}");
}

#[test]
fn foreign_layers_are_named() {
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    match open_changed(|manifest| manifest["layers"][0]["mediaType"] = json!(foreign)) {
        Error::ForeignLayer { media_type, .. } => assert_eq!(media_type, foreign),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_layer_needs_a_diff_id() {
    let error = open_changed(|manifest| {
        let first = manifest["layers"][0].clone();
        manifest["layers"].as_array_mut().unwrap().push(first);
    });
    assert!(
        matches!(
            error,
            Error::LayerCount {
                layers: 2,
                diff_ids: 1
            }
        ),
        "{error:?}"
    );
}

#[test]
fn digest_with_path_components_is_refused_before_it_becomes_a_path() {
    for digest in [
        "sha256:../../etc/passwd",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "x",
    ] {
        let error = open_changed(|manifest| manifest["layers"][0]["digest"] = json!(digest));
        assert!(
            matches!(error, Error::Json { .. } | Error::InvalidDigest { .. }),
            "{error:?}"
        );
    }
    let mut layout = Layout::new();
    let layer = Layer {
        diff_id: "sha256:../x".to_owned(),
        ..Layer::new(b"", TAR)
    };
    let image = layout.image(&[layer]);
    layout.list(image, None);
    assert!(matches!(
        layout.open(),
        Err(Error::InvalidDigest { .. } | Error::Json { .. })
    ));
}

#[test]
fn damaged_manifests_and_configurations_are_refused() {
    for part in ["manifest", "config"] {
        let mut layout = Layout::new();
        let manifest = layout.manifest(&[Layer::new(&tar("a", 1), TAR)]);
        let descriptor = layout.document(&manifest);
        let damaged = if part == "manifest" {
            &descriptor
        } else {
            &manifest["config"]
        };
        let path = layout.blob_path(damaged["digest"].as_str().unwrap());
        layout.list(descriptor.clone(), None);
        let mut bytes = fs::read(&path).unwrap();
        bytes[10] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(
            matches!(layout.open(), Err(Error::DigestMismatch { .. })),
            "{part}"
        );
        bytes.push(b' ');
        fs::write(&path, &bytes).unwrap();
        assert!(
            matches!(layout.open(), Err(Error::SizeMismatch { .. })),
            "{part}"
        );
        fs::remove_file(&path).unwrap();
        assert!(matches!(layout.open(), Err(Error::Io { .. })), "{part}");
    }
}

#[test]
fn documents_larger_than_the_limit_are_refused() {
    let error = open_changed(|manifest| manifest["config"]["size"] = json!(1_u64 << 40));
    assert!(
        matches!(
            error,
            Error::TooLarge {
                document: Document::Config,
                ..
            }
        ),
        "{error:?}"
    );
    let mut layout = Layout::new();
    let large =
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "x": " ".repeat(5 << 20)});
    let large = layout.document(&large);
    layout.list(large, None);
    let error = layout.open().expect_err("too large");
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
}

#[test]
fn directories_that_are_not_layouts_are_refused_by_name() {
    let empty = tempfile::tempdir().unwrap();
    let reference = format!("oci:{}", empty.path().display());
    match open(&reference) {
        Err(Error::InvalidSource {
            problem: SourceProblem::Missing { file, .. },
            ..
        }) => {
            assert_eq!(file, "oci-layout");
        }
        other => panic!("{other:?}"),
    }
    fs::write(
        empty.path().join("oci-layout"),
        r#"{"imageLayoutVersion":"2.0.0"}"#,
    )
    .unwrap();
    match open(&reference) {
        Err(Error::InvalidSource {
            problem: SourceProblem::LayoutVersion(version),
            ..
        }) => {
            assert_eq!(version, "2.0.0");
        }
        other => panic!("{other:?}"),
    }
    fs::write(empty.path().join("oci-layout"), "{").unwrap();
    assert!(matches!(
        open(&reference),
        Err(Error::InvalidSource {
            problem: SourceProblem::Json { .. },
            ..
        })
    ));
    match open("oci:/nowhere") {
        Err(Error::Io { path, source }) => {
            assert_eq!(path.as_os_str(), "/nowhere");
            assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_configuration_may_not_be_a_layer() {
    let error = open_changed(|manifest| manifest["config"]["mediaType"] = json!(TAR));
    assert!(
        matches!(
            error,
            Error::MediaType {
                document: Document::Config,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn documents_as_gos_reader_takes_them_are_read_and_copied() {
    let stored = Layer::new(&tar("file", 1000), GZIP);
    let mut layout = Layout::new();
    let image = layout.image(&[stored, Layer::new(&tar("file", 1000), GZIP)]);
    let path = layout.blob_path(image["digest"].as_str().unwrap());
    let mut manifest: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let mut layer = manifest["layers"][0].take();
    // Layers without a media type, under a name in another case.
    let mut empty = layer.clone();
    empty["mediaType"] = json!("");
    layer.as_object_mut().unwrap().remove("mediaType");
    let members = manifest.as_object_mut().unwrap();
    members.remove("layers");
    members.insert("Layers".to_owned(), json!([layer, empty]));
    let mut image = layout.document(&manifest);
    image["platform"] = json!({"os": null, "architecture": ""});
    layout.list(image.clone(), None);
    // Some writers only touch the marker.
    fs::write(layout.path().join("oci-layout"), "\n").unwrap();
    let source = format!("oci:{}", layout.path().display());
    let copy_of = tempfile::tempdir().unwrap();
    let target = format!("oci:{}", copy_of.path().join("copy").display());
    let [from, to] = [&source, &target].map(|name| name.parse().unwrap());
    let copied = ocipull::copy(&from, &to, &ocipull::CopyOptions::default()).unwrap();
    assert_eq!(copied.as_str(), image["digest"].as_str().unwrap());
    for name in [source, target] {
        let image = open(&name).unwrap();
        for layer in [0, 1] {
            assert_eq!(read(&image, layer).unwrap(), tar("file", 1000));
        }
    }
}
