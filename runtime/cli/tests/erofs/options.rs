//! Options of an image.

use serde_json::Value;
use testkit::{Difference, TarBuilder, kernel_mounts};

use crate::{Lab, noise};

#[test]
fn mtime_applies_to_all_files_and_with_clamp_only_to_later_times() {
    let lab = Lab::new();
    let tar = TarBuilder::new()
        .mtime(1_000_000_000)
        .dir("./")
        .file("early", "early")
        .mtime(1_800_000_000)
        .file("late", "late")
        .symlink("link", "late")
        .file(".wh.gone", "")
        .finish();
    lab.put("tar", tar);
    let build = |output: &str, options: &[&str]| {
        lab.ok(&[&["build", "--tar", "tar", "-o", output], options].concat());
        lab.check(output, &[]);
    };
    build("kept", &[]);
    build("fixed", &["--mtime", "1500000000.25"]);
    build("clamped", &["--mtime", "1500000000.25", "--clamp-mtime"]);
    build("old", &["--mtime", "-0.5"]);
    let stat = |image: &str, path: &str| -> String {
        let report = lab.ok(&["stat", image, path, "--format", "json"]);
        let report: Value = serde_json::from_str(&report).unwrap();
        report["mtime"].as_str().unwrap().to_owned()
    };
    assert_eq!(stat("old", "late"), "-0.500000000");
    assert_eq!(stat("clamped", "early"), "1000000000.000000000");
    if !kernel_mounts() {
        return;
    }
    let kept = lab.shown("kept", &[]);
    let at = (1_500_000_000, 250_000_000);
    let mut expected = kept.clone();
    for entry in expected.values_mut() {
        entry.mtime = at;
    }
    Difference::between(&lab.shown("fixed", &[]), &expected).assert_none();
    let mut expected = kept;
    for entry in expected.values_mut() {
        entry.mtime = entry.mtime.min(at);
    }
    Difference::between(&lab.shown("clamped", &[]), &expected).assert_none();
}

#[test]
fn the_superblock_has_the_uuid_the_label_and_the_build_time() {
    let lab = Lab::new();
    lab.put("tar", TarBuilder::new().dir("./").finish());
    let build = |options: &[&str], epoch: Option<&str>| {
        let mut command = lab.blockbox.command();
        command
            .current_dir(lab.dir.path())
            .env_remove("SOURCE_DATE_EPOCH");
        command.envs(epoch.map(|epoch| ("SOURCE_DATE_EPOCH", epoch)));
        command.args(["erofs", "build", "--tar", "tar", "-o", "image"]);
        let output = command.args(options).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let image = std::fs::read(lab.path("image")).unwrap();
        let image = erofs_reader::Image::open(&image[..]).unwrap();
        let superblock = image.superblock();
        let made = superblock.epoch + i64::from(superblock.build_time);
        (superblock.uuid, superblock.label.clone(), made)
    };
    let mtime = ["--mtime", "1500000000"];
    let (derived, label, made) = build(&mtime, None);
    assert_eq!((label, made), ("".into(), 1_500_000_000));
    assert_eq!(derived[6] >> 4, 8);
    assert_eq!(build(&mtime, Some("1600000000")).2, 1_600_000_000);
    let given = [
        "--uuid",
        "00112233-4455-6677-8899-aabbccddeeff",
        "--label",
        "name",
    ];
    let (uuid, label, _) = build(&given, None);
    assert_eq!((uuid[1], uuid[15], &label[..]), (0x11, 0xff, &b"name"[..]));
    assert_eq!(build(&["--uuid", "nil"], None).0, [0; 16]);
}

