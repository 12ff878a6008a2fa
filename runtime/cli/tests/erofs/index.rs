//! Metadata images over tars that stay unchanged.

use std::fs;
use std::io::Write;
use std::process::Command;

use serde_json::Value;
use testkit::{Difference, TarBuilder, kernel_mounts};

use crate::common::layout::digest;
use crate::{Lab, noise};

/// A layer with everything that has no test of its own.
fn layer() -> TarBuilder {
    let long = "long/".to_owned() + &"n".repeat(200);
    TarBuilder::new()
        .dir("./")
        .owner(1000, 70_000)
        .dir("etc")
        .mtime(1_600_000_000)
        .file("etc/hosts", "127.0.0.1 localhost\n")
        .file("etc/empty", "")
        .file("etc/.wh.gone", "")
        .mode(0o755)
        .xattr("user.origin", "layer")
        .file("program", noise(100_000))
        .pax("mtime", "1500000000.123456789")
        .file("block", noise(512))
        .dir("long")
        .file(long, noise(513))
        .link("alias", "program")
        .mode(0o777)
        .symlink("link", "etc/hosts")
        .device("null", b'3', 1, 3)
}

#[test]
fn an_index_with_its_tar_has_the_same_tree_as_a_copy() {
    let lab = Lab::new();
    let tar = layer().finish();
    lab.put("tar", &tar);
    let arguments = ["build", "--tar", "tar", "-o"];
    lab.ok(&[&arguments[..], &["copy"]].concat());
    let options = ["index", "--tar-index", "--format", "json"];
    let report: Value =
        serde_json::from_str(&lab.ok(&[&arguments[..], &options].concat())).unwrap();
    assert_eq!(report["diff_id"], digest(&tar));
    assert!(report["bytes"].as_u64().unwrap() < 8192, "{report}");
    assert_eq!(fs::read(lab.path("tar")).unwrap(), tar);

    // With a known digest the result is the same.
    let known = ["known", "--tar-index", "--diff-id", &digest(&tar)];
    lab.ok(&[&arguments[..], &known].concat());
    assert_eq!(
        fs::read(lab.path("known")).unwrap(),
        fs::read(lab.path("index")).unwrap()
    );

    lab.check("index", &["tar"]);
    let read = |command: &str, path: &str| lab.ok(&[command, "index", path, "--device", "tar"]);
    assert_eq!(read("cat", "/link"), "127.0.0.1 localhost\n");
    assert_eq!(read("ls", "/etc"), "empty\ngone\nhosts\n");
    let dump = lab.ok(&["dump", "index", "--device", "tar"]);
    let diff_id = digest(&tar);
    assert!(
        dump.contains(diff_id.trim_start_matches("sha256:")),
        "{dump}"
    );

    // The device's bytes may also follow the index.
    let stitched = [fs::read(lab.path("index")).unwrap(), tar].concat();
    lab.put("stitched", stitched);
    lab.check("stitched", &[]);
    let disk = ["vmdk", "create", "-o", "disk.vmdk", "index", "tar"];
    let mut create = lab.blockbox.command();
    let created = create.current_dir(lab.dir.path()).args(disk).output();
    assert!(created.unwrap().status.success());
    assert_eq!(
        lab.ok(&["cat", "disk.vmdk", "etc/hosts"]),
        "127.0.0.1 localhost\n"
    );
    if kernel_mounts() {
        let expected = lab.shown("copy", &[]);
        assert_eq!(expected.len(), 12);
        Difference::between(&lab.shown("index", &["tar"]), &expected).assert_none();
        Difference::between(&lab.shown("stitched", &[]), &expected).assert_none();
    }
}

#[test]
fn an_index_has_the_same_tree_as_that_of_mkfs() {
    let lab = Lab::new();
    lab.put("tar", layer().finish());
    lab.ok(&["build", "--tar", "tar", "--tar-index", "-o", "ours"]);
    let arguments = ["--tar=i", "--aufs", "theirs", "tar"];
    if !kernel_mounts() || !lab.mkfs(&arguments) {
        return;
    }
    let mut theirs = lab.shown("theirs", &["tar"]);
    let mut ours = lab.shown("ours", &["tar"]);
    // mkfs.erofs marks directories that contain whiteouts, which overlayfs does not need.
    let etc = theirs.get_mut(&b"etc"[..]).unwrap();
    etc.xattrs.remove(&b"trusted.overlay.origin"[..]);
    // The attributes of a whiteout do not matter.
    for walk in [&mut ours, &mut theirs] {
        let whiteout = walk.get_mut(&b"etc/gone"[..]).unwrap();
        (whiteout.mode, whiteout.uid, whiteout.gid) = (0, 0, 0);
        whiteout.mtime = (0, 0);
    }
    Difference::between(&ours, &theirs).assert_none();
}

