//! Commands that read a damaged image.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;

use erofs_reader::{Image, Source};
use serde_json::Value;
use testkit::TarBuilder;

use super::Lab;

/// A layer of a folder with two files, of which one is compressed with deflate.
fn layer(lab: &Lab) -> Vec<u8> {
    let tar = TarBuilder::new()
        .dir("./")
        .dir("folder")
        .file("folder/file", "contents")
        .file("folder/large", "many words\n".repeat(5000))
        .finish();
    lab.put("layer.tar", tar);
    lab.ok(&[
        "build",
        "--tar",
        "layer.tar",
        "-o",
        "layer.erofs",
        "--compress",
        "deflate",
    ]);
    fs::read(lab.path("layer.erofs")).unwrap()
}

#[test]
fn an_inode_that_cannot_be_read_is_named_by_its_path() {
    let lab = Lab::new();
    let mut image = layer(&lab);
    let found = Image::open(&image[..]).unwrap().metadata(b"folder/file");
    let at = usize::try_from(found.unwrap().position()).unwrap();
    image[at..at + 2].fill(0xff);
    lab.put("layer.erofs", image);
    for command in [
        &["ls", "layer.erofs", "folder"][..],
        &["ls", "-lR", "layer.erofs"],
        &["stat", "layer.erofs", "folder/file"],
        &["cat", "layer.erofs", "folder/file"],
        &["extract", "layer.erofs", "to"],
        &["extract", "layer.erofs", "to.tar"],
    ] {
        let said = lab.fails(command);
        assert!(said.contains("layer.erofs: "), "{command:?}: {said}");
        assert!(said.contains("folder/file: nid "), "{command:?}: {said}");
    }
}

#[test]
fn data_that_does_not_decompress_is_found_if_contents_are_checked() {
    let lab = Lab::new();
    let mut image = layer(&lab);
    let opened = Image::open(&image[..]).unwrap();
    let inode = opened.metadata(b"folder/large").unwrap();
    let cluster = opened.extents(&inode).unwrap()[0].source;
    let Source::Compressed { offset, length, .. } = cluster else {
        panic!("{cluster:?}");
    };
    let end = usize::try_from(offset + length).unwrap();
    // The end of the data, after padding.
    image[end - 30..end].fill(0xff);
    lab.put("layer.erofs", image);
    lab.ok(&["check", "layer.erofs"]);
    let output = lab.run(&["check", "--contents", "--format", "json", "layer.erofs"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let finding = &report["findings"][0];
    assert_eq!(finding["path"], "folder/large");
    assert_eq!(finding["problem"], "deflate data does not decode");
    assert!(finding["nid"].is_u64() && finding["offset"].is_u64());
}

#[test]
fn damage_of_the_superblock_is_found_together_with_other_damage() {
    let lab = Lab::new();
    let mut image = layer(&lab);
    let found = Image::open(&image[..]).unwrap().metadata(b"folder/file");
    let at = usize::try_from(found.unwrap().position()).unwrap();
    image[at..at + 2].fill(0xff);
    // The label, which the superblock's checksum covers, and an unknown feature.
    image[1024 + 64] ^= 1;
    image[1024 + 80 + 3] |= 0x80;
    lab.put("layer.erofs", image);
    let output = lab.run(&["check", "--format", "json", "layer.erofs"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let problems = findings.iter().map(|f| f["problem"].as_str().unwrap());
    let problems: Vec<_> = problems.collect();
    for part in ["superblock checksum", "0x80000000", "inode"] {
        let found = problems.iter().any(|problem| problem.contains(part));
        assert!(found, "{part}: {problems:?}");
    }
    assert!(findings.iter().any(|f| f["path"] == "folder/file"));
    // Commands that do not check fail at once.
    let said = lab.fails(&["ls", "layer.erofs"]);
    assert!(said.contains("superblock checksum"), "{said}");
}

#[test]
fn a_file_that_cannot_be_opened_is_a_finding_too() {
    let lab = Lab::new();
    lab.put("layer.erofs", [0; 4096]);
    let output = lab.run(&["check", "--format", "json", "layer.erofs"]);
    assert_eq!(output.status.code(), Some(2));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["clean"], false);
    let problem = report["findings"][0]["problem"].as_str().unwrap();
    assert!(problem.contains("no EROFS superblock"), "{problem}");
}

#[test]
fn a_sparse_file_survives_a_tar_and_a_limit_stops_its_expansion() {
    let lab = Lab::new();
    let folder = lab.path("folder");
    fs::create_dir(&folder).unwrap();
    let file = fs::File::create(folder.join("sparse")).unwrap();
    file.set_len(4 << 30).unwrap();
    for at in [0, 1 << 30, (4 << 30) - 5] {
        file.write_all_at(b"data\n", at).unwrap();
    }
    let packed = testkit::oracle("tar").map(|mut tar| {
        let tar = tar.args(["--sparse", "--format=posix", "-cf"]);
        let tar = tar.arg(lab.path("gnu.tar")).arg("-C").arg(&folder);
        assert!(tar.arg("sparse").status().unwrap().success());
    });
    if packed.is_none() {
        return;
    }
    lab.ok(&["build", "--tar", "gnu.tar", "-o", "one.erofs"]);
    lab.ok(&["extract", "one.erofs", "ours.tar"]);
    assert!(fs::metadata(lab.path("ours.tar")).unwrap().len() < 1 << 20);
    lab.ok(&["build", "--tar", "ours.tar", "-o", "two.erofs"]);
    let images = ["one.erofs", "two.erofs"].map(|image| fs::read(lab.path(image)).unwrap());
    let extents = images.each_ref().map(|image| {
        let image = Image::open(&image[..]).unwrap();
        let inode = image.metadata(b"sparse").unwrap();
        assert_eq!(inode.size(), 4 << 30);
        let extents = image.extents(&inode).unwrap();
        let places = extents.iter().map(|extent| {
            let hole = extent.source == Source::Hole;
            (extent.logical, extent.length, hole)
        });
        places.collect::<Vec<_>>()
    });
    assert_eq!(extents[0], extents[1]);

    for to in ["bounded.tar", "bounded"] {
        let said = lab.fails(&["extract", "one.erofs", to, "--max-bytes", "1G"]);
        assert!(said.contains("1073741824"), "{said}");
    }
    assert!(!lab.path("bounded.tar").exists());
}

#[test]
fn an_image_is_extracted_to_a_reader_of_a_named_pipe() {
    let lab = Lab::new();
    layer(&lab);
    lab.ok(&["extract", "layer.erofs", "whole.tar"]);
    let pipe = lab.path("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let reader = std::thread::spawn(move || fs::read(pipe).unwrap());
    lab.ok(&["extract", "layer.erofs", "pipe"]);
    let whole = fs::read(lab.path("whole.tar")).unwrap();
    assert!(reader.join().unwrap() == whole);
}
