//! Tar archives of layouts, and what `docker save` writes, by hand and by skopeo.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ocipull::{Digest, Document, Error, Event, Events, Image, Options, Platform, SourceProblem};
use proptest::prelude::*;
use serde_json::{Value, json};
use testkit::{TarBuilder, oracle};

use crate::support::{GZIP, Layer, Layout, TAR, ZSTD, gzip, open, open_with, read, tar};

#[test]
fn an_archive_of_a_layout_is_read_in_place() {
    let tars = [tar("a", 100_000), tar("b", 5), tar("c", 70_000)];
    let layers: Vec<_> = tars
        .iter()
        .zip([GZIP, ZSTD, TAR])
        .map(|(tar, kind)| Layer::new(tar, kind))
        .collect();
    let layout = Layout::of(&layers);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("image.tar");
    fs::write(&file, layout.archive()).unwrap();
    for tag in ["", ":latest"] {
        let image = open(&format!("oci-archive:{}{tag}", file.display())).unwrap();
        assert_eq!(
            image.manifest_digest(),
            layout.open().unwrap().manifest_digest()
        );
        // Several layers of one archive at once.
        std::thread::scope(|scope| {
            for (index, tar) in tars.iter().enumerate() {
                let image = &image;
                scope.spawn(move || assert!(read(image, index).unwrap() == *tar));
            }
        });
    }
}

#[test]
fn files_that_are_not_archives_are_reported_by_kind() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("image.tar");
    let problem = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        match open(&format!("oci-archive:{}", file.display())) {
            Err(Error::InvalidSource { problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    };
    for text in [&[b'x'; 4096][..], b"hi"] {
        assert_eq!(problem(text), SourceProblem::NoArchive);
    }
    assert!(matches!(problem(b""), SourceProblem::Missing { .. }));
    assert!(matches!(
        problem(&TarBuilder::new().finish()),
        SourceProblem::Missing { .. }
    ));
    let odd = TarBuilder::new().dir("oci-layout/").finish();
    assert_eq!(
        problem(&odd),
        SourceProblem::NotAFile("oci-layout".to_owned())
    );
    let circle = TarBuilder::new()
        .symlink("oci-layout", "x")
        .symlink("x", "oci-layout")
        .finish();
    assert_eq!(
        problem(&circle),
        SourceProblem::Links("oci-layout".to_owned())
    );
    let dir_reference = format!("oci-archive:{}", dir.path().display());
    assert!(matches!(
        open(&dir_reference),
        Err(Error::InvalidSource { .. })
    ));
    assert!(matches!(
        open("oci-archive:/nowhere"),
        Err(Error::Io { .. })
    ));
}

#[test]
fn a_file_of_another_format_is_called_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("image.tar");
    let of = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        match open(&format!("oci-archive:{}", file.display())) {
            Err(Error::InvalidSource {
                problem: SourceProblem::OtherFormat(format),
                ..
            }) => format,
            other => panic!("{other:?}"),
        }
    };
    let iso = [&[0; 32_769][..], b"CD001", &[1; 2_048]].concat();
    for (bytes, expected) in [
        (&b"\x04\x22\x4d\x18\x64\x40\xa7"[..], "lz4"),
        (b"LZIP\x01\x14", "lzip"),
        (b"PK\x03\x04\x14\0\0\0", "zip"),
        (b"7z\xbc\xaf\x27\x1c\0\x04", "7z"),
        (b"!<arch>\ndebian-binary   ", "ar archive"),
        (b"<!DOCTYPE html><title>Not found</title>", "web page"),
        (&iso, "ISO 9660"),
    ] {
        // A short file, and one of more than a block.
        for length in [bytes.len(), bytes.len().max(4096)] {
            let mut bytes = bytes.to_vec();
            bytes.resize(length, b'x');
            assert!(of(&bytes).contains(expected), "{expected}");
        }
    }
    let tar = TarBuilder::new().file("a", &[b'a'; 2_000][..]).finish();
    let plain = dir.path().join("a.tar");
    fs::write(&plain, tar).unwrap();
    if let Some(mut xz) = oracle("xz") {
        let lzma = xz
            .args(["--format=lzma", "--stdout"])
            .arg(&plain)
            .output()
            .unwrap();
        assert!(lzma.status.success());
        assert!(of(&lzma.stdout).contains(".lzma"));
    }
    if let Some(mut mke2fs) = oracle("mke2fs") {
        let disk = dir.path().join("disk");
        let made = mke2fs
            .args(["-q", "-F"])
            .arg(&disk)
            .arg("1M")
            .status()
            .unwrap();
        assert!(made.success());
        assert_eq!(of(&fs::read(&disk).unwrap()), "an ext file system");
    }
}

