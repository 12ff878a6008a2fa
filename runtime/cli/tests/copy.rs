//! `diff`, `export` and `cp` on running and stopped sandboxes, compared with their guests' view.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use common::guest::{Guest, text};
use serde_json::json;
use testkit::{TarBuilder, oracle, walk};

/// Makes changes of every kind that overlayfs represents differently.
const CHANGES: &str = "
    echo changed >> /etc/motd; busybox rm /layers/gone; busybox rm -r /layers/dir
    busybox mkdir /layers/dir; echo new > /layers/dir/new
    busybox mv /layers/moved /layers/renamed
    echo 1 > /new; busybox ln /new /again; busybox ln -s new /link; busybox mkfifo /fifo
    busybox mknod /null c 1 3; busybox chown 7:8 /new; busybox chmod 4711 /new
    busybox dd if=/dev/zero of=/sparse bs=1 count=1 seek=5000000 2>/dev/null
    busybox chmod 700 /bin";

/// The list that docker would print for that.
const DIFF: &str = "\
A /again
C /bin
C /etc
C /etc/motd
A /fifo
C /layers
C /layers/dir
A /layers/dir/new
D /layers/dir/old
D /layers/gone
D /layers/moved
A /layers/renamed
A /layers/renamed/inside
A /link
A /new
A /null
A /sparse
";

fn guest() -> Option<Guest> {
    let tar = TarBuilder::new()
        .dir("layers")
        .file("layers/gone", "x")
        .dir("layers/dir")
        .file("layers/dir/old", "x")
        .dir("layers/moved")
        .file("layers/moved/inside", "x")
        .finish();
    Guest::with_tars(json!({"Cmd": ["sleep", "1000"]}), vec![tar])
}

impl Guest {
    fn sh(&self, name: &str, script: &str) -> String {
        self.blockbox.ok(["exec", name, "sh", "-c", script])
    }
}

/// A folder of this host to copy.
fn source() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("tree/sub")).unwrap();
    fs::write(at("tree/sub/file"), "from the host\n").unwrap();
    fs::hard_link(at("tree/sub/file"), at("tree/same")).unwrap();
    symlink("sub/file", at("tree/link")).unwrap();
    fs::write(at("tree/.wh.literal"), "").unwrap();
    fs::set_permissions(at("tree/sub"), fs::Permissions::from_mode(0o750)).unwrap();
    folder
}

/// What is listed of the mounts.
const MOUNT_POINTS: &str = "A /a\nA /a/b\nA /a/b/c\nA /scratch\n";