#[test]
fn holes_of_a_tar_stay_holes_and_unaligned_contents_are_copied() {
    let lab = Lab::new();
    let (aligned, odd) = (noise(512), noise(700));
    let tar = TarBuilder::new()
        .dir("./")
        .pax("GNU.sparse.size", "3000000")
        .pax("GNU.sparse.map", "4096,512,2097152,0")
        .pax("GNU.sparse.name", "aligned")
        .file("GNUSparseFile.1/aligned", &aligned)
        .pax("GNU.sparse.size", "100000")
        .pax("GNU.sparse.map", "100,300,50000,400")
        .pax("GNU.sparse.name", "odd")
        .file("GNUSparseFile.1/odd", &odd)
        .finish();
    lab.put("tar", tar);
    lab.ok(&["build", "--tar", "tar", "--tar-index", "-o", "index"]);
    lab.ok(&["build", "--tar", "tar", "-o", "copy"]);
    lab.check("index", &["tar"]);
    let cat = |path: &str| lab.run(&["cat", "index", path, "--device", "tar"]).stdout;
    let mut expected = vec![0; 3_000_000];
    expected[4096..4608].copy_from_slice(&aligned);
    assert!(cat("aligned") == expected);
    let mut expected = vec![0; 100_000];
    expected[100..400].copy_from_slice(&odd[..300]);
    expected[50_000..50_400].copy_from_slice(&odd[300..]);
    assert!(cat("odd") == expected);
    if kernel_mounts() {
        let found = lab.shown("index", &["tar"]);
        Difference::between(&found, &lab.shown("copy", &[])).assert_none();
    }
}

#[test]
fn an_index_over_a_tar_of_gnu_tar_has_the_folders_tree() {
    let lab = Lab::new();
    let folder = lab.path("folder");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("file"), noise(5000)).unwrap();
    let sparse = fs::File::create(folder.join("sparse")).unwrap();
    sparse.set_len(10 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &noise(9000), 1 << 20).unwrap();
    drop(sparse);
    for format in ["gnu", "posix", "ustar"] {
        let sparse: &[&str] = if format == "ustar" { &[] } else { &["-S"] };
        let status = Command::new("tar")
            .args(sparse)
            .arg(format!("--format={format}"))
            .arg("-cf")
            .arg(lab.path("tar"))
            .arg("-C")
            .arg(&folder)
            .arg(".")
            .status();
        assert!(status.unwrap().success());
        lab.ok(&["build", "--tar", "tar", "--tar-index", "-o", "index"]);
        lab.ok(&["build", "--tar", "tar", "-o", "copy"]);
        lab.check("index", &["tar"]);
        if kernel_mounts() {
            let found = lab.shown("index", &["tar"]);
            Difference::between(&found, &lab.shown("copy", &[])).assert_none();
        }
    }
}

#[test]
fn only_a_plain_tar_in_a_file_is_indexed() {
    let lab = Lab::new();
    let tar = layer().finish();
    lab.put("tar", &tar);
    lab.put("cut", &tar[..1034]);
    // Without the zeros after the last body: the tar's last block is not whole.
    lab.put("short", &tar[..tar.len() - 3000]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    lab.put("gzip", gzip.finish().unwrap());
    lab.put("zstd", zstd::encode_all(&tar[..], 1).unwrap());
    for (options, expected) in [
        (&["--tar", "gzip"][..], "gzip is compressed with gzip"),
        (&["--tar", "zstd"], "zstd is compressed with zstd"),
        (&["--tar", "cut"], "cut off"),
        (&["--tar", "short"], "beyond the device"),
        (&["--tar", "-"], "standard input"),
        (&["--tar", "missing"], "missing"),
        (&["--dir", "."], "--tar"),
        (&["--tar", "tar", "--compress", "lz4"], "--compress"),
        (&["--tar", "tar", "--block-size", "4096"], "--block-size"),
    ] {
        let arguments = ["build", "--tar-index", "-o", "index"];
        let error = lab.fails(&[&arguments[..], options].concat());
        assert!(error.contains(expected), "{options:?}: {error}");
        assert!(!lab.path("index").exists());
    }
}