#[test]
fn an_archive_that_was_cut_off_fails_where_it_ends() {
    let layout = Layout::of(&[Layer::new(&tar("a", 100_000), TAR)]);
    let archive = layout.archive();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("image.tar");
    for keep in (0..archive.len()).step_by(10_007) {
        fs::write(&file, &archive[..keep]).unwrap();
        let result = open(&format!("oci-archive:{}", file.display()));
        assert!(
            result.and_then(|image| read(&image, 0)).is_err(),
            "{keep} bytes"
        );
    }
}

#[test]
fn names_and_sizes_outside_the_header_are_read_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("image.tar");
    let blob = Layout::of(&[Layer::new(&tar("a", 1000), TAR)]);
    let opened = |before: TarBuilder| {
        fs::write(&file, [before.unfinished(), blob.archive()].concat()).unwrap();
        open(&format!("oci-archive:{}", file.display())).and_then(|image| read(&image, 0))
    };
    let long = vec![b'x'; 4000];
    opened(
        TarBuilder::new()
            .raw(b"././@LongLink", b'L', b"", &long)
            .file("x", ""),
    )
    .unwrap();
    opened(TarBuilder::new().file(&long, "PAX path")).unwrap();
    opened(TarBuilder::new().pax_global("comment", "git")).unwrap();
    // A PAX size stands above the header's.
    let header = TarBuilder::new()
        .pax("size", "600")
        .entry("x", b'0', b"", b"");
    opened(header.bytes([7; 600]).pad()).unwrap();

    let problem = |result: Result<_, Error>| match result {
        Err(Error::InvalidSource {
            problem: SourceProblem::NotTar(text),
            ..
        }) => text,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("accepted"),
    };
    let huge = vec![b'x'; 2 << 20];
    problem(opened(TarBuilder::new().raw(
        b"././@LongLink",
        b'L',
        b"",
        &huge,
    )));
    problem(opened(TarBuilder::new().raw(b"x", b'x', b"", b"garbage")));
    let far = u64::MAX.to_string();
    problem(opened(
        TarBuilder::new()
            .pax("size", far)
            .entry("x", b'0', b"", b""),
    ));
    problem(opened(
        TarBuilder::new()
            .pax("size", "-1")
            .entry("x", b'0', b"", b""),
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_change_to_an_archive_makes_reading_it_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        saved in any::<bool>(),
    ) {
        let tar = tar("a", 10);
        let (kind, mut bytes) = if saved {
            ("docker-archive", Saved::new(&[&tar, &tar]).archive())
        } else {
            ("oci-archive", Layout::of(&[Layer::new(&tar, GZIP)]).archive())
        };
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("image.tar");
        fs::write(&file, bytes).expect("written");
        if let Ok(image) = open(&format!("{kind}:{}", file.display())) {
            let _ = read(&image, 0);
        }
    }
}

/// The parts of a `docker save` archive with one image.
struct Saved {
    config: Vec<u8>,
    layers: Vec<(String, Vec<u8>)>,
    tags: Value,
}