/// Adds the mount points to a list of changes, in order.
fn with_mount_points(changes: &str) -> String {
    let mut lines: Vec<_> = changes.lines().chain(MOUNT_POINTS.lines()).collect();
    lines.sort_by_key(|line| line[2..].to_owned());
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn changes_are_listed_and_exported_whether_the_sandbox_runs_or_not() {
    let Some(guest) = guest() else {
        return;
    };
    let blockbox = &guest.blockbox;
    let mounts = ["-v", "data:/a/b/c", "--tmpfs", "/scratch"];
    let words = [
        &["run", "-d", "--name", "one"],
        &mounts[..],
        &[&guest.image],
    ]
    .concat();
    blockbox.ok(words);
    // As with docker, folders that were made to mount on are there, and what init itself needs is
    // no change.
    assert_eq!(blockbox.ok(["diff", "one"]), MOUNT_POINTS);
    guest.sh("one", CHANGES);
    let diff = with_mount_points(DIFF);
    assert_eq!(blockbox.ok(["diff", "one"]), diff);
    let folder = tempfile::tempdir().unwrap();
    let tar = |name: &str| folder.path().join(name).display().to_string();
    let (running, stopped) = (tar("running.tar"), tar("stopped.tar"));
    blockbox.ok(["export", "one", "-o", &running]);
    // The disk was thawed.
    guest.sh(
        "one",
        "echo x > /etc/written && busybox rm /etc/written && busybox sync",
    );
    blockbox.ok(["stop", "-t", "0", "one"]);
    assert_eq!(blockbox.ok(["diff", "one"]), diff);
    blockbox.ok(["export", "one", "-o", &stopped]);
    let committed = tar("committed.tar");
    blockbox.ok(["commit", "one", "committed"]);
    let archive = format!("oci-archive:{}:v1", tar("archive"));
    blockbox.ok(["commit", "one", &archive]);
    blockbox.ok(["pull", "-q", &archive]);
    let top = |image: &str| blockbox.inspect(image).layers.pop().unwrap();
    assert_eq!(top(&archive), top("committed"));
    blockbox.ok(["create", "--name", "two", "committed"]);
    blockbox.ok(["export", "two", "-o", &committed]);
    let listed = oracle("tar").map(|mut tar| tar.args(["-tf", &committed]).output().unwrap());
    let listed = listed.map_or_else(String::new, |output| text(&output.stdout));
    let Some(mut program) = oracle("tar") else {
        return;
    };
    for mount_point in ["./a/b/c/", "./scratch/"] {
        assert!(listed.lines().any(|line| line == mount_point), "{listed}");
    }
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    let status = program.args(["-xpf", &stopped, "-C"]).arg(&root).status();
    assert!(status.unwrap().success());
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    assert_eq!(read("etc/motd"), "from the image\nchanged\n");
    assert_eq!(read("layers/dir/new"), "new\n");
    assert!(!root.join("layers/gone").exists() && !root.join("layers/dir/old").exists());
    assert_eq!(read("layers/renamed/inside"), "x");
    for mount_point in ["a/b/c", "scratch"] {
        assert!(
            fs::read_dir(root.join(mount_point))
                .unwrap()
                .next()
                .is_none()
        );
    }
    let new = fs::metadata(root.join("new")).unwrap();
    assert_eq!((new.mode() & 0o7777, new.nlink()), (0o4711, 2));
    if rustix::process::geteuid().is_root() {
        assert_eq!((new.uid(), new.gid()), (7, 8));
    }
    let sparse = fs::metadata(root.join("sparse")).unwrap();
    assert_eq!(sparse.len(), 5_000_001);
    assert!(sparse.blocks() < 100, "{}", sparse.blocks());
    // But for the times of what was written in between.
    let lengths = [&running, &stopped].map(|tar| fs::metadata(tar).unwrap().len());
    assert_eq!(lengths[0], lengths[1]);
}

#[test]
fn copies_are_the_same_into_and_out_of_a_running_and_a_stopped_sandbox() {
    let Some(guest) = guest() else {
        return;
    };
    let blockbox = &guest.blockbox;
    let source = source();
    let at = |path: &str| source.path().join(path).display().to_string();
    let (tree, contents) = (at("tree"), at("tree/."));
    blockbox.ok(["run", "-d", "--name", "one", &guest.image]);
    let copies = |target: &str| {
        blockbox.ok(["cp", &tree, &format!("one:{target}")]);
        blockbox.ok(["cp", &contents, &format!("one:{target}/into")]);
        blockbox.ok(["cp", &at("tree/same"), &format!("one:{target}/tree/named")]);
        blockbox.ok(["cp", &at("tree/same"), &format!("one:{target}/tree/")]);
    };
    guest.sh("one", "busybox mkdir -p /run/up /layers/up; busybox sync");
    copies("/layers/up");
    blockbox.ok(["cp", "-L", &at("tree/link"), "one:/run/followed"]);
    assert_eq!(
        guest.sh(
            "one",
            "cat /run/followed; test -L /run/followed || echo no link"
        ),
        "from the host\nno link\n"
    );
    // A tmpfs, which is not on a disk.
    copies("/run/up");
    let seen =
        "cd /layers && busybox find up* down* 2>/dev/null | busybox sort | busybox sed s/^down/up/";
    let listing = "cd /layers && busybox stat -c '%A %u:%g %n' up/tree/* up/tree/.wh.literal; cat up/into/link";
    let (up, attributes) = (guest.sh("one", seen), guest.sh("one", listing));
    assert!(
        attributes.contains("drwxr-x--- 0:0 up/tree/sub"),
        "{attributes}"
    );
    assert!(attributes.contains("from the host"), "{attributes}");
    assert!(
        up.contains("up/tree/named") && up.contains("up/into/.wh.literal"),
        "{up}"
    );
    guest.sh(
        "one",
        "busybox mv /layers/up /layers/first; busybox mkdir /layers/up; busybox sync",
    );

    // Errors name the path, and nothing changes.
    for (from, to, expected) in [
        ("one:/missing", ".", "/missing"),
        (&*tree, "one:/missing/deep/er", "/missing"),
        (&*tree, "one:/etc/motd", "over a file"),
        ("one:/etc/motd", "/missing/", "/missing"),
        (&*tree, "nobody:/", "nobody"),
    ] {
        let output = blockbox.output(["cp", from, to]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && text.contains(expected),
            "{from} {to}: {text}"
        );
    }
    blockbox.ok(["stop", "-t", "0", "one"]);
    copies("/layers/up");
    // Through a link of the image, over a file of the image, and into a deleted directory.
    let file = at("tree/same");
    blockbox.ok(["cp", &file, "one:etc/motd"]);
    let upper = blockbox.home().join("sandboxes/one/upper.ext4");
    assert_eq!(fs::metadata(&upper).unwrap().mode() & 0o777, 0o600);
    if let Some(mut e2fsck) = oracle("e2fsck") {
        let output = e2fsck.arg("-fn").arg(&upper).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let out = tempfile::tempdir().unwrap();
    let target = |name: &str| out.path().join(name).display().to_string();
    blockbox.ok(["cp", "one:/layers/up/tree", &target("stopped")]);
    blockbox.ok(["start", "one"]);
    assert_eq!(guest.sh("one", seen), up);
    assert_eq!(guest.sh("one", listing), attributes);
    assert_eq!(guest.sh("one", "cat /etc/motd"), "from the host\n");
    blockbox.ok(["cp", "one:/layers/up/tree", &target("running")]);
    let walks = [target("stopped"), target("running")].map(|path| walk(Path::new(&path)).unwrap());
    testkit::Difference::between(&walks[0], &walks[1]).assert_none();
    let copied = fs::read_to_string(out.path().join("running/sub/file")).unwrap();
    assert_eq!(copied, "from the host\n");

    // Archives on standard input and output.
    let tar = TarBuilder::new()
        .mode(0o644)
        .file("d/by tar", "piped\n")
        .finish();
    let mut child = blockbox
        .command()
        .args(["cp", "-", "one:/layers"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&tar).unwrap();
    assert!(child.wait().unwrap().success());
    let output = blockbox.output(["cp", "one:/layers/d", "-"]);
    let mut list = Command::new("tar")
        .arg("-tf-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    list.stdin
        .take()
        .unwrap()
        .write_all(&output.stdout)
        .unwrap();
    let listed = String::from_utf8(list.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(listed, "d/\nd/by tar\n");
}

#[test]
fn a_hostile_sandbox_writes_nothing_outside_of_the_target() {
    let Some(guest) = guest() else {
        return;
    };
    let blockbox = &guest.blockbox;
    blockbox.ok(["run", "-d", "--name", "one", &guest.image]);
    let out = tempfile::tempdir().unwrap();
    fs::create_dir(out.path().join("target")).unwrap();
    fs::write(out.path().join("victim"), "untouched").unwrap();
    symlink("../victim", out.path().join("target/tree")).unwrap();
    guest.sh(
        "one",
        "busybox mkdir /tree; busybox mknod /tree/sda b 8 0; echo x > /tree/setuid
         busybox chmod 6755 /tree/setuid; busybox ln -s /etc /tree/out; busybox sync",
    );
    let target = out.path().join("target").display().to_string();
    for state in ["running", "stopped"] {
        // The link in the target is not followed.
        let refused = blockbox.output(["cp", "one:/tree", &target]);
        assert!(!refused.status.success(), "{state}");
        let output = blockbox.output(["cp", "one:/tree/.", &format!("{target}/{state}")]);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("sda"), "{text}");
        let copied = out.path().join("target").join(state);
        assert!(!copied.join("sda").exists());
        let mode = fs::metadata(copied.join("setuid")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o755);
        assert_eq!(
            fs::read_link(copied.join("out")).unwrap(),
            Path::new("/etc")
        );
        blockbox.ok(["stop", "-t", "0", "one"]);
    }
    assert_eq!(fs::read(out.path().join("victim")).unwrap(), b"untouched");
}

/// The monitor holds the disk for its reader, and releases it when the reader ends: the guest's
/// writes wait no longer than that.
#[test]
fn a_reader_that_is_killed_leaves_no_frozen_disk() {
    let Some(guest) = guest() else {
        return;
    };
    let blockbox = &guest.blockbox;
    blockbox.ok(["run", "-d", "--name", "one", &guest.image]);
    guest.sh(
        "one",
        "busybox dd if=/dev/urandom of=/big bs=1M count=2 2>/dev/null; busybox sync",
    );
    // More than a pipe holds, and not read.
    let mut reader = blockbox
        .command()
        .args(["export", "one"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let write = ["exec", "one", "sh", "-c", "echo x > /written; busybox sync"];
    let mut frozen = || {
        let mut writer = blockbox.command().args(write).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_secs(3));
        match writer.try_wait().unwrap() {
            None => Some(writer),
            Some(_) => None,
        }
    };
    let mut writer = common::guest::until("the freeze", &mut frozen);
    reader.kill().unwrap();
    reader.wait().unwrap();
    let killed = std::time::Instant::now();
    assert!(writer.wait().unwrap().success());
    // Much less than the timeout of the guest's own watchdog.
    assert!(killed.elapsed().as_secs() < 7, "{:?}", killed.elapsed());
    // The next reader gets the disk.
    let diff = blockbox.ok(["diff", "one"]);
    assert_eq!(diff, "A /big\nA /written\n");
}
