//! What other tools write: old media types, members that are missing or null, archives compressed
//! as a whole.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use ocipull::{Digest, Error, Image, Options, SourceProblem, parse_config, parse_manifest};
use serde_json::{Value, json};
use testkit::{TarBuilder, oracle};

use crate::support::{GZIP, INDEX, Layer, Layout, TAR, gzip, open, open_with, read, tar, zstd};

/// Opens an image whose manifest `change` has changed.
fn changed(change: impl FnOnce(&mut Value)) -> Result<(Image, Layout), Error> {
    let mut layout = Layout::new();
    let mut manifest = layout.manifest(&[Layer::new(&tar("a", 1000), GZIP)]);
    change(&mut manifest);
    let descriptor = layout.blob(crate::support::MANIFEST, manifest.to_string().as_bytes());
    layout.list(descriptor, None);
    layout.open().map(|image| (image, layout))
}

#[test]
fn configurations_of_old_media_types_are_read() {
    for media_type in [
        "application/octet-stream",
        "application/json",
        "application/json; charset=utf-8",
        "text/html",
        "",
    ] {
        let (image, _layout) =
            changed(|manifest| manifest["config"]["mediaType"] = json!(media_type)).unwrap();
        assert_eq!(read(&image, 0).unwrap(), tar("a", 1000), "{media_type}");
    }
    let (image, _layout) = changed(|manifest| {
        manifest["config"]
            .as_object_mut()
            .unwrap()
            .remove("mediaType");
    })
    .unwrap();
    assert_eq!(image.layers().len(), 1);
}

#[test]
fn manifests_with_null_or_missing_members_are_read() {
    for change in [
        (|manifest| manifest["annotations"] = Value::Null) as fn(&mut Value),
        |manifest| manifest["layers"][0]["urls"] = Value::Null,
        |manifest| manifest["subject"] = Value::Null,
        |manifest| manifest["layers"][0]["annotations"] = json!({"a": null}),
        |manifest| {
            manifest.as_object_mut().unwrap().remove("schemaVersion");
        },
    ] {
        let (image, _layout) = changed(change).unwrap();
        assert_eq!(read(&image, 0).unwrap(), tar("a", 1000));
        assert_eq!(
            &parse_manifest(image.manifest_bytes()).unwrap(),
            image.manifest()
        );
    }
}

#[test]
fn null_lists_of_layers_are_read_as_empty() {
    let mut layout = Layout::new();
    let mut manifest = layout.manifest(&[]);
    manifest["layers"] = Value::Null;
    let config = json!({"os": "linux", "architecture": "amd64", "config": null, "rootfs": {"type": "layers", "diff_ids": null}});
    manifest["config"] = layout.blob(crate::support::CONFIG, config.to_string().as_bytes());
    let manifest = layout.document(&manifest);
    layout.list(manifest, None);
    let image = layout.open().unwrap();
    assert!(image.layers().is_empty());
    assert_eq!(&parse_config(image.config_bytes()).unwrap(), image.config());
}

#[test]
fn a_document_that_is_an_index_and_a_manifest_at_once_is_refused() {
    let error = changed(|manifest| {
        manifest.as_object_mut().unwrap().remove("mediaType");
        manifest["manifests"] = json!([]);
    })
    .unwrap_err();
    assert!(matches!(error, Error::MediaType { .. }), "{error:?}");
}

fn reference_to(layout: &Layout, name: &str) -> String {
    format!("oci:{}{name}", layout.path().display())
}

/// The digest of the image that a reference names.
fn digest_of(reference: &str) -> Result<String, Error> {
    open(reference).map(|image| image.manifest_digest().to_string())
}

#[test]
fn two_images_of_which_none_was_asked_for_are_an_error_that_lists_them() {
    let platform = json!({"os": "linux", "architecture": ocipull::Platform::host().architecture});
    for (tags, with_platform, listed) in [
        ([None, Some("v2")], true, ["@0", "v2"]),
        ([None, None], true, ["@0", "@1"]),
        ([None, None], false, ["@0", "@1"]),
        ([Some("v1"), Some("v2")], true, ["v1", "v2"]),
    ] {
        let mut layout = Layout::new();
        for (tag, size) in tags.iter().zip([1, 2]) {
            let mut image = layout.image(&[Layer::new(&tar("f", size), TAR)]);
            if with_platform {
                image["platform"] = platform.clone();
            }
            layout.list(image, *tag);
        }
        match layout.open() {
            Err(Error::NoSuchImage {
                tag: None,
                available,
                ..
            }) => assert_eq!(available, listed),
            other => panic!("{other:?}"),
        }
        // Each of those is a name.
        let images =
            listed.map(|name| digest_of(&reference_to(&layout, &format!(":{name}"))).unwrap());
        assert_ne!(images[0], images[1]);
        let by_digest = format!(":@{}", images[1]);
        assert_eq!(
            digest_of(&reference_to(&layout, &by_digest)).unwrap(),
            images[1]
        );
    }
}

