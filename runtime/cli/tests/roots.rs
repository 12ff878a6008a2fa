//! Disks of the host as roots: `run disk:FILE`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::SystemTime;

use common::guest::{Guest, text};
use serde_json::json;
use tempfile::TempDir;
use testkit::{Mount, kernel_mounts, oracle};

/// Reads a file of a root that boots, and changes it.
const SCRIPT: &str = "cat /etc/motd; echo changed > /etc/motd && cat /etc/motd; exit 7";

/// A folder for disks, with a bootable tree in `root`.
fn tree() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    for name in ["bin", "etc"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    let busybox = oracle("busybox").unwrap().get_program().to_owned();
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for applet in ["sh", "cat", "echo"] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/motd"), "from the disk\n").unwrap();
    folder
}

/// Runs a program that must succeed; `None` if it is not installed.
fn made(program: &str, arguments: &[&str]) -> Option<()> {
    let output = oracle(program)?.args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {output:?}");
    Some(())
}

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).display().to_string()
}

fn ext4(guest: &Guest, folder: &TempDir, name: &str) -> String {
    let (disk, root) = (path(folder, name), path(folder, "root"));
    let create = [
        "ext4", "create", "--size", "32M", "--dir", &root, "-o", &disk,
    ];
    guest.blockbox.ok(create);
    disk
}

/// A disk whose partitions begin at each whole MiB except the first, as in the `script` for sfdisk;
/// the numbered one holds `contents`.
fn partitioned(
    folder: &TempDir,
    name: &str,
    script: &str,
    number: u64,
    contents: &str,
) -> Option<String> {
    let disk = path(folder, name);
    let size = fs::metadata(contents).unwrap().len();
    File::create(&disk)
        .unwrap()
        .set_len((32 << 20) * 4)
        .unwrap();
    let mut sfdisk = oracle("sfdisk")?;
    let mut child = sfdisk
        .arg("-q")
        .arg(&disk)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    let bytes = fs::read(contents).unwrap();
    assert!(size <= 32 << 20);
    let out = File::options().write(true).open(&disk).unwrap();
    out.write_all_at(&bytes, (32 << 20) * (number - 1) + (1 << 20))
        .unwrap();
    Some(disk)
}

/// Returns when a file was last written.
fn written(path: &str) -> SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

fn run(guest: &Guest, options: &[&str], disk: &str) -> (Option<i32>, String, String) {
    let output = guest
        .blockbox
        .command()
        .args(["run", "--rm", "--network", "none"])
        .args(options)
        .arg(format!("disk:{disk}"))
        .args(["--", "sh", "-c", SCRIPT])
        .output()
        .unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// Boots from a disk that is not written to: changes are in the sandbox.
fn boots(guest: &Guest, options: &[&str], disk: &str) {
    let before = written(disk);
    let (code, out, error) = run(guest, options, disk);
    assert_eq!(out, "from the disk\nchanged\n", "{disk}: {error}");
    assert_eq!(code, Some(7), "{disk}: {error}");
    assert_eq!(before, written(disk), "{disk} was written to");
}

#[test]
fn every_file_system_is_a_root_that_is_not_written_to() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let folder = tree();
    let (root, at) = (path(&folder, "root"), |name: &str| path(&folder, name));
    boots(&guest, &[], &ext4(&guest, &folder, "ext4"));
    // The guest's kernel does not support squashfs, and the error names it.
    let squashfs = at("squashfs");
    if made("mksquashfs", &[&root, &squashfs, "-quiet", "-no-progress"]).is_some() {
        let (code, _, error) = run(&guest, &[], &squashfs);
        let named = "as squashfs: the guest's kernel lacks this file system";
        assert!(code == Some(125) && error.contains(named), "{error}");
    }
    let btrfs = at("btrfs");
    File::create(&btrfs).unwrap().set_len(128 << 20).unwrap();
    if made("mkfs.btrfs", &["-q", "--rootdir", &root, &btrfs]).is_some() {
        boots(&guest, &[], &btrfs);
    }
    let (xfs, prototype) = (at("xfs"), at("prototype"));
    let listing = format!(
        "x\n0 0\nd--755 0 0\nbin d--755 0 0\nbusybox ---755 0 0 {root}/bin/busybox\n\
         sh l--777 0 0 busybox\ncat l--777 0 0 busybox\necho l--777 0 0 busybox\n$\n\
         etc d--755 0 0\nmotd ---644 0 0 {root}/etc/motd\n$\n$\n"
    );
    fs::write(&prototype, listing).unwrap();
    File::create(&xfs).unwrap().set_len(320 << 20).unwrap();
    if made("mkfs.xfs", &["-q", "-p", &prototype, &xfs]).is_some() {
        boots(&guest, &[], &xfs);
    }
}

