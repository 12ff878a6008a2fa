//! Snapshots and forks, against real boots.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use common::guest::{Guest, text};
use serde_json::{Value, json};
use testkit::oracle;

/// Checks that a disk is a clean file system.
fn is_clean(disk: &Path) {
    if let Some(mut e2fsck) = oracle("e2fsck") {
        let output = e2fsck.arg("-fn").arg(disk).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

/// An image whose hook for forks leaves a trace.
fn guest() -> Option<Guest> {
    let hook = "#!/bin/sh\necho forked >> /forks\n";
    let tar = testkit::TarBuilder::new()
        .dir("etc/blockbox")
        .mode(0o755)
        .file("etc/blockbox/on-fork", hook)
        .finish();
    Guest::with_tars(json!({"Cmd": ["sleep", "1000"]}), vec![tar])
}

impl Guest {
    fn sh(&self, name: &str, script: &str) -> String {
        let output = self.exec(&[name, "sh", "-c", script]);
        assert!(output.status.success(), "{script}: {output:?}");
        text(&output.stdout)
    }
}

#[test]
fn a_snapshot_of_a_running_sandbox_is_what_others_begin_as() {
    let Some(guest) = guest() else {
        return;
    };
    let blockbox = &guest.blockbox;
    guest.detached(&["--name", "source", "--env", "A=b"], &["sleep", "1000"]);
    guest.sh("source", "echo first > /file");
    blockbox.ok(["snapshot", "create", "source", "-n", "one"]);
    // The source goes on, and the snapshot does not change with it.
    guest.sh("source", "echo second > /file");
    assert!(
        blockbox
            .fails(["snapshot", "create", "source", "-n", "one"])
            .contains("already")
    );
    let folder = blockbox.home().join("snapshots/one");
    is_clean(&folder.join("upper.ext4"));
    blockbox.ok(["snapshot", "verify", "one"]);

    let run = ["run", "--rm", "--snapshot", "one", "--", "sh", "-c"];
    let script = "cat /file /forks; hostname; cat /etc/machine-id; echo $A";
    let one = blockbox.ok([&run[..], &[script]].concat());
    let two = blockbox.ok([&run[..], &[script]].concat());
    let lines: Vec<_> = one.lines().collect();
    assert_eq!(
        (lines[0], lines[1], lines[4]),
        ("first", "forked", "b"),
        "{one}"
    );
    // Each is a machine of its own.
    let others: Vec<_> = two.lines().collect();
    assert_ne!(lines[2], others[2]);
    assert_ne!(lines[3], others[3]);
    assert_eq!(lines[3].len(), 32);
    assert_eq!(guest.sandboxes(), 1);

    // The image stays as long as the snapshot.
    blockbox.ok(["rm", "-f", "source"]);
    assert!(
        blockbox
            .fails(["rmi", &guest.image])
            .contains("snapshot \"one\"")
    );
    assert!(
        blockbox
            .fails(["snapshot", "inspect", "two"])
            .contains("no snapshot")
    );
    let list = blockbox.ok(["snapshot", "ls", "--format", "json"]);
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list[0]["name"], "one");
    blockbox.ok(["snapshot", "rm", "one"]);
    assert!(!folder.exists());
    blockbox.ok(["rmi", &guest.image]);
}

#[test]
fn forks_diverge_and_a_restored_sandbox_forgets() {
    let Some(guest) = guest() else {
        return;
    };
    let blockbox = &guest.blockbox;
    guest.detached(&["--name", "source"], &["sleep", "1000"]);
    guest.sh("source", "echo source > /file");
    blockbox.ok(["snapshot", "create", "--crash", "source", "-n", "s"]);
    assert_eq!(blockbox.ok(["fork", "source", "--name", "fork"]), "fork\n");
    guest.sh("fork", "echo fork >> /file");
    guest.sh("source", "echo again >> /file");
    assert_eq!(guest.sh("fork", "cat /file"), "source\nfork\n");
    assert_eq!(guest.sh("source", "cat /file"), "source\nagain\n");
    let ids: Vec<String> = ["source", "fork"]
        .map(|name| guest.sh(name, "hostname; id -u"))
        .into();
    assert_eq!(ids, ["source\n0\n", "fork\n0\n"]);
    assert!(
        blockbox
            .fails(["snapshot", "restore", "source", "s"])
            .contains("running")
    );
    blockbox.ok(["stop", "-t", "0", "source", "fork"]);

    // A stopped sandbox is forked without a boot, as often as one likes.
    let forks = blockbox.ok(["fork", "source", "--count", "5"]);
    assert_eq!(forks.lines().count(), 5);
    let folder = |name: &str| {
        blockbox
            .home()
            .join("sandboxes")
            .join(name)
            .join("upper.ext4")
    };
    for name in forks.lines() {
        is_clean(&folder(name));
        let blocks = [name, "source"].map(|name| std::fs::metadata(folder(name)).unwrap().blocks());
        // The host's file system rounds each run of data.
        assert!(blocks[0] <= blocks[1] + blocks[1] / 4, "{blocks:?}");
    }
    blockbox.ok(["snapshot", "restore", "source", "s"]);
    let output = blockbox.output(["start", "source", "--", "cat", "/file"]);
    // What was not synced may be missing after a power cut, and nothing that came later is there.
    assert!(
        ["", "source\n"].contains(&&*text(&output.stdout)),
        "{output:?}"
    );
    is_clean(&folder("source"));
}

#[test]
fn an_exported_snapshot_is_the_same_in_another_store() {
    let Some(guest) = guest() else {
        return;
    };
    let blockbox = &guest.blockbox;
    let script = "echo kept > /file; /bin/busybox sync";
    let output = guest.run(&["--name", "source"], &["sh", "-c", script], "");
    assert!(output.status.success(), "{output:?}");
    blockbox.ok(["snapshot", "create", "source", "-n", "one"]);
    let file = blockbox.home().join("one.tar.zst");
    let path = file.to_str().unwrap();
    blockbox.ok(["snapshot", "export", "one", "-o", path]);
    let bytes = std::fs::read(&file).unwrap();
    assert!(bytes.len() < 4 << 20, "{}", bytes.len());
    if let Some(mut tar) = oracle("tar") {
        let output = tar.args(["--zstd", "-tf", path]).output().unwrap();
        assert_eq!(
            text(&output.stdout),
            "snapshot.json\nupper.ext4\n",
            "{output:?}"
        );
    }

    let other = common::Blockbox::new();
    assert!(
        other
            .fails(["snapshot", "import", path])
            .contains("no image")
    );
    other.ok(["pull", "-q", &guest.image]);
    assert_eq!(other.ok(["snapshot", "import", path]), "one\n");
    assert!(
        other
            .fails(["snapshot", "import", path])
            .contains("already")
    );
    let output = other.ok(["run", "--rm", "--snapshot", "one", "--", "cat", "/file"]);
    assert_eq!(output, "kept\n");

    // Other bytes are refused, wherever they differ, and leave nothing behind.
    let before = other.listing();
    for at in [10, bytes.len() / 3, bytes.len() / 2, bytes.len() - 20] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        std::fs::write(&file, &damaged).unwrap();
        other.fails(["snapshot", "import", "-n", "two", path]);
    }
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    other.fails(["snapshot", "import", "-n", "two", path]);
    assert_eq!(other.listing(), before);

    // A disk that changed after the snapshot was made is noticed.
    let disk = other.home().join("snapshots/one/upper.ext4");
    let disk = std::fs::File::options().write(true).open(&disk).unwrap();
    disk.write_all_at(b"x", 5000).unwrap();
    assert!(
        other
            .fails(["snapshot", "verify", "one"])
            .contains("damaged")
    );
    let words = ["run", "--rm", "--snapshot", "one", "--", "true"];
    assert!(other.fails(words).contains("damaged"));
    assert_eq!(other.ok(["ps", "-aq"]), "");
}
