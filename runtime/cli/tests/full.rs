//! Streams and disks without space.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::Blockbox;
use common::guest::{Guest, signal, text, until};
use common::layout::{Compression, Layout};
use serde_json::{Value, json};
use testkit::{SmallDisk, TarBuilder, noise};

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

#[test]
fn output_that_cannot_be_written_is_an_error_and_no_panic() {
    let blockbox = Blockbox::without_kernel();
    for command in [
        &["doctor"][..],
        &["gc"],
        &["images"],
        &["volume", "create", "v"],
    ] {
        let output = blockbox.command().args(command).stdout(full()).output();
        let output = output.unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {error}");
        assert!(error.contains("No space left on device"), "{error}");
        assert!(!error.contains("panicked"), "{error}");
    }
    // The command did its work.
    assert_eq!(blockbox.ok(["volume", "ls", "-q"]), "v\n");
}

#[test]
fn what_does_not_fit_is_reported_of_the_copy_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let small = folder.path().join("small");
    fs::create_dir(&small).unwrap();
    let Some(disk) = SmallDisk::mount(&small, 1) else {
        return;
    };
    let tar = TarBuilder::new().file("big", noise(1, 3 << 20)).finish();
    let layout = Layout::new().layer(&tar, Compression::None).finish();
    let blockbox = Blockbox::new();
    let archive = folder.path().join("tar");
    fs::write(&archive, &tar).unwrap();
    blockbox.ok(["volume", "import", "v", archive.to_str().unwrap()]);
    let image = layout.reference();
    blockbox.ok([
        "create",
        "--name",
        "box",
        "--patch",
        "append:/big=x",
        &image,
        "true",
    ]);
    blockbox.ok(["snapshot", "create", "--name", "s", "box"]);
    let at = |name: &str| disk.path().join(name).display().to_string();
    let output = at("output");
    for args in [
        &["volume", "export", "v", "--kind", "ext4", "-o", &output][..],
        &["volume", "export", "v", "-o", &output],
        &["snapshot", "export", "-o", &output, "s"],
        &["export", "-o", &output, "box"],
        &["save", "-o", &output, &image],
        &["disk", "create", &image, &output],
        &["cp", "box:/big", &output],
        &["cp", "box:/big", &at("")],
    ] {
        let error = blockbox.fails(args);
        assert!(
            error.contains("No space left on device"),
            "{args:?}: {error}"
        );
        let source = blockbox.home().display().to_string();
        assert!(!error.contains(&source), "{args:?}: {error}");
        let left = fs::read_dir(disk.path()).unwrap().flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        assert!(left.is_empty(), "{args:?}: {left:?}");
    }
}

#[test]
fn a_reader_that_has_gone_ends_a_listing_in_silence() {
    let blockbox = Blockbox::without_kernel();
    for command in ["doctor", "gc", "help"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = blockbox.command().arg(command).stdout(writer).output();
        let output = output.unwrap();
        assert_eq!(text(&output.stderr), "", "{command}");
        assert!(output.status.success(), "{command}");
    }
}

#[test]
fn an_error_that_cannot_be_printed_is_still_an_exit_status() {
    let blockbox = Blockbox::without_kernel();
    for (command, status) in [(["inspect", "none"], 1), (["start", "none"], 1)] {
        let status_was = blockbox.command().args(command).stderr(full()).status();
        assert_eq!(status_was.unwrap().code(), Some(status), "{command:?}");
    }
}

/// A file that takes all space of the disk, removed when dropped.
struct Filler(PathBuf);

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Puts the store on a separate file system; `None` if this user may not mount.
fn small_store(guest: &Guest) -> Option<SmallDisk> {
    let home = guest.blockbox.home();
    let kept = home.with_extension("kept");
    let copy = |from: &Path, to: &Path| {
        let mut cp = Command::new("cp");
        let copied = cp.arg("-a").arg(from.join(".")).arg(to).status();
        assert!(copied.unwrap().success());
    };
    fs::create_dir(&kept).unwrap();
    copy(home, &kept);
    let store = SmallDisk::mount(home, 256);
    if store.is_some() {
        copy(&kept, home);
    }
    fs::remove_dir_all(&kept).unwrap();
    store
}

/// Fills the file system of `folder`.
fn fill(folder: &Path) -> Filler {
    let path = folder.join("filler");
    let mut file = File::create(&path).unwrap();
    let error = std::io::copy(&mut std::io::repeat(1), &mut file).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    Filler(path)
}

