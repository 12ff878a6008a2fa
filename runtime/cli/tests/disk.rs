//! `blockbox disk`: other programs, kernels and machines find the tree of a container on it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::Blockbox;
use common::layout::{Compression, Layout};
use serde_json::Value;
use testkit::{Difference, Mount, TarBuilder, kernel_mounts, oracle, walk};

/// A store with an image of two layers, where the upper one hides a file of the lower one.
fn store(lower: TarBuilder) -> (Blockbox, Layout) {
    let lower = lower
        .dir("etc")
        .file("etc/kept", b"kept")
        .file("etc/gone", b"gone")
        .file("large", vec![b'x'; 3 << 20])
        .xattr("user.color", b"blue")
        .finish();
    let upper = TarBuilder::new()
        .file("etc/.wh.gone", b"")
        .link("etc/also", "etc/kept")
        .symlink("soft", "etc/kept")
        .finish();
    let layout = Layout::new()
        .layer(&lower, Compression::None)
        .layer(&upper, Compression::None)
        .finish();
    let blockbox = Blockbox::new();
    blockbox.ok(["pull", "-q", &layout.reference()]);
    (blockbox, layout)
}

/// Makes a disk, and returns the report.
fn create(blockbox: &Blockbox, image: &str, disk: &Path, options: &[&str]) -> Value {
    let disk = disk.to_str().unwrap();
    let arguments = ["disk", "create", image, disk, "--format", "json"];
    let said = blockbox.ok(arguments.iter().chain(options));
    serde_json::from_str(&said).unwrap()
}

/// Copies the only partition of `disk` to a separate file, after other programs have verified the
/// table.
fn partition(disk: &Path, uuid: &str) -> Option<PathBuf> {
    let said = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let verified = said(oracle("sgdisk")?.arg("-v").arg(disk));
    assert!(verified.contains("No problems found"), "{verified}");
    said(oracle("sfdisk")?.arg("--verify").arg(disk));
    let table: Value =
        serde_json::from_str(&said(oracle("sfdisk")?.arg("--json").arg(disk))).unwrap();
    let table = &table["partitiontable"];
    let [root] = &table["partitions"].as_array().unwrap()[..] else {
        panic!("{table}");
    };
    assert_eq!(table["label"], "gpt");
    assert_eq!(root["uuid"], uuid.to_uppercase());
    let kind = match std::env::consts::ARCH {
        "aarch64" => "B921B045-1DF0-41C3-AF44-4C6F280D3FAE",
        _ => "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
    };
    assert_eq!(root["type"], kind);
    let bytes = |name: &str| root[name].as_u64().unwrap() * 512;
    let mut from = File::open(disk).unwrap();
    from.seek(SeekFrom::Start(bytes("start"))).unwrap();
    let path = disk.with_extension("partition");
    let to = &mut File::create(&path).unwrap();
    std::io::copy(&mut from.take(bytes("size")), to).unwrap();
    Some(path)
}

