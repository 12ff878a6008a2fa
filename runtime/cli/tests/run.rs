//! `blockbox run`, with docker's behaviour: what the command sees, and what is left afterwards.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::os::unix::ffi::OsStrExt;
use std::process::{Output, Stdio};

use common::Blockbox;
use common::guest::Guest;
use common::layout::Compression;
use serde_json::{Value, json};
use testkit::{TarBuilder, oracle};

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_layout_that_was_rebuilt_in_place_runs_in_its_new_version() {
    let tar = |contents| TarBuilder::new().file("v", contents).finish();
    let Some(mut guest) = Guest::with_tars(json!({}), vec![tar("one\n")]) else {
        return;
    };
    guest.layout = guest
        .layout
        .layer(&tar("two\n"), Compression::Gzip)
        .finish();
    assert_eq!(guest.script(&["--rm"], "cat /v"), "two\n");
}

#[test]
fn streams_are_separate_and_the_exit_status_is_the_commands() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let output = guest.run(
        &["--rm"],
        &["sh", "-c", "cat; echo problem >&2; exit 3"],
        "piped\n",
    );
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(stdout(&output), "piped\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "problem\n");

    let output = guest.run(&["--rm"], &["no-such-command"], "");
    assert_eq!(output.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no-such-command"));

    let output = guest.run(&["--rm"], &["sh", "-c", "kill -9 $$"], "");
    assert_eq!(output.status.code(), Some(128 + 9));
    assert_eq!(guest.sandboxes(), 0);
}

/// QEMU, the kernel, VMDK and socket addresses each reject certain characters or lengths.
#[test]
fn a_store_may_lie_in_any_folder() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let parent = tempfile::tempdir().unwrap();
    let name = format!(
        "a b,c=,,d:e\n%s 'f' \"g\" $h `i` \\j é {}",
        "long".repeat(30)
    );
    let mut name = std::ffi::OsString::from(name);
    if cfg!(target_os = "linux") {
        name.push(std::ffi::OsStr::from_bytes(b"\xe9"));
    }
    let home = parent.path().join(name);
    std::fs::rename(guest.blockbox.home(), &home).unwrap();
    let blockbox = |args: &[&str]| {
        let mut command = guest.blockbox.command();
        command.env("BLOCKBOX_HOME", &home).args(args);
        command.output().unwrap()
    };
    let detached = blockbox(&[
        "run",
        "-d",
        "--name",
        "box",
        &guest.image,
        "--",
        "sleep",
        "1000",
    ]);
    let joined = blockbox(&["exec", "box", "cat", "/etc/motd"]);
    let removed = blockbox(&["rm", "-f", "box"]);
    assert!(detached.status.success(), "{detached:?}");
    assert_eq!(stdout(&joined), "from the image\n", "{joined:?}");
    assert!(removed.status.success(), "{removed:?}");
}

#[test]
fn the_images_configuration_holds_unless_the_command_line_says_otherwise() {
    let config = json!({
        "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["id; pwd; env"], "User": "app:extra",
        "WorkingDir": "/made/on/demand", "Env": ["MODE=image", "PATH=/bin"],
    });
    let Some(guest) = Guest::new(config) else {
        return;
    };
    let output = guest.run(&["--rm"], &[], "");
    let text = stdout(&output);
    assert!(text.contains("uid=1000(app) gid=2000(extra)"), "{text}");
    assert!(
        text.contains("/made/on/demand") && text.contains("MODE=image"),
        "{text}"
    );
    assert!(text.contains("HOME=/home/app"), "{text}");

    let options = [
        "--rm",
        "-e",
        "MODE=ours",
        "-w",
        "/etc",
        "-u",
        "0",
        "--hostname",
        "box",
    ];
    let output = guest.run(&options, &["id -u; pwd; echo $MODE $HOSTNAME"], "");
    assert_eq!(stdout(&output), "0\n/etc\nours box\n");

    let output = guest.run(&["--rm", "--entrypoint", "/bin/echo"], &["hello"], "");
    assert_eq!(stdout(&output), "hello\n");
}