#[test]
fn a_full_disk_hides_no_sandbox_and_ends_no_monitor() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let Some(store) = small_store(&guest) else {
        return;
    };
    let blockbox = &guest.blockbox;
    let state = |name: &str| -> Value {
        let json = blockbox.ok(["inspect", name]);
        serde_json::from_str::<Value>(&json).unwrap()[0]["state"].clone()
    };
    for name in ["talks", "killed"] {
        let command = "while [ ! -e /end ]; do echo line; sleep 0.1; done; exit 7";
        let run = [
            "run",
            "-d",
            "--name",
            name,
            &guest.image,
            "--",
            "sh",
            "-c",
            command,
        ];
        blockbox.ok(run);
    }
    // A guest that writes to its disk later would be paused.
    for name in ["talks", "killed"] {
        blockbox.ok(["exec", name, "busybox", "sync"]);
    }
    let filler = fill(store.path());
    // Its log grows on the full disk meanwhile.
    let client = blockbox
        .command()
        .args(["wait", "talks"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let answer = blockbox.ok(["exec", "talks", "echo", "alive"]);
    assert_eq!(answer, "alive\n");
    let running = blockbox.ok(["ps", "-q", "--filter", "status=running"]);
    assert_eq!(running.lines().count(), 2);

    let monitor = state("killed")["monitor_pid"].as_u64().unwrap();
    let kill = Command::new("kill")
        .args(["-9", &monitor.to_string()])
        .status();
    assert!(kill.unwrap().success());
    until("the end of the killed one", || {
        (state("killed")["status"] == "exited").then_some(())
    });
    assert_eq!(state("killed")["exit_code"], 137);

    // The command ends while nothing can be recorded: waiting clients are informed.
    let _ = blockbox.output(["stop", "-t", "1", "talks"]);
    let waited = client.wait_with_output().unwrap();
    assert_eq!(text(&waited.stdout), "143\n");
    let listed = blockbox.ok(["ps", "-aq", "--filter", "status=exited"]);
    assert_eq!(listed.lines().count(), 2);
    blockbox.ok(["rm", "killed"]);
    drop(filler);
    assert_eq!(guest.sandboxes(), 1);
    blockbox.ok(["start", "talks"]);
    blockbox.ok(["rm", "-f", "talks"]);
}

#[test]
fn a_sandbox_that_cannot_be_renamed_on_a_full_disk_keeps_its_name() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let Some(store) = small_store(&guest) else {
        return;
    };
    let blockbox = &guest.blockbox;
    blockbox.ok(["create", "--name", "r", &guest.image, "--", "true"]);
    let filler = fill(store.path());
    let renamed = blockbox.output(["rename", "r", "s"]);
    let (old, new) = match renamed.status.success() {
        true => ("s", "r"),
        false => ("r", "s"),
    };
    assert_eq!(guest.state(old).unwrap()["status"], "created");
    assert_eq!(guest.state(new), None);
    drop(filler);
    blockbox.ok(["rm", old]);
}

/// Fills the file system of `folder` except for some mebibytes.
fn fill_but(folder: &Path, mebibytes: u64) -> Filler {
    let filler = fill(folder);
    let file = File::options().write(true).open(&filler.0).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length - (mebibytes << 20)).unwrap();
    filler
}

#[test]
fn a_full_disk_pauses_a_sandbox_which_says_so_goes_on_with_room_and_can_be_killed() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let Some(store) = small_store(&guest) else {
        return;
    };
    let blockbox = &guest.blockbox;
    // Makes the kernel ready, too.
    blockbox.ok(["create", "--name", "late", &guest.image, "--", "echo", "up"]);
    let stderr = tempfile::NamedTempFile::new().unwrap();
    let script = "while read n; do busybox dd if=/dev/zero of=/$n bs=1M count=30 conv=fsync \
                  2>/dev/null; echo $n; done";
    let mut client = blockbox
        .command()
        .args(["run", "-i", "--rm", "--name", "r", &guest.image, "--"])
        .args(["sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(stderr.reopen().unwrap())
        .spawn()
        .unwrap();
    let said = |text: &str| {
        let shown = || fs::read_to_string(stderr.path()).unwrap();
        until(text, || shown().contains(text).then_some(()));
    };
    until("the command", || {
        (guest.state("r")?["status"] == "running").then_some(())
    });
    let filler = fill_but(store.path(), 12);
    let mut input = client.stdin.take().unwrap();
    input.write_all(b"first\n").unwrap();
    said("the host's disk is full: the sandbox is paused until there is room");
    until("the pause in the state", || {
        (guest.state("r")?["status"] == "paused").then_some(())
    });
    let ps = blockbox.ok(["ps"]);
    assert!(ps.contains("(Paused: host disk full)"), "{ps}");
    let refused = guest.exec(&["r", "true"]);
    assert_eq!(refused.status.code(), Some(125));
    let error = text(&refused.stderr);
    assert!(error.contains("the host's disk is full"), "{error}");
    // Another one boots if its disk need not grow, or says why it cannot.
    let late = blockbox.output(["start", "-a", "late"]);
    let error = text(&late.stderr);
    assert!(
        text(&late.stdout) == "up\n"
            || error.contains("disk is full")
            || error.contains("No space left"),
        "{error}"
    );

    drop(filler);
    let mut output = BufReader::new(client.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "first\n");
    said("the host's disk has room");
    until("the end of the pause in the state", || {
        (guest.state("r")?["status"] == "running").then_some(())
    });

    let filler = fill_but(store.path(), 12);
    input.write_all(b"second\n").unwrap();
    until("the second pause", || {
        (guest.state("r")?["status"] == "paused").then_some(())
    });
    for _ in 0..3 {
        signal(&client, "TERM");
        // Signals that wait for their delivery at the same time are one.
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    let status = until("the end", || client.try_wait().unwrap());
    assert_eq!(status.code(), Some(137));
    assert_eq!(guest.state("r"), None);
    drop(filler);
    let events = blockbox.ok(["events", "--since", "1h", "--until", "0s", "-f", "name=r"]);
    for action in ["unpause", "die"] {
        assert!(events.contains(action), "{action}: {events}");
    }
}
