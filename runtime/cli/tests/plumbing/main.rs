//! The commands for the formats, and properties of every disk that they make.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../common/mod.rs"]
mod common;
mod files;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;

use common::Blockbox;
use common::layout::{Compression, Layout, digest};
use serde_json::Value;
use testkit::{Difference, Mount, TarBuilder, kernel_mounts, oracle, walk};

fn lower() -> Vec<u8> {
    TarBuilder::new()
        .dir("./")
        .dir("etc")
        .file("etc/hosts", "127.0.0.1 localhost\n")
        .file("etc/copy", "127.0.0.1 localhost\n")
        .file("etc/gone", "soon")
        .mode(0o755)
        .xattr("user.origin", "lower")
        .file("program", vec![7; 10_000])
        .link("alias", "program")
        .symlink("link", "etc/hosts")
        .finish()
}

fn upper() -> Vec<u8> {
    TarBuilder::new()
        .file("etc/.wh.gone", "")
        .file("etc/new", "new")
        .finish()
}

/// Writes the two layers' images into `dir`, and merges them with a disk.
fn stack(blockbox: &Blockbox, dir: &Path) {
    for (name, tar) in [("lower", lower()), ("upper", upper())] {
        fs::write(dir.join(format!("{name}.tar")), tar).unwrap();
        let (tar, image) = (
            dir.join(format!("{name}.tar")),
            dir.join(format!("{name}.erofs")),
        );
        blockbox.ok([
            "erofs".as_ref(),
            "build".as_ref(),
            "--tar".as_ref(),
            tar.as_os_str(),
            "-o".as_ref(),
            image.as_os_str(),
        ]);
    }
    let output = blockbox
        .command()
        .current_dir(dir)
        .args([
            "erofs",
            "merge",
            "lower.erofs",
            "upper.erofs",
            "-o",
            "fsmeta.erofs",
        ])
        .args(["--vmdk", "disk.vmdk"])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn text(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

#[test]
fn a_tar_gives_the_same_image_and_diff_id_for_any_compression_and_source() {
    let blockbox = Blockbox::new();
    let dir = tempfile::tempdir().unwrap();
    let tar = lower();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let forms = [
        ("plain", tar.clone()),
        ("gzip", gzip.finish().unwrap()),
        ("zstd", zstd::encode_all(&tar[..], 1).unwrap()),
    ];
    let mut images = Vec::new();
    for (name, bytes) in &forms {
        let (input, output) = (
            text(dir.path(), name),
            text(dir.path(), &format!("{name}.erofs")),
        );
        fs::write(&input, bytes).unwrap();
        let report = blockbox.ok([
            "erofs", "build", "--tar", &input, "-o", &output, "--format", "json",
        ]);
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["diff_id"], digest(&tar));
        assert!(
            report["deduplicated_bytes"].as_u64().unwrap() > 0,
            "etc/copy equals etc/hosts"
        );
        images.push(fs::read(output).unwrap());
    }
    let output = text(dir.path(), "stdin.erofs");
    let mut child = blockbox
        .command()
        .args(["erofs", "build", "--tar", "-", "-o", &output])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&forms[1].1).unwrap();
    assert!(child.wait().unwrap().success());
    images.push(fs::read(output).unwrap());
    assert!(images.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn one_job_and_four_give_the_same_bytes() {
    let mut layout = Layout::new().layer(&lower(), Compression::Gzip);
    for i in 0..8 {
        let tar = TarBuilder::new()
            .file(format!("f{i}"), vec![i; 100_000])
            .finish();
        layout = layout.layer(&tar, Compression::Zstd);
    }
    let layout = layout.finish();
    let stored = |jobs: &str| {
        let blockbox = Blockbox::new();
        blockbox.ok(["pull", "-q", "--jobs", jobs, &layout.reference()]);
        let disks = blockbox.inspect(&layout.reference());
        let files = disks.layers.iter().chain([&disks.fsmeta, &disks.disk]);
        files
            .map(|file| fs::read(file).unwrap())
            .collect::<Vec<_>>()
    };
    let one = stored("1");
    assert!(one == stored("4"));
    assert!(one == stored("1"));
}

#[test]
fn qemu_reads_the_disk_as_the_concatenation_of_its_files() {
    let Some(mut qemu_img) = oracle("qemu-img") else {
        return;
    };
    let blockbox = Blockbox::new();
    let dir = tempfile::tempdir().unwrap();
    stack(&blockbox, dir.path());
    let raw = dir.path().join("raw");
    let status = qemu_img
        .args(["convert", "-f", "vmdk", "-O", "raw"])
        .arg(dir.path().join("disk.vmdk"))
        .arg(&raw)
        .status()
        .unwrap();
    assert!(status.success());
    let mut parts = Vec::new();
    for part in ["fsmeta.erofs", "lower.erofs", "upper.erofs"] {
        fs::File::open(dir.path().join(part))
            .unwrap()
            .read_to_end(&mut parts)
            .unwrap();
    }
    assert!(fs::read(&raw).unwrap() == parts);
    let info = blockbox.ok(["vmdk", "info", &text(dir.path(), "disk.vmdk")]);
    assert!(
        info.contains("\"lower.erofs\"") && info.contains(&parts.len().to_string()),
        "{info}"
    );
}

#[test]
fn a_merged_image_reads_alike_through_its_disk_and_through_its_devices() {
    let blockbox = Blockbox::new();
    let dir = tempfile::tempdir().unwrap();
    stack(&blockbox, dir.path());
    let (disk, fsmeta) = (
        text(dir.path(), "disk.vmdk"),
        text(dir.path(), "fsmeta.erofs"),
    );
    let devices = ["lower.erofs", "upper.erofs"].map(|name| text(dir.path(), name));
    let [lower, upper] = &devices;
    for source in [
        vec![&*disk],
        vec![
            &*fsmeta,
            "--device",
            lower.as_str(),
            "--device",
            upper.as_str(),
        ],
    ] {
        let run = |command: &[&str], path: &[&str]| {
            let arguments = [&["erofs"], command, &source[..1], path, &source[1..]].concat();
            blockbox.ok(arguments)
        };
        assert_eq!(run(&["cat"], &["/etc/hosts"]), "127.0.0.1 localhost\n");
        assert_eq!(run(&["cat"], &["link"]), "127.0.0.1 localhost\n");
        assert_eq!(run(&["ls"], &["/etc"]), "copy\nhosts\nnew\n");
        let long = run(&["ls", "-lR"], &[]);
        assert!(
            long.contains("lrwxrwxrwx") && long.contains("link -> etc/hosts"),
            "{long}"
        );
        let stat: Value =
            serde_json::from_str(&run(&["stat", "--format", "json"], &["/alias"])).unwrap();
        assert_eq!((&stat["nlink"], &stat["size"]), (&2.into(), &10_000.into()));
        assert_eq!(
            stat["xattrs"][0],
            serde_json::json!(["user.origin", "lower"])
        );
        let check: Value = serde_json::from_str(&run(&["check", "--format", "json"], &[])).unwrap();
        assert_eq!(check["clean"], true, "{check}");
        assert!(run(&["dump"], &[]).contains("superblock"));
        let part = run(&["dump"], &["/etc"]);
        let entries: Vec<_> = part.lines().filter(|line| line.starts_with('/')).collect();
        assert_eq!(entries.len(), 4, "{part}");
        assert!(run(&["check"], &["/etc"]).contains("0 findings"));
    }
}

#[test]
fn damage_of_an_image_is_reported() {
    let blockbox = Blockbox::new();
    let dir = tempfile::tempdir().unwrap();
    stack(&blockbox, dir.path());
    let path = dir.path().join("lower.erofs");
    let mut bytes = fs::read(&path).unwrap();
    bytes[1024 + 60] ^= 1;
    fs::write(&path, bytes).unwrap();
    let output = blockbox.output(["erofs", "check", &path.display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("superblock checksum"));

    fs::write(&path, [0; 4096]).unwrap();
    let output = blockbox.output(["erofs", "check", &path.display().to_string()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("lower.erofs"));
}

#[test]
fn an_extracted_image_equals_its_tar() {
    if !kernel_mounts() {
        return;
    }
    let blockbox = Blockbox::new();
    let dir = tempfile::tempdir().unwrap();
    stack(&blockbox, dir.path());
    let image = dir.path().join("lower.erofs");
    let mounted = Mount::erofs(&image, &[]);
    let expected = walk(mounted.path()).unwrap();
    blockbox.ok([
        "erofs",
        "extract",
        &image.display().to_string(),
        &text(dir.path(), "out"),
    ]);
    Difference::between(&walk(&dir.path().join("out")).unwrap(), &expected).assert_none();

    // A folder gives the same image again, apart from its form as a layer.
    let again = text(dir.path(), "again.erofs");
    blockbox.ok([
        "erofs",
        "build",
        "--dir",
        &text(dir.path(), "out"),
        "-o",
        &again,
    ]);
    let again = Mount::erofs(Path::new(&again), &[]);
    Difference::between(&walk(again.path()).unwrap(), &expected).assert_none();
}

#[test]
fn an_ext4_image_holds_the_tar_or_the_folder_it_was_made_of() {
    if !kernel_mounts() {
        return;
    }
    let Some(_) = oracle("e2fsck") else { return };
    let blockbox = Blockbox::new();
    let dir = tempfile::tempdir().unwrap();
    stack(&blockbox, dir.path());
    let layer = Mount::erofs(&dir.path().join("lower.erofs"), &[]);
    let expected = walk(layer.path()).unwrap();
    let sources = [
        ["--tar", &text(dir.path(), "lower.tar")],
        ["--dir", &layer.path().display().to_string()],
    ];
    for source in sources {
        let image = text(dir.path(), "image.ext4");
        let arguments = ["ext4", "create", "--size", "64M", "-o", &image];
        blockbox.ok(arguments.into_iter().chain(source));
        let status = oracle("e2fsck")
            .unwrap()
            .args(["-fn", &image])
            .stdout(Stdio::null())
            .status();
        assert!(status.unwrap().success(), "{source:?}");
        let mounted = Mount::ext4(Path::new(&image), false);
        let mut ours = walk(mounted.path()).unwrap();
        ours.remove(&b"lost+found"[..]);
        Difference::between(&ours, &expected).assert_none();
        fs::remove_file(image).unwrap();
    }
}

#[test]
fn history_and_provenance_say_which_layer_a_path_is_from() {
    let blockbox = Blockbox::new();
    let layout = Layout::new()
        .layer(&lower(), Compression::Gzip)
        .layer(&upper(), Compression::Zstd)
        .finish();
    blockbox.ok(["pull", "-q", &layout.reference()]);
    let history = |path: &str| -> Value {
        let reference = layout.reference();
        let json = blockbox.ok(["image", "history", &reference, path, "--format", "json"]);
        serde_json::from_str(&json).unwrap()
    };
    let new = history("/etc/new");
    assert_eq!((&new["inode"], &new["data"]), (&1.into(), &1.into()));
    let gone = history("etc/gone");
    assert_eq!(gone["inode"], Value::Null);
    assert_eq!(gone["layers"][1]["says"], "removed");
    // The upper layer only has an entry below it.
    assert_eq!(history("/etc")["inode"], 0);
    assert!(
        blockbox
            .fails(["image", "history", &layout.reference(), "/nowhere"])
            .contains("/nowhere")
    );
    let layers = blockbox.ok(["image", "history", &layout.reference(), "--format", "json"]);
    assert_eq!(
        serde_json::from_str::<Value>(&layers)
            .unwrap()
            .as_array()
            .unwrap()
            .len(),
        2
    );

    let dir = tempfile::tempdir().unwrap();
    let disks = blockbox.inspect(&layout.reference());
    let (output, provenance) = (dir.path().join("fsmeta"), dir.path().join("provenance"));
    let mut merge = blockbox.command();
    merge
        .args(["erofs", "merge"])
        .args(&disks.layers)
        .arg("-o")
        .arg(&output);
    assert!(
        merge
            .arg("--provenance")
            .arg(&provenance)
            .output()
            .unwrap()
            .status
            .success()
    );
    let lines = fs::read_to_string(provenance).unwrap();
    for line in [
        "0\t0\t/etc/hosts",
        "1\t1\t/etc/new",
        "0\t-\t/etc",
        "0\t-\t/link",
    ] {
        assert!(
            lines.lines().any(|found| found == line),
            "{line:?} not in {lines}"
        );
    }
    assert!(fs::read(output).unwrap() == fs::read(disks.fsmeta).unwrap());
}

#[test]
fn a_disk_survives_conversion_through_every_kind() {
    let blockbox = Blockbox::new();
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = vec![0; 3 << 20];
    bytes[1 << 20..(1 << 20) + 5000].fill(7);
    fs::write(dir.path().join("raw"), &bytes).unwrap();
    let raw = text(dir.path(), "raw");
    let mut ids = Vec::new();
    for kind in ["flat", "sparse", "stream"] {
        let (disk, back) = (
            text(dir.path(), &format!("{kind}.vmdk")),
            text(dir.path(), "back"),
        );
        blockbox.ok(["vmdk", "create", "--kind", kind, "-o", &disk, &raw]);
        blockbox.ok(["vmdk", "read", &disk, "-o", &back]);
        assert!(fs::read(&back).unwrap() == bytes, "{kind}");
        let part = blockbox.output(["vmdk", "read", &disk, "--offset", "1M", "--length", "4"]);
        assert_eq!(part.stdout, [7; 4]);
        let info: Value =
            serde_json::from_str(&blockbox.ok(["vmdk", "info", &disk, "--format", "json"]))
                .unwrap();
        assert_eq!(info["bytes"], bytes.len());
        ids.push(info["cid"].clone());
        if let Some(mut qemu_img) = oracle("qemu-img") {
            let compare = qemu_img.args(["compare", "-f", "vmdk", "-F", "raw", &disk, &raw]);
            assert!(compare.output().unwrap().status.success(), "{kind}");
        }
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");

    // Contents that change under the same name change the ID; a hole equals zeros.
    let flat = text(dir.path(), "flat.vmdk");
    let id_of = |bytes: &[u8], holes: bool| {
        let file = fs::File::create(&raw).unwrap();
        for (number, block) in bytes.chunks(4096).enumerate() {
            if !holes || block.iter().any(|&byte| byte != 0) {
                file.write_all_at(block, number as u64 * 4096).unwrap();
            }
        }
        file.set_len(bytes.len() as u64).unwrap();
        blockbox.ok(["vmdk", "create", "-o", &flat, &raw]);
        let info = blockbox.ok(["vmdk", "info", &flat, "--format", "json"]);
        serde_json::from_str::<Value>(&info).unwrap()["cid"].clone()
    };
    assert_eq!(id_of(&bytes, true), ids[0]);
    assert_eq!(id_of(&bytes, false), ids[0]);
    bytes[2 << 20] = 1;
    assert_ne!(id_of(&bytes, true), ids[0]);
}

#[test]
fn an_ext4_image_grows_in_place_and_stays_clean() {
    let blockbox = Blockbox::new();
    let dir = tempfile::tempdir().unwrap();
    stack(&blockbox, dir.path());
    let (tar, image) = (
        text(dir.path(), "lower.tar"),
        text(dir.path(), "image.ext4"),
    );
    blockbox.ok([
        "ext4", "create", "--size", "64M", "--tar", &tar, "-o", &image,
    ]);
    blockbox.ok(["ext4", "grow", &image, "--size", "300M"]);
    let info: Value =
        serde_json::from_str(&blockbox.ok(["ext4", "info", &image, "--format", "json"])).unwrap();
    assert_eq!(
        (&info["bytes"], &info["clean"]),
        (&(300 << 20).into(), &true.into())
    );
    if let Some(mut e2fsck) = oracle("e2fsck") {
        assert!(
            e2fsck
                .args(["-fn", &image])
                .output()
                .unwrap()
                .status
                .success()
        );
    }
    if kernel_mounts() {
        let _mounted = Mount::ext4(Path::new(&image), true);
        let error = blockbox.fails(["ext4", "grow", &image, "--size", "400M"]);
        assert!(error.contains("/dev/loop"), "{error}");
    }
    let error = blockbox.fails(["ext4", "info", &tar]);
    assert!(error.contains("lower.tar"), "{error}");
}

#[test]
fn a_compressed_image_holds_the_same_tree() {
    if !kernel_mounts() {
        return;
    }
    let blockbox = Blockbox::new();
    let dir = tempfile::tempdir().unwrap();
    let tar = TarBuilder::new()
        .dir("./")
        .file("text", "all work and no play\n".repeat(9000))
        .finish();
    fs::write(dir.path().join("tar"), tar).unwrap();
    let build = |name: &str, options: &[&str]| {
        let (tar, output) = (text(dir.path(), "tar"), text(dir.path(), name));
        let arguments = [&["erofs", "build", "--tar", &tar, "-o", &output], options].concat();
        blockbox.ok(arguments);
        dir.path().join(name)
    };
    let plain = build("plain", &[]);
    let options = [
        "--compress",
        "lz4,9",
        "--block-size",
        "4096",
        "--cluster-size",
        "64K",
    ];
    let small = build(
        "small",
        &[
            &options[..],
            &["--label", "packed", "--features", "inline-tails"],
        ]
        .concat(),
    );
    assert!(small.metadata().unwrap().len() < plain.metadata().unwrap().len() / 10);
    let (plain, packed) = (Mount::erofs(&plain, &[]), Mount::erofs(&small, &[]));
    Difference::between(&walk(packed.path()).unwrap(), &walk(plain.path()).unwrap()).assert_none();
    let output = dir.path().join("merged").display().to_string();
    let error = blockbox.fails([
        "erofs",
        "merge",
        &small.display().to_string(),
        "-o",
        &output,
    ]);
    assert!(error.contains("no other image can address"), "{error}");
}