#[test]
fn a_disk_has_the_tree_of_a_container_with_every_file_system_and_table() {
    let (blockbox, layout) = store(TarBuilder::new());
    let (image, folder) = (layout.reference(), tempfile::tempdir().unwrap());
    let whole = blockbox.inspect(&image).stitched();
    for (number, options) in [
        &["--type", "ext4"][..],
        &["--size", "64M", "--partition-table", "gpt"],
        &["--type", "erofs"],
        &["--type", "erofs", "--partition-table", "gpt"],
        &["--type", "erofs", "--compress", "lz4"],
    ]
    .iter()
    .enumerate()
    {
        let disk = folder.path().join(number.to_string());
        let said = create(&blockbox, &image, &disk, options);
        assert_eq!(fs::metadata(&disk).unwrap().len(), said["bytes"]);
        let file_system = match said["partition_uuid"].as_str() {
            Some(uuid) => match partition(&disk, uuid) {
                Some(path) => path,
                None => continue,
            },
            None => disk,
        };
        let is_ext4 = said["file_system"] == "ext4";
        let check = match is_ext4 {
            true => oracle("e2fsck").map(|mut e2fsck| {
                e2fsck.arg("-fn");
                e2fsck
            }),
            false => oracle("fsck.erofs"),
        };
        if let Some(mut check) = check {
            let output = check.arg(&file_system).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        if !kernel_mounts() {
            continue;
        }
        let mount = match is_ext4 {
            true => Mount::ext4(&file_system, false),
            false => Mount::erofs(&file_system, &[]),
        };
        let mut found = walk(mount.path()).unwrap();
        found.remove(&b"lost+found"[..]);
        let expected = Mount::erofs(whole.path(), &[]);
        Difference::between(&found, &walk(expected.path()).unwrap()).assert_none();
        assert!(!found.contains_key(&b"etc/gone"[..]));
    }
}

#[test]
fn the_same_image_gives_the_same_disk_and_another_uuid_another_one() {
    let (blockbox, layout) = store(TarBuilder::new());
    let folder = tempfile::tempdir().unwrap();
    let uuid = "01234567-89ab-cdef-0123-456789abcdef";
    for kind in ["ext4", "erofs"] {
        let make = |name: &str, options: &[&str]| {
            let disk = folder.path().join(name);
            let always = ["--type", kind, "--partition-table", "gpt"];
            let options: Vec<_> = always.iter().chain(options).copied().collect();
            let said = create(&blockbox, &layout.reference(), &disk, &options);
            (said, fs::read(disk).unwrap())
        };
        let (one, other) = (make("one", &[]), make("other", &[]));
        assert!(one == other, "{} {}", one.0, other.0);
        let (given, bytes) = make("given", &["--uuid", uuid]);
        assert_eq!(given["uuid"], uuid);
        assert_ne!(given["partition_uuid"], one.0["partition_uuid"]);
        assert!(bytes != one.1);
    }
}

#[test]
fn a_disk_that_cannot_be_made_leaves_the_existing_file() {
    let (blockbox, layout) = store(TarBuilder::new());
    let (image, folder) = (layout.reference(), tempfile::tempdir().unwrap());
    let disk = folder.path().join("disk");
    fs::write(&disk, "what was there").unwrap();
    let path = disk.to_str().unwrap();
    for (options, hint) in [
        (
            &["--size", "2M", "--partition-table", "gpt"][..],
            "too small",
        ),
        (&["--size", "67108865"], "not a multiple of 4096"),
        (&["--size", "2M"], path),
        (&["--type", "erofs", "--size", "1G"], "ext4"),
        (&["--compress", "zstd"], "erofs"),
    ] {
        let said = blockbox.fails(["disk", "create", &image, path].iter().chain(options));
        assert!(said.contains(hint), "{said}");
    }
    let said = blockbox.fails(["disk", "create", "nothing:here", path]);
    assert!(said.contains("pull"), "{said}");
    let said = blockbox.fails(["disk", "create", &image, "/dev/null"]);
    assert!(said.contains("not a regular file"), "{said}");
    assert_eq!(fs::read(&disk).unwrap(), b"what was there");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_machine_of_another_monitor_starts_from_the_disk_by_the_printed_parameters() {
    use common::guest::{LONG, until};
    use testkit::skip;

    let (Some(_), Some(busybox)) = (oracle("qemu-system-x86_64"), oracle("busybox")) else {
        return;
    };
    let script = "#!/bin/busybox sh\n/bin/busybox cat /etc/also; (echo changed > /etc/kept) 2>/dev/null\n\
                  /bin/busybox cat /etc/kept /proc/mounts\n/bin/busybox reboot -f\n";
    let lower = TarBuilder::new()
        .dir("dev")
        .dir("proc")
        .mode(0o755)
        .file("bin/busybox", fs::read(busybox.get_program()).unwrap())
        .file(
            "sbin/init",
            script.replace("sh\n", "sh\n/bin/busybox mount -t proc proc /proc\n"),
        )
        .mode(0o644);
    let (blockbox, layout) = store(lower);
    let folder = tempfile::tempdir().unwrap();
    let (home, arch) = (blockbox.home(), blockbox::vmm::Arch::HOST);
    let Ok(kernel) = blockbox::vmm::kernel::locate(None, home, folder.path(), arch) else {
        return skip("there is no guest kernel");
    };
    for (options, expected) in [
        (
            &["--partition-table", "gpt"][..],
            "keptchanged\n/dev/root / ext4 rw",
        ),
        (
            &["--type", "erofs", "--partition-table", "gpt"],
            "keptkept/dev/root / erofs ro",
        ),
    ] {
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let said = create(
            &blockbox,
            &layout.reference(),
            Path::new(&path("disk")),
            options,
        );
        let parameters = said["kernel_parameters"].as_str().unwrap();
        let mut machine = oracle("qemu-system-x86_64").unwrap();
        machine
            .args(["-machine", "microvm,acpi=off,isa-serial=off,rtc=on"])
            .args(["-accel", "tcg,thread=single", "-cpu", "max", "-m", "256"])
            .args([
                "-nodefaults",
                "-no-user-config",
                "-no-reboot",
                "-display",
                "none",
            ])
            .arg("-kernel")
            .arg(&kernel)
            .args([
                "-append",
                &format!("console=hvc0 reboot=t panic=-1 quiet {parameters}"),
            ])
            .args([
                "-chardev",
                &format!("file,id=console,path={}", path("console")),
            ])
            .args([
                "-device",
                "virtio-serial-device",
                "-device",
                "virtconsole,chardev=console",
            ])
            .args([
                "-drive",
                &format!("id=root,if=none,format=raw,file={}", path("disk")),
            ])
            .args(["-device", "virtio-blk-device,drive=root"]);
        let mut machine = machine.spawn().unwrap();
        let started = std::time::Instant::now();
        let status = until("the machine's end", || {
            if started.elapsed() > LONG / 2 {
                machine.kill().unwrap();
            }
            machine.try_wait().unwrap()
        });
        let console = fs::read_to_string(path("console"))
            .unwrap()
            .replace('\r', "");
        assert!(
            status.success() && console.contains(expected),
            "{status}: {console}"
        );
    }
}