impl Saved {
    fn new(layers: &[&[u8]]) -> Self {
        let diff_ids: Vec<_> = layers
            .iter()
            .map(|tar| Digest::sha256(tar).to_string())
            .collect();
        let config = json!({
            "os": "linux",
            "architecture": Platform::host().architecture,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let layers = layers.iter().enumerate();
        Self {
            config: config.to_string().into_bytes(),
            layers: layers
                .map(|(i, tar)| (format!("{i}/layer.tar"), tar.to_vec()))
                .collect(),
            tags: json!(["example.com/app:v1", "app:v2"]),
        }
    }

    fn config_name(&self) -> String {
        format!("{}.json", Digest::sha256(&self.config).hex())
    }

    fn entry(&self) -> Value {
        let layers: Vec<_> = self.layers.iter().map(|(name, _)| name).collect();
        json!({"Config": self.config_name(), "RepoTags": self.tags, "Layers": layers})
    }

    fn add(&self, tar: TarBuilder) -> TarBuilder {
        let tar = tar.file(self.config_name(), &self.config);
        self.layers
            .iter()
            .fold(tar, |tar, (name, bytes)| tar.file(name, bytes))
    }

    fn archive(&self) -> Vec<u8> {
        let manifest = json!([self.entry()]).to_string();
        self.add(TarBuilder::new())
            .file("manifest.json", manifest)
            .finish()
    }
}

/// What `docker save` writes for an image of one layer.
pub(crate) fn saved(tar: &[u8]) -> Vec<u8> {
    Saved::new(&[tar]).archive()
}

fn open_saved(bytes: &[u8], tag: &str) -> Result<(Image, tempfile::TempDir), Error> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("saved.tar");
    fs::write(&file, bytes).expect("written");
    open(&format!("docker-archive:{}{tag}", file.display())).map(|image| (image, dir))
}

#[test]
fn copying_a_compressed_archive_to_a_temporary_file_is_reported() {
    let layout = Layout::of(&[Layer::new(&tar("a", 300_000), TAR)]);
    let archive = layout.archive();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("image.tar.gz").display().to_string();
    fs::write(&file, gzip(&archive)).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let reported = seen.clone();
    let mut options = Options::default();
    options.events = Some(Events::new(move |event| {
        let Event::Spooling {
            source,
            bytes,
            complete,
        } = event
        else {
            panic!("{event:?}");
        };
        let seen = (source.to_string(), *bytes, *complete);
        reported.lock().unwrap().push(seen);
    }));
    open_with(&format!("oci-archive:{file}"), &options).unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0], (file.clone(), 0, false));
    assert!(seen.len() > 3 && seen.is_sorted_by_key(|(_, bytes, _)| *bytes));
    let whole = archive.len() as u64;
    assert_eq!(*seen.last().unwrap(), (file, whole, true));
}

#[test]
fn saved_images_are_read_and_get_a_manifest() {
    let tars = [tar("a", 100_000), tar("b", 0)];
    let saved = Saved::new(&[&tars[0], &tars[1]]).archive();
    let (image, _dir) = open_saved(&saved, "").unwrap();
    for (index, tar) in tars.iter().enumerate() {
        assert!(read(&image, index).unwrap() == *tar);
        assert_eq!(image.layers()[index].digest, Digest::sha256(tar));
    }
    assert_eq!(
        *image.manifest_digest(),
        Digest::sha256(image.manifest_bytes())
    );
    let again = open_saved(&saved, "").unwrap().0;
    assert_eq!(image.manifest_digest(), again.manifest_digest());
}

#[test]
fn saved_layers_may_be_compressed_or_linked_to_each_other() {
    let tar = tar("a", 100_000);
    let mut saved = Saved::new(&[&tar, &tar, &tar]);
    saved.layers[0].1 = gzip(&tar);
    let manifest = json!([saved.entry()]).to_string();
    let archive = TarBuilder::new()
        .file(saved.config_name(), &saved.config)
        .file("0/layer.tar", gzip(&tar))
        .symlink("1/layer.tar", "../0/layer.tar")
        .link("2/layer.tar", "1/layer.tar")
        .file("manifest.json", manifest)
        .finish();
    let (image, _dir) = open_saved(&archive, "").unwrap();
    for index in 0..3 {
        assert!(read(&image, index).unwrap() == tar);
        assert_eq!(image.layers()[index].digest, Digest::sha256(&gzip(&tar)));
        assert_eq!(image.layers()[index].media_type, GZIP);
    }
}