#[test]
fn the_guest_sees_two_disks_and_what_it_writes_stays_on_the_second() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let disks = guest.blockbox.inspect(&guest.image);
    let files: Vec<_> = disks
        .layers
        .iter()
        .chain([&disks.fsmeta, &disks.disk])
        .collect();
    let bytes = || {
        files
            .iter()
            .map(|file| std::fs::read(file).unwrap())
            .collect::<Vec<_>>()
    };
    let before = bytes();
    let script = "awk 'NR > 2 { print $4 }' /proc/partitions; echo changed > /etc/motd; echo new > /new; cat /etc/motd";
    let text = guest.script(&["--name", "kept"], script);
    assert_eq!(text, "vda\nvdb\nchanged\n");
    assert!(before == bytes(), "a disk of the image changed");

    let upper = guest.blockbox.home().join("sandboxes/kept/upper.ext4");
    let Some(mut e2fsck) = oracle("e2fsck") else {
        return;
    };
    assert!(
        e2fsck
            .arg("-fn")
            .arg(&upper)
            .stdout(Stdio::null())
            .status()
            .unwrap()
            .success()
    );
    if testkit::kernel_mounts() {
        // Read-only without replaying the journal, because the data here was written back.
        let mount = testkit::Mount::ext4(&upper, false);
        assert_eq!(
            std::fs::read(mount.path().join("upper/etc/motd")).unwrap(),
            b"changed\n"
        );
        assert_eq!(
            std::fs::read(mount.path().join("upper/new")).unwrap(),
            b"new\n"
        );
    }

    // The changes are there after another boot.
    let text = guest
        .blockbox
        .ok(["start", "kept", "--", "cat", "/etc/motd", "/new"]);
    assert_eq!(text, "changed\nnew\n");
    assert!(
        guest
            .blockbox
            .fails(["start", "nobody", "--", "true"])
            .contains("nobody")
    );

    assert_eq!(guest.sandboxes(), 1);
    assert!(guest.blockbox.fails(["rmi", &guest.image]).contains("kept"));
    assert!(
        guest
            .blockbox
            .fails(["run", "--name", "kept", &guest.image, "true"])
            .contains("kept")
    );
    guest.blockbox.ok(["rm", "kept"]);
    assert_eq!(guest.sandboxes(), 0);
    guest.blockbox.ok(["rmi", &guest.image]);
}

/// The kernel would read it in requests of 512 bytes, which are hundreds for these files. (The
/// first field of a disk's statistics counts requests.)
#[test]
fn metadata_is_read_ahead_and_kept_in_memory() {
    let many = (0..3000).fold(TarBuilder::new(), |tar, number| {
        let folder = number / 100;
        tar.file(format!("many/{folder}/a-file-of-a-long-name-{number}"), "")
    });
    let Some(guest) = Guest::with_tars(json!({}), vec![many.finish()]) else {
        return;
    };
    // The number of requests to the disk, before and after a listing.
    let listing = "requests() { awk '{ print $1 }' /sys/block/vda/stat; }
        list() { requests; /bin/busybox ls -lR /many | wc -l; requests; }";
    let locked = "i=0; until grep -q 'VmLck:.*[1-9]' /proc/1/status || [ $i -ge 100 ]; do sleep 1; i=$((i + 1)); done";
    let script = format!("{listing}; list; {locked}; echo 3 > /proc/sys/vm/drop_caches; list");
    let text = guest.script(&["--rm"], &script);
    let numbers: Vec<u32> = text
        .lines()
        .map(|line| line.trim().parse().unwrap())
        .collect();
    let fsmeta = guest.blockbox.inspect(&guest.image).fsmeta;
    let sectors = std::fs::metadata(fsmeta).unwrap().len() / 512;
    for listing in [&numbers[..3], &numbers[3..]] {
        assert!(listing[1] > 3000, "{text}");
        // The programs' own pages need some requests.
        assert!(
            u64::from(listing[2] - listing[0]) < sectors / 4,
            "{text}of {sectors}"
        );
    }
}

/// A tmpfs by default; files on the disk are there after another boot.
#[test]
fn tmp_is_a_tmpfs_unless_it_is_off() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let mounts = "awk '$2 == \"/tmp\" || $2 == \"/run\" { print $2, $3 }' /proc/mounts";
    let script = format!("{mounts}; echo kept > /tmp/file");
    let off = ["--name", "box", "--tmpfs", "/tmp=off"];
    assert_eq!(guest.script(&off, &script), "/run tmpfs\n");

    // A sandbox starts with its original options.
    let words = ["start", "box", "--", "cat", "/tmp/file"];
    assert_eq!(guest.blockbox.ok(words), "kept\n");
    // A tmpfs begins with the contents of the disk.
    let script = format!("{mounts}; cat /tmp/* 2>/dev/null; echo");
    let both = "/tmp tmpfs\n/run tmpfs\nkept\n\n";
    let words = [
        "start", "--tmpfs", "/tmp=on", "box", "--", "sh", "-c", &script,
    ];
    assert_eq!(guest.blockbox.ok(words), both);
}