#[test]
fn the_root_is_found_in_every_table_and_container_format() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let folder = tree();
    let at = |name: &str| path(&folder, name);
    let (root, erofs) = (at("root"), at("erofs"));
    guest
        .blockbox
        .ok(["erofs", "build", "--dir", &root, "-o", &erofs]);
    let gpt = "label: gpt\nstart=2048, size=63488, type=U\nstart=67584, size=63488, type=linux\n\
               start=133120, size=63488, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709\n";
    let gpt = gpt.replace(
        "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
        match std::env::consts::ARCH {
            "aarch64" => "B921B045-1DF0-41C3-AF44-4C6F280D3FAE",
            _ => "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
        },
    );
    let Some(gpt) = partitioned(&folder, "gpt", &gpt, 3, &erofs) else {
        return;
    };
    boots(&guest, &[], &gpt);
    // With two candidates, one must be named.
    let mbr = "label: dos\nstart=2048, size=63488, type=83\nstart=67584, size=63488, type=83\n";
    let Some(mbr) = partitioned(&folder, "mbr", mbr, 2, &erofs) else {
        return;
    };
    let (_, _, error) = run(&guest, &[], &mbr);
    assert!(error.contains("partitions 1, 2 may be it"), "{error}");
    let (_, _, error) = run(&guest, &["--partition", "3"], &mbr);
    assert!(error.contains("no partition 3"), "{error}");

    // The whole disk in a VMDK, and in a qcow2 image on top of another one.
    let (base, vmdk, top) = (at("base.qcow2"), at("disk.vmdk"), at("elsewhere/top.qcow2"));
    fs::create_dir(folder.path().join("elsewhere")).unwrap();
    let convert = |format: &str, to: &str| made("qemu-img", &["convert", "-O", format, &mbr, to]);
    if convert("qcow2", &base).is_none() || convert("vmdk", &vmdk).is_none() {
        return;
    }
    let create = [
        "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &base, &top,
    ];
    made("qemu-img", &create);
    boots(&guest, &["--partition", "2"], &vmdk);
    boots(&guest, &["--partition", "2"], &top);
}

#[test]
fn a_journal_is_not_replayed_and_a_disk_of_ones_own_is_written_in_place() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    if !kernel_mounts() {
        return;
    }
    let folder = tree();
    let disk = ext4(&guest, &folder, "disk");
    let dirty = path(&folder, "dirty");
    {
        let mount = Mount::ext4(Path::new(&disk), true);
        let file = File::create(mount.path().join("new")).unwrap();
        file.write_all_at(b"new", 0).unwrap();
        file.sync_all().unwrap();
        fs::copy(&disk, &dirty).unwrap();
    }
    let state = |disk: &str| guest.blockbox.ok(["ext4", "info", disk]);
    assert!(state(&dirty).contains("not clean"));
    boots(&guest, &[], &dirty);

    // In place: the kernel replays the journal, and leaves it empty.
    let (code, out, error) = run(&guest, &["--writable"], &dirty);
    assert_eq!(
        (code, &*out),
        (Some(7), "from the disk\nchanged\n"),
        "{error}"
    );
    assert!(!state(&dirty).contains("not clean"));
    let clean = oracle("e2fsck")
        .unwrap()
        .args(["-fn", &dirty])
        .output()
        .unwrap();
    assert!(clean.status.success(), "{clean:?}");
    let mount = Mount::ext4(Path::new(&dirty), false);
    assert_eq!(
        fs::read(mount.path().join("etc/motd")).unwrap(),
        b"changed\n"
    );
    assert_eq!(fs::read(mount.path().join("new")).unwrap(), b"new");
}