#[test]
fn one_image_under_two_names_needs_no_name() {
    let mut layout = Layout::new();
    let image = layout.image(&[Layer::new(&tar("f", 1), TAR)]);
    layout.list(image.clone(), Some("latest"));
    layout.list(image.clone(), Some("stable"));
    for name in ["", ":latest", ":stable", ":@0", ":@1"] {
        assert_eq!(
            digest_of(&reference_to(&layout, name)).unwrap(),
            image["digest"],
            "{name}"
        );
    }
}

#[test]
fn a_name_that_two_images_have_is_an_error_that_gives_their_positions() {
    let mut layout = Layout::new();
    for size in [1, 2] {
        let image = layout.image(&[Layer::new(&tar("f", size), TAR)]);
        layout.list(image, Some("v1"));
    }
    match open(&reference_to(&layout, ":v1")) {
        Err(Error::AmbiguousName {
            name, available, ..
        }) => {
            assert_eq!(
                (name.as_str(), available),
                ("v1", vec!["@0".to_owned(), "@1".to_owned()])
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn attestations_and_artifacts_beside_an_image_do_not_make_it_ambiguous() {
    let mut layout = Layout::new();
    let image = layout.image(&[Layer::new(&tar("f", 1), TAR)]);
    let mut attestation = layout.image(&[Layer::new(&tar("f", 2), TAR)]);
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    let mut artifact = layout.image(&[Layer::new(&tar("f", 3), TAR)]);
    artifact["artifactType"] = json!("application/vnd.example.sbom");
    layout.list(attestation, None);
    layout.list(artifact, None);
    layout.list(image.clone(), None);
    assert_eq!(
        digest_of(&reference_to(&layout, "")).unwrap(),
        image["digest"]
    );
}

#[test]
fn a_layout_without_images_says_so() {
    let layout = Layout::new();
    for manifests in [json!([]), Value::Null] {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        fs::write(layout.path().join("index.json"), index.to_string()).unwrap();
        match layout.open() {
            Err(Error::InvalidSource { problem, .. }) => {
                assert_eq!(problem, SourceProblem::NoImages)
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn containerd_names_are_found_in_full_in_short_and_by_tag() {
    let mut layout = Layout::new();
    let mut image = layout.image(&[Layer::new(&tar("f", 1), TAR)]);
    image["annotations"] = json!({"io.containerd.image.name": "docker.io/library/t:v1", "org.opencontainers.image.ref.name": null});
    let index = json!({"schemaVersion": 2, "manifests": [image]});
    fs::write(layout.path().join("index.json"), index.to_string()).unwrap();
    for name in [":docker.io/library/t:v1", ":t:v1", ":v1", ""] {
        assert_eq!(
            digest_of(&reference_to(&layout, name)).unwrap(),
            image["digest"],
            "{name}"
        );
    }
    layout.list(image, None);
}

#[test]
fn indexes_that_do_not_say_their_platform_are_looked_into() {
    let mut layout = Layout::new();
    let on = |mut image: Value, architecture: &str| {
        image["platform"] = json!({"os": "linux", "architecture": architecture});
        image
    };
    let arm = layout.image(&[Layer::new(&tar("arm", 1), TAR)]);
    let amd = layout.image(&[Layer::new(&tar("amd", 2), TAR)]);
    let first = layout.index(&[on(arm.clone(), "arm64")]);
    let second = layout.index(&[on(amd.clone(), "amd64")]);
    let index = layout.index(&[first, second]);
    layout.list(index, None);
    for (platform, image) in [("linux/arm64", &arm), ("linux/amd64", &amd)] {
        let mut options = Options::default();
        options.platform = platform.parse().unwrap();
        let found = open_with(&reference_to(&layout, ""), &options).unwrap();
        assert_eq!(found.manifest_digest().as_str(), image["digest"]);
    }
    let mut options = Options::default();
    options.platform = "linux/s390x".parse().unwrap();
    match open_with(&reference_to(&layout, ""), &options) {
        Err(Error::NoPlatform { available, .. }) => assert_eq!(available.len(), 2),
        other => panic!("{other:?}"),
    }
}

#[test]
fn number_of_nested_indexes_that_are_followed_is_bounded() {
    let mut layout = Layout::new();
    let other = json!({"os": "plan9", "architecture": "mips"});
    let mut image = layout.image(&[]);
    image["platform"] = other;
    let nested: Vec<_> = (0..100)
        .map(|number| {
            let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [image], "annotations": {"n": number.to_string()}});
            layout.document(&index)
        })
        .collect();
    let index = layout.index(&nested);
    layout.list(index, None);
    let error = layout.open().unwrap_err();
    assert!(matches!(error, Error::TooManyIndexes { .. }), "{error:?}");
}

/// `bytes`, compressed by the program `name`.
fn compressed_by(name: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut program = oracle(name)?;
    let mut child = program
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut input = child.stdin.take().expect("piped");
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("no panic").expect("written");
    Some(output.stdout)
}

fn docker_archive(tar: &[u8]) -> Vec<u8> {
    let config = json!({
        "os": "linux",
        "architecture": ocipull::Platform::host().architecture,
        "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(tar).to_string()]},
    });
    let manifest = json!([{"Config": "./config", "RepoTags": null, "Layers": ["./layer.tar"]}]);
    TarBuilder::new()
        .file("./config", config.to_string())
        .file("./layer.tar", tar)
        .file("./manifest.json", manifest.to_string())
        .finish()
}

#[test]
fn archives_compressed_as_a_whole_are_read() {
    let tar = tar("a", 100_000);
    let layout = Layout::of(&[Layer::new(&tar, GZIP)]);
    let dir = tempfile::tempdir().unwrap();
    for (kind, archive) in [
        ("oci-archive", layout.archive()),
        ("docker-archive", docker_archive(&tar)),
    ] {
        let (head, tail) = archive.split_at(archive.len() / 2);
        let mut forms = vec![
            gzip(&archive),
            zstd(&archive),
            [gzip(head), gzip(tail)].concat(),
        ];
        forms.extend(
            ["xz", "bzip2"]
                .iter()
                .filter_map(|name| compressed_by(name, &archive)),
        );
        for (form, bytes) in forms.into_iter().enumerate() {
            let file = dir.path().join("image");
            fs::write(&file, bytes).unwrap();
            let image = open(&format!("{kind}:{}", file.display())).unwrap();
            fs::remove_file(&file).unwrap();
            assert!(read(&image, 0).unwrap() == tar, "{kind}, form {form}");
        }
    }
}

#[test]
fn layers_in_xz_and_bzip2_are_read() {
    let tar = tar("a", 100_000);
    for name in ["xz", "bzip2"] {
        let Some(stored) = compressed_by(name, &tar) else {
            return;
        };
        for media_type in [TAR.to_owned(), format!("{TAR}+{name}")] {
            let layout = Layout::of(&[Layer::stored(stored.clone(), &media_type, &tar)]);
            assert!(
                read(&layout.open().unwrap(), 0).unwrap() == tar,
                "{media_type}"
            );
        }
        let cut = Layer::stored(stored[..stored.len() / 2].to_vec(), TAR, &tar);
        let error = crate::support::failure(cut);
        assert!(matches!(error, Error::Compression { .. }), "{error:?}");
        let longer = Layer::stored([&stored[..], b"garbage at its end"].concat(), TAR, &tar);
        let error = crate::support::failure(longer);
        assert!(
            matches!(error, Error::Compression { .. }),
            "{name}: {error:?}"
        );
    }
}

#[test]
fn damaged_and_huge_compressed_archives_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("image.tar.gz");
    let open_bounded = |bytes: &[u8], limit| {
        fs::write(&file, bytes).unwrap();
        let mut options = Options::default();
        options.max_layer_bytes = limit;
        match open_with(&format!("oci-archive:{}", file.display()), &options) {
            Err(Error::InvalidSource { path, problem }) => {
                assert_eq!(path, file);
                problem
            }
            other => panic!("{other:?}"),
        }
    };
    let archive = Layout::of(&[Layer::new(&tar("a", 100_000), TAR)]).archive();
    let gz = gzip(&archive);
    let cut = open_bounded(&gz[..gz.len() / 2], 1 << 30);
    assert!(
        matches!(
            cut,
            SourceProblem::BadCompression {
                compression: "gzip",
                ..
            }
        ),
        "{cut:?}"
    );
    assert_eq!(
        open_bounded(&gz, 1000),
        SourceProblem::TooLong { limit: 1000 }
    );
    let inner_cut = open_bounded(&gzip(&archive[..archive.len() / 2]), 1 << 30);
    assert!(
        matches!(inner_cut, SourceProblem::CutOff(_)),
        "{inner_cut:?}"
    );
    // Compressed twice is not an archive.
    let twice = open_bounded(&gzip(&gz), 1 << 30);
    assert_eq!(twice, SourceProblem::OtherFormat("compressed with gzip"));
}

#[test]
fn archive_whose_first_name_looks_like_compression_is_read_as_plain_tar() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("image.tar");
    let tar = tar("a", 10);
    let rest = docker_archive(&tar);
    let archive = [
        TarBuilder::new().file("BZh9 is a file", "x").unfinished(),
        rest,
    ]
    .concat();
    fs::write(&file, archive).unwrap();
    let image = open(&format!("docker-archive:{}", file.display())).unwrap();
    assert_eq!(read(&image, 0).unwrap(), tar);
}