#[test]
fn the_bench_runs_in_any_image_and_leaves_nothing_behind() {
    let Some(guest) = Guest::new(json!({ "Entrypoint": ["/bin/false"], "User": "app" })) else {
        return;
    };
    let options = [
        "--rounds",
        "1",
        "--only",
        "read-all,write-tmp",
        "--format",
        "json",
    ];
    let words = [&["bench", "fs"], &options[..], &[&guest.image]].concat();
    let report: Value = serde_json::from_str(&guest.blockbox.ok(words)).unwrap();
    assert_eq!(report["tree"], "/");
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert_eq!(row["cold_ns"].as_array().unwrap().len(), 1, "{row}");
        assert_eq!(row["warm_ns"].as_array().unwrap().len(), 1, "{row}");
    }
    assert_eq!(guest.sandboxes(), 0);

    let error = guest
        .blockbox
        .fails(["bench", "fs", "--only", "reed", &guest.image]);
    assert!(error.contains("the bench ended with status 1"), "{error}");
    assert_eq!(guest.sandboxes(), 0);
}

/// On this host, and with the program that it writes for other places.
#[test]
fn the_bench_runs_without_a_sandbox_too() {
    let blockbox = Blockbox::new();
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("tmp")).unwrap();
    std::fs::write(root.path().join("file"), "contents").unwrap();
    let folder = root.path().to_str().unwrap();
    let options = ["--warm", "--rounds", "1", "--only", "misses"];
    let table = blockbox.ok([&["bench", "fs", "--here", folder], &options[..]].concat());
    assert!(table.contains("1 files in 2 directories"), "{table}");
    assert!(table.contains("misses"), "{table}");

    if cfg!(target_os = "linux") {
        let program = root.path().join("fsbench");
        blockbox.ok(["bench", "fs", "--program", program.to_str().unwrap()]);
        let output = std::process::Command::new(program)
            .arg(root.path())
            .args(options)
            .output()
            .unwrap();
        assert!(stdout(&output).contains("misses"), "{output:?}");
    }
}

#[test]
fn a_machine_that_cannot_start_is_an_error_that_leaves_no_sandbox() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let output = guest.run(&["--kernel", "/nonexistent/vmlinux"], &["true"], "");
    assert_eq!(output.status.code(), Some(125));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("/nonexistent/vmlinux"), "{stderr}");
    let output = guest.run(&["--upper-size", "1"], &["true"], "");
    assert_eq!(output.status.code(), Some(125));
    let output = guest.run(&["--memory", "1M"], &["true"], "");
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(guest.sandboxes(), 0);
    assert!(
        guest
            .blockbox
            .fails(["run", &guest.image])
            .contains("after `--`")
    );
}

/// An image of *n* layers is a disk of *n* + 1 extents; tests/boot boots one of a single extent.
#[test]
fn disks_of_2_40_127_and_501_extents_boot() {
    for extents in [2, 40, 127, 501] {
        let Some(guest) = Guest::with_layers(json!({}), extents - 1) else {
            return;
        };
        let disk = guest.blockbox.inspect(&guest.image).disk;
        let descriptor = std::fs::read_to_string(disk).unwrap();
        assert_eq!(descriptor.matches(" FLAT ").count(), extents);
        let sum: usize = (1..extents - 1).sum();
        let script = "cat /layers/* 2>/dev/null | awk '{ sum += $1 } END { print sum + 0, NR }'";
        assert_eq!(
            guest.script(&["--rm"], script),
            format!("{sum} {}\n", extents - 2)
        );
    }
}