#[test]
fn a_writable_disk_has_one_sandbox_at_a_time() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let folder = tree();
    let disk = ext4(&guest, &folder, "disk");
    let name = format!("disk:{disk}");
    let start = |name: &str, options: &[&str]| {
        let arguments = ["run", "-d", "--network", "none", "--name", name];
        let output = guest
            .blockbox
            .command()
            .args(arguments)
            .args(options)
            .output();
        output.unwrap()
    };
    let forever = ["--", "sh", "-c", "while :; do busybox sleep 1; done"];
    let with = |options: &[&'static str]| -> Vec<String> {
        let words = options.iter().copied().chain([&*name]).chain(forever);
        words.map(str::to_owned).collect()
    };
    let start = |one: &str, options: &[&'static str]| {
        let words = with(options);
        start(one, &words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let first = start("writes", &["--writable"]);
    assert!(first.status.success(), "{first:?}");
    for options in [&["--writable"][..], &[]] {
        let refused = start("other", options);
        let error = text(&refused.stderr);
        assert!(
            !refused.status.success() && error.contains("one of the two writes"),
            "{error}"
        );
    }
    // Commands that need an image do not work with disks.
    for command in ["diff", "export"] {
        let said = guest.blockbox.fails([command, "writes"]);
        assert!(said.contains("is a disk and not an image"), "{said}");
    }
    let spec = guest.blockbox.ok(["inspect", "writes"]);
    assert!(spec.contains(&disk), "{spec}");
    guest.blockbox.ok(["rm", "-f", "writes"]);
    // Several readers share it.
    for one in ["reads", "reads-too"] {
        let started = start(one, &[]);
        assert!(started.status.success(), "{started:?}");
    }
    let refused = start("writes", &["--writable"]);
    assert!(text(&refused.stderr).contains("one of the two writes"));
}

#[test]
fn files_that_are_not_roots_are_rejected_by_name_and_make_nothing() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let folder = tree();
    let put = |name: &str, bytes: &[u8]| {
        fs::write(folder.path().join(name), bytes).unwrap();
        path(&folder, name)
    };
    let text_file = put("text", b"not a disk\n");
    let descriptor = put(
        "raw.img",
        b"# Disk DescriptorFile\nRW 1 FLAT \"/etc/passwd\" 0\n",
    );
    let missing = path(&folder, "missing");
    let image = guest.image.clone();
    let disk = format!("disk:{}", ext4(&guest, &folder, "disk"));
    let empty = put("zeros", &[0; 4096]);
    for (arguments, hint) in [
        (vec![format!("disk:{text_file}")], "not whole sectors"),
        (vec![format!("disk:{descriptor}")], "does not end in .vmdk"),
        (vec![format!("disk:{missing}")], "No such file"),
        (vec!["disk:/dev/null".to_owned()], "neither a regular file"),
        (
            vec![format!("disk:{empty}")],
            "none of the file systems ext4",
        ),
        (vec!["--writable".to_owned(), image.clone()], "disk:FILE"),
        (
            vec!["--partition".to_owned(), "1".to_owned(), image],
            "disk:FILE",
        ),
        (
            vec!["--partition".to_owned(), "1".to_owned(), disk.clone()],
            "no partition table",
        ),
        (
            vec!["--patch".to_owned(), "mkdir:/x".to_owned(), disk],
            "patches need an image",
        ),
    ] {
        let words = ["run".to_owned(), "--rm".to_owned()];
        let said = guest.blockbox.fails(words.into_iter().chain(arguments));
        assert!(said.contains(hint), "{said}");
    }
    assert_eq!(guest.blockbox.ok(["ps", "-aq"]), "");
}