#[test]
fn saved_images_are_found_by_tag_or_position() {
    let (one, mut two) = (Saved::new(&[&tar("a", 1)]), Saved::new(&[&tar("b", 2)]));
    two.tags = Value::Null;
    let manifest = json!([one.entry(), two.entry()]).to_string();
    let archive = two
        .add(one.add(TarBuilder::new()))
        .file("manifest.json", manifest)
        .finish();
    for (tag, expected) in [
        (":example.com/app:v1", &one),
        (":app:v2", &one),
        (":docker.io/library/app:v2", &one),
        (":v1", &one),
        (":@0", &one),
        (":@1", &two),
    ] {
        let (image, _dir) = open_saved(&archive, tag).expect(tag);
        assert_eq!(
            *image.config_digest(),
            Digest::sha256(&expected.config),
            "{tag}"
        );
    }
    for tag in ["", ":v3", ":@2"] {
        match open_saved(&archive, tag) {
            Err(Error::NoSuchImage { available, .. }) => {
                assert_eq!(available, ["example.com/app:v1", "app:v2", "@1"]);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn damaged_saved_images_are_refused() {
    let tars = [tar("a", 1000), tar("b", 1000)];
    let sound = || Saved::new(&[&tars[0], &tars[1]]);
    let first_error = |saved: &Saved, manifest: Value| {
        let archive = saved
            .add(TarBuilder::new())
            .file("manifest.json", manifest.to_string());
        open_saved(&archive.finish(), "")
            .and_then(|(image, _dir)| read(&image, 0))
            .unwrap_err()
    };

    let mut saved = sound();
    saved.layers[0].1[700] ^= 1;
    let error = first_error(&saved, json!([saved.entry()]));
    assert!(
        matches!(
            error,
            Error::DigestMismatch {
                document: Document::Layer,
                ..
            }
        ),
        "{error:?}"
    );

    let mut entry = sound().entry();
    entry["Config"] = json!("0/layer.tar");
    let error = first_error(&sound(), json!([entry]));
    assert!(
        matches!(
            error,
            Error::Json {
                document: Document::Config,
                ..
            }
        ),
        "{error:?}"
    );

    let mut entry = sound().entry();
    entry["Layers"].as_array_mut().unwrap().pop();
    let error = first_error(&sound(), json!([entry]));
    assert!(
        matches!(
            error,
            Error::LayerCount {
                layers: 1,
                diff_ids: 2
            }
        ),
        "{error:?}"
    );

    for path in ["missing/layer.tar", "../../etc/passwd", "/etc/passwd"] {
        let mut entry = sound().entry();
        entry["Layers"][0] = json!(path);
        let error = first_error(&sound(), json!([entry]));
        assert!(
            matches!(
                error,
                Error::InvalidSource {
                    problem: SourceProblem::Missing { .. },
                    ..
                }
            ),
            "{error:?}"
        );
    }

    let (wrong, right) = (sound(), Saved::new(&[&tars[0]]));
    let archive = TarBuilder::new()
        .file(wrong.config_name(), &right.config)
        .file("manifest.json", json!([wrong.entry()]).to_string())
        .finish();
    let error = open_saved(&archive, "").unwrap_err();
    assert!(
        matches!(
            error,
            Error::DigestMismatch {
                document: Document::Config,
                ..
            }
        ),
        "{error:?}"
    );
}

/// Copies an image with skopeo.
fn skopeo_copy(from: &str, to: &str) -> bool {
    let Some(mut skopeo) = oracle("skopeo") else {
        return false;
    };
    let output = skopeo
        .args([
            "--insecure-policy",
            "copy",
            "--dest-tls-verify=false",
            from,
            to,
        ])
        .output()
        .expect("skopeo starts");
    assert!(output.status.success(), "{output:?}");
    true
}

fn same_layers(image: &Image, tars: &[Vec<u8>]) {
    assert_eq!(image.layers().len(), tars.len());
    for (index, tar) in tars.iter().enumerate() {
        assert!(read(image, index).expect("sound") == *tar, "layer {index}");
    }
}

#[test]
fn directories_that_skopeo_writes_are_read() {
    let tars = [tar("a", 100_000), tar("b", 5)];
    let layout = Layout::of(&[Layer::new(&tars[0], GZIP), Layer::new(&tars[1], GZIP)]);
    let from = format!("oci:{}:latest", layout.path().display());
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| Path::display(dir.path()).to_string() + "/" + name;
    for to in [
        format!("oci:{}:copy", at("layout")),
        format!("oci-archive:{}:copy", at("layout.tar")),
        format!("docker-archive:{}:example.com/app:copy", at("saved.tar")),
    ] {
        if !skopeo_copy(&from, &to) {
            return;
        }
        same_layers(&open(&to).expect(&to), &tars);
        let unnamed = to.split(':').take(2).collect::<Vec<_>>().join(":");
        same_layers(&open(&unnamed).expect(&unnamed), &tars);
    }
}