#[test]
fn invalid_options_are_reported_before_the_pull() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let blockbox = &guest.blockbox;
    blockbox.ok(["create", "--name", "taken", &guest.image, "--", "true"]);
    for (options, named) in [
        (["--name", "taken"], "taken"),
        (["--name", "a/b"], "a/b"),
        (["--label", "=x"], "=x"),
        (["--env-file", "/no/such/file"], "/no/such/file"),
        (["--memory", "1M"], "memory"),
    ] {
        for command in ["run", "create"] {
            let [option, value] = options;
            let error = blockbox.fails([command, option, value, "oci:/no/such/layout"]);
            assert!(error.contains(named), "{option} {value}: {error}");
            assert!(!error.contains("layout"), "{option} {value}: {error}");
        }
    }
    for path in ["/", "data", "/a/../b"] {
        let output = blockbox.output(["create", "--disk-dir", path, &guest.image]);
        assert_eq!(output.status.code(), Some(125), "{path}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("--disk-dir"));
    }
    assert_eq!(guest.sandboxes(), 1);
}

#[test]
fn options_that_contradict_each_other_are_refused_by_name() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let blockbox = &guest.blockbox;
    let (image, disk) = (guest.image.as_str(), "disk:/no/such/disk");
    for (options, named) in [
        (&["-t", "--no-tty", image][..], ["--tty", "--no-tty"]),
        (&["--no-tty", "-t", image], ["--no-tty", "--tty"]),
        (
            &["-q", "--progress", "json", image],
            ["--quiet", "--progress"],
        ),
        (
            &["--rm", "--restart", "always", image],
            ["--rm", "--restart always"],
        ),
        (
            &["--read-only", "--upper-size", "1G", image],
            ["--read-only", "--upper-size"],
        ),
        (
            &["--platform", "linux/amd64", disk],
            ["--platform", "disk:"],
        ),
        (
            &["--snapshot", "x", "--platform", "linux/amd64"],
            ["--snapshot", "--platform"],
        ),
        (
            &["--disk-dir", "/a", "--tmpfs", "/a", image],
            ["/a", "already"],
        ),
        (
            &["--disk-dir", "/a", "-v", "new:/a/", image],
            ["/a", "already"],
        ),
        (&["-v", "new:/a", "--volume=-x:/b", image], ["-x", "volume"]),
        (&["--name=-x", image], ["-x", "beginning"]),
    ] {
        let output = blockbox.output([&["create"], options, &["true"]].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{options:?}: {error}");
        assert!(named.iter().all(|name| error.contains(name)), "{error}");
    }
    let output = blockbox.output(["exec", "-t", "--no-tty", "x", "true"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("--no-tty"), "{error}");
    assert_eq!(guest.sandboxes(), 0);
    assert_eq!(blockbox.ok(["volume", "ls", "-q"]), "");
    // These do not.
    for options in [
        &["--rm", "--restart", "no"][..],
        &["--read-only", "--upper-size", "1G", "--patch", "mkdir:/a"],
        &["--timeout", "0"],
    ] {
        blockbox.ok([&["create"], options, &[image, "true"]].concat());
    }
}

#[test]
fn a_folder_of_the_disk_itself_supports_overlays_and_persists() {
    let tar = TarBuilder::new().file("var/lib/docker/seed", "from the image\n");
    let Some(guest) = Guest::with_tars(json!({}), vec![tar.finish()]) else {
        return;
    };
    let script = "cd /var/lib/docker && cat seed && grep -c ' /var/lib/docker ext4 ' /proc/mounts \
        && /bin/busybox mkdir lower upper work merged && echo kept >lower/f \
        && /bin/busybox mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay merged \
        && cat merged/f && echo new >merged/g && cat upper/g";
    let options = ["--name", "dind", "--disk-dir", "/var/lib//docker/"];
    assert_eq!(
        guest.script(&options, script),
        "from the image\n1\nkept\nnew\n"
    );
    let again = ["start", "dind", "--", "cat", "/var/lib/docker/upper/g"];
    assert_eq!(guest.blockbox.ok(again), "new\n");
}

#[test]
fn a_working_directory_is_created_through_links_and_a_file_is_an_error() {
    let tar = TarBuilder::new()
        .symlink("lnk", "srv/deep")
        .symlink("loop", "loop");
    let Some(guest) = Guest::with_tars(json!({}), vec![tar.finish()]) else {
        return;
    };
    let script = "cd /srv/deep/sub && echo there";
    assert_eq!(guest.script(&["--rm", "-w", "/lnk/sub"], script), "there\n");
    for (path, reason) in [
        ("/etc/passwd", "Not a directory"),
        // Two C libraries have two texts for it.
        ("/loop/sub", "(os error 40)"),
    ] {
        let output = guest.run(&["--rm", "-w", path], &["true"], "");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{path}");
        assert!(stderr.contains(path) && stderr.contains(reason), "{stderr}");
    }
}