#[test]
fn chunks_that_files_share_are_stored_once() {
    let lab = Lab::new();
    let (own, shared) = (&noise(10_000), &noise(80_000)[10_000..][..64 << 10]);
    let tar = TarBuilder::new()
        .dir("./")
        .file("one", [&own[..4096], shared, &own[..77]].concat())
        .file("other", [&own[4096..8192], shared, &own[..78]].concat())
        .finish();
    lab.put("tar", tar);
    let build = |output: &str, options: &[&str]| -> u64 {
        let arguments = ["build", "--tar", "tar", "-o", output, "--format", "json"];
        let report = lab.ok(&[&arguments[..], options].concat());
        lab.check(output, &[]);
        let report: Value = serde_json::from_str(&report).unwrap();
        report["deduplicated_bytes"].as_u64().unwrap()
    };
    assert_eq!(build("whole", &[]), 0);
    assert_eq!(build("chunks", &["--chunk-size", "4K"]), 64 << 10);
    let indexes = ["--features", "chunk-indexes", "--block-size", "4K"];
    build("indexes", &[&["--chunk-size", "8K"], &indexes[..]].concat());
    if kernel_mounts() {
        let whole = lab.shown("whole", &[]);
        for image in ["chunks", "indexes"] {
            Difference::between(&lab.shown(image, &[]), &whole).assert_none();
        }
    }
}

#[test]
fn invalid_options_are_rejected_with_valid_ones() {
    let lab = Lab::new();
    lab.put("tar", TarBuilder::new().finish());
    for (options, expected) in [
        (&["--chunk-size", "3000"][..], "power of two from 512"),
        (&["--chunk-size", "4K", "--compress", "lz4"], "--compress"),
        (&["--block-size", "100"], "65536"),
        (&["--compress", "brotli"], "brotli"),
        (&["--compress", "lz4,99"], "0 to 12"),
        (&["--cluster-size", "64K"], "--compress"),
        (&["--threads", "2"], "--compress"),
        (&["--features", "dedupe"], "--features dedupe"),
        (&["--mtime", "yesterday"], "seconds since 1970"),
        (&["--clamp-mtime"], "--mtime"),
    ] {
        let arguments = ["build", "--tar", "tar", "-o", "image"];
        let error = lab.fails(&[&arguments[..], options].concat());
        assert!(error.contains(expected), "{options:?}: {error}");
        assert!(!lab.path("image").exists());
    }
}

#[test]
fn every_algorithm_and_feature_shows_the_same_tree_with_any_number_of_threads() {
    let lab = Lab::new();
    let words = "all work and no play makes the image a dull one\n".repeat(4000);
    let tar = TarBuilder::new()
        .dir("./")
        .file("text", &words)
        .file("moved", ["x".repeat(12_345).as_str(), &words].concat())
        .file("noise", noise(50_000))
        .file("small", "small")
        .file("empty", "")
        .link("alias", "text")
        .finish();
    lab.put("tar", &tar);
    let base = ["--block-size", "4096", "--cluster-size", "16K"];
    let build = |output: &str, options: &[&str]| {
        lab.ok(&[&["build", "--tar", "tar", "-o", output], options].concat());
        lab.check(output, &[]);
        std::fs::metadata(lab.path(output)).unwrap().len()
    };
    let plain = build("plain", &[]);
    let expected = kernel_mounts().then(|| lab.shown("plain", &[]));
    let forms = [
        ["lz4,9", "ztailpacking"],
        ["zstd", "fragments"],
        ["deflate,9", "dedupe"],
        ["lzma", "all-fragments"],
        ["zstd,1", "full-indexes,inline-tails"],
    ];
    for [algorithm, features] in forms {
        let chosen = ["--compress", algorithm, "--features", features];
        let options = [&base[..], &chosen].concat();
        let size = build("one", &[&options[..], &["--threads", "1"]].concat());
        assert!(
            size < plain / 3,
            "{algorithm} {features}: {size} of {plain}"
        );
        build("three", &[&options[..], &["--threads", "3"]].concat());
        let read = |name: &str| std::fs::read(lab.path(name)).unwrap();
        assert!(read("one") == read("three"), "{algorithm} {features}");
        if let Some(expected) = &expected {
            Difference::between(&lab.shown("one", &[]), expected).assert_none();
        }
    }
}
