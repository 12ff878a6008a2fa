//! Snapshots and forks, with real boots.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../common/mod.rs"]
mod common;
mod pool;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
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

/// An image with a hook for forks that writes a file.
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
fn sandboxes_begin_with_the_snapshot_of_a_running_one() {
    let Some(guest) = guest() else {
        return;
    };
    let blockbox = &guest.blockbox;
    guest.detached(&["--name", "source", "--env", "A=b"], &["sleep", "1000"]);
    guest.sh("source", "echo first > /file");
    blockbox.ok(["snapshot", "create", "source", "-n", "one"]);
    // The source continues, and the snapshot does not change.
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
    // Each is a separate machine.
    let others: Vec<_> = two.lines().collect();
    assert_ne!(lines[2], others[2]);
    assert_ne!(lines[3], others[3]);
    assert_eq!(lines[3].len(), 32);
    assert_eq!(guest.sandboxes(), 1);

    // The image is kept as long as the snapshot.
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
fn forks_diverge_and_a_restored_sandbox_loses_later_changes() {
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

    // A stopped sandbox is forked without a boot, any number of times.
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
        // The host's file system rounds up each range of data.
        assert!(blocks[0] <= blocks[1] + blocks[1] / 4, "{blocks:?}");
    }
    blockbox.ok(["snapshot", "restore", "source", "s"]);
    let output = blockbox.output(["start", "source", "--", "cat", "/file"]);
    // Unsynced data may be missing after a power cut, and no later data is there.
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

    // Damaged archives are rejected, wherever they differ, and leave nothing behind.
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

    // A disk that changed after the snapshot was made is detected.
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

/// A script that succeeds if the gateway answers over IPv4 and IPv6 with what it knows of the
/// guest.
const PING: &str = "/bin/busybox ping -c 1 -W 60 10.187.1.1 >/dev/null && \
                    /bin/busybox ping -6 -c 1 -W 60 fd62:6c6f:636b:6278::1 >/dev/null";

/// A script whose output stays the same until a machine boots again.
const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id";

impl Guest {
    /// A sandbox whose memory can be copied, with a command that counts in memory.
    fn forkable(&self, name: &str, options: &[&str]) {
        let script = "i=0; while true; do i=$((i+1)); echo $i > /run/count; sleep 0.2; done";
        let own = ["--forkable", "--memory", "192M", "--name", name];
        self.detached(&[&own, options].concat(), &["sh", "-c", script]);
        self.counts(name);
    }

    /// Starts programs in the sandbox that only read from a connection to a listener on the
    /// host's loopback, and when that ends creates `/run/ended0` or `/run/ended1`.
    fn idle_readers(&self, name: &str, listeners: &[TcpListener; 2]) -> [TcpStream; 2] {
        let addresses = ["10.187.1.254", "fd62:6c6f:636b:6278::fe"];
        for (index, listener) in listeners.iter().enumerate() {
            let (to, port) = (addresses[index], listener.local_addr().unwrap().port());
            let script = format!(
                "/bin/busybox mkfifo /run/fifo{index}
                 /bin/busybox nc {to} {port} <> /run/fifo{index}; echo > /run/ended{index}"
            );
            let output = self.exec(&["-d", name, "sh", "-c", &script]);
            assert!(output.status.success(), "{output:?}");
        }
        listeners
            .each_ref()
            .map(|listener| listener.accept().unwrap().0)
    }

    /// Waits until the command of a sandbox has counted further.
    fn counts(&self, name: &str) -> u64 {
        let count = || {
            let text = self.sh(name, "cat /run/count 2>/dev/null; true");
            text.trim().parse::<u64>().unwrap_or(0)
        };
        let first = count();
        common::guest::until("counting", || Some(count()).filter(|now| *now > first))
    }

    /// The properties that are unique to a machine, one per line.
    fn identity(&self, name: &str) -> Vec<String> {
        let script = "hostname; cat /etc/hostname /etc/machine-id /proc/sys/kernel/random/uuid \
                      /sys/class/net/eth0/address; /bin/busybox ip addr | /bin/busybox grep -o 'fe80[^ ]*'; \
                      cat /forks 2> /dev/null || echo never forked";
        let lines = self.sh(name, script);
        lines.lines().map(str::to_owned).collect()
    }

    /// Checks that the card's address is the one that the host knows, and that the gateway knows
    /// it too.
    fn has_its_own_link(&self, name: &str) {
        let address = self.sh(name, "cat /sys/class/net/eth0/address");
        let format = "{{.network.mac_address}}";
        let recorded = self.blockbox.ok(["inspect", "--format", format, name]);
        assert_eq!(address, recorded);
        self.sh(name, PING);
    }
}

#[test]
fn copies_of_a_running_machine_continue_each_with_its_own_identity() {
    let Some(guest) = guest() else {
        return;
    };
    let blockbox = &guest.blockbox;
    let listeners = ["127.0.0.1:0", "[::1]:0"].map(|at| TcpListener::bind(at).unwrap());
    let ports = listeners
        .each_ref()
        .map(|listener| listener.local_addr().unwrap().port().to_string());
    guest.forkable(
        "source",
        &["--host-port", &ports[0], "--host-port", &ports[1]],
    );
    let mut connections = guest.idle_readers("source", &listeners);
    guest.sh("source", "echo source > /file; echo memory > /run/file");
    // Generated when it is first read.
    let boot = guest.sh("source", BOOT_ID);
    blockbox.ok(["snapshot", "create", "--memory", "source", "-n", "warm"]);
    blockbox.ok(["snapshot", "verify", "warm"]);
    let folder = blockbox.home().join("snapshots/warm");
    is_clean(&folder.join("upper.ext4"));
    assert!(blockbox.ok(["snapshot", "ls"]).contains("disk, memory"));
    let counted = guest.counts("source");

    let forks = blockbox.ok(["fork", "--memory", "source", "--count", "2"]);
    let mut names: Vec<_> = forks.lines().map(str::to_owned).collect();
    // Without a command of its own, a sandbox continues with the source's.
    blockbox.ok(["run", "-d", "--snapshot", "warm", "--name", "third"]);
    names.push("third".to_owned());
    let mut identities = vec![guest.identity("source")];
    for name in &names {
        // The same boot, memory and command.
        assert_eq!(guest.sh(name, BOOT_ID), boot, "{name}");
        assert_eq!(guest.sh(name, "cat /file /run/file"), "source\nmemory\n");
        guest.counts(name);
        let identity = guest.identity(name);
        assert_eq!(identity[0], *name);
        assert_eq!(identity[6..], ["forked"], "{identity:?}");
        identities.push(identity);
        guest.has_its_own_link(name);
        // Programs that wait for the source's connections continue too.
        common::guest::until("an end of the source's connections", || {
            let ended = guest.exec(&[name, "cat", "/run/ended0", "/run/ended1"]);
            ended.status.success().then_some(())
        });
        guest.sh(name, "hostname > /file; hostname > /run/file");
    }
    for item in 0..identities[0].len() - 1 {
        let mut values: Vec<_> = identities.iter().map(|one| &one[item]).collect();
        values.sort();
        values.dedup();
        assert_eq!(values.len(), 4, "{identities:?}");
    }
    for name in &names {
        let own = format!("{name}\n{name}\n");
        assert_eq!(guest.sh(name, "cat /file /run/file"), own);
    }
    assert_eq!(
        guest.sh("source", "cat /file /run/file"),
        "source\nmemory\n"
    );
    assert!(guest.counts("source") > counted);
    for connection in &mut connections {
        connection.write_all(b"x").unwrap();
    }
    assert!(
        !guest
            .exec(&["source", "cat", "/run/ended0"])
            .status
            .success()
    );
    assert!(
        !guest
            .exec(&["source", "cat", "/run/ended1"])
            .status
            .success()
    );

    // With a command, its own runs beside the source's.
    let run = ["run", "--rm", "--snapshot", "warm", "--", "sh", "-c"];
    let own = blockbox.ok([
        &run[..],
        &["cat /run/file; cat /proc/sys/kernel/random/boot_id"],
    ]
    .concat());
    assert_eq!(own, format!("memory\n{boot}"));

    // A machine that does not match the memory boots, with a warning.
    let other = ["run", "--rm", "--cpus", "1", "--snapshot", "warm", "--"];
    let output = blockbox.output(
        [
            &other[..],
            &["sh", "-c", "cat /file; cat /proc/sys/kernel/random/boot_id"],
        ]
        .concat(),
    );
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(
        stderr.contains("other CPUs; it boots from its disk"),
        "{stderr}"
    );
    assert!(
        stdout.starts_with("source\n") && !stdout.ends_with(&boot),
        "{stdout}"
    );

    // Sandboxes need their snapshot only until they are resumed, and boot when they are started
    // again.
    blockbox.ok(["snapshot", "rm", "warm"]);
    blockbox.ok(["stop", "-t", "1", "third"]);
    is_clean(&blockbox.home().join("sandboxes/third/upper.ext4"));
    blockbox.ok(["start", "third"]);
    assert_ne!(guest.sh("third", BOOT_ID), boot);
    assert_eq!(guest.sh("third", "cat /file"), "third\n");
    // The card has kept its address.
    let address = &identities[3][4];
    assert_eq!(
        guest
            .sh("third", "cat /sys/class/net/eth0/address")
            .trim_end(),
        address
    );
    for name in [&names[..], &["source".to_owned()]].concat() {
        blockbox.ok(["rm", "-f", &name]);
    }
}

#[test]
fn memory_that_cannot_be_saved_is_an_error_with_the_reason() {
    let Some(guest) = guest() else {
        return;
    };
    let blockbox = &guest.blockbox;
    let refused = |words: &[&str], reason: &str| {
        let stderr = blockbox.fails(words);
        assert!(stderr.contains(reason), "{words:?}: {stderr}");
    };
    guest.detached(&["--name", "plain"], &["sleep", "1000"]);
    let memory = ["snapshot", "create", "--memory"];
    refused(&[&memory[..], &["plain"]].concat(), "--forkable");
    refused(&["fork", "--memory", "plain"], "--forkable");
    guest.detached(
        &["--name", "data", "--forkable", "--volume", "data:/data"],
        &["sleep", "1000"],
    );
    refused(&[&memory[..], &["data"]].concat(), "mounted at /data");
    // Only one machine at a time can mount the volume.
    let words = ["fork", "data", "--name", "second"];
    refused(
        &words,
        "fork \"second\" was not started: volume \"data\" is in use",
    );
    refused(
        &["fork", "data", "--count", "2"],
        "volume \"data\" is in use",
    );
    assert_eq!(guest.sandboxes(), 2);
    guest.forkable("source", &[]);
    let fork = blockbox.ok(["fork", "--memory", "source"]);
    refused(&["fork", "--memory", fork.trim()], "is a copy itself");
    blockbox.ok([&memory[..], &["source", "-n", "warm"]].concat());
    blockbox.ok(["stop", "-t", "1", "source"]);
    refused(&["fork", "--memory", "source"], "not running");
    assert_eq!(blockbox.ok(["snapshot", "ls", "-q"]), "warm\n");

    // In another store it begins with its disk.
    let file = blockbox.home().join("warm.tar.zst");
    let file = file.to_str().unwrap();
    let output = blockbox.output(["snapshot", "export", "warm", "-o", file]);
    assert!(text(&output.stderr).contains("without its memory"));
    blockbox.ok(["snapshot", "import", file, "-n", "cold"]);
    let run = [
        "run",
        "--rm",
        "--snapshot",
        "cold",
        "--",
        "sh",
        "-c",
        "cat /forks",
    ];
    assert_eq!(blockbox.ok(run), "forked\n");
    // Damage is detected.
    let path = blockbox.home().join("snapshots/warm/memory");
    let disk = std::fs::File::options().write(true).open(path).unwrap();
    disk.write_all_at(b"damage", 4096).unwrap();
    refused(&["snapshot", "verify", "warm"], "damaged");
    for name in ["plain", "data", fork.trim()] {
        blockbox.ok(["rm", "-f", name]);
    }
}

#[test]
fn a_kill_while_a_machine_is_copied_leaves_complete_snapshots_or_none() {
    let Some(guest) = guest() else {
        return;
    };
    let blockbox = &guest.blockbox;
    let kill = |pid: &Value| {
        let killed = std::process::Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status();
        assert!(killed.unwrap().success());
    };
    guest.forkable("source", &[]);
    for round in 0..6 {
        let name = format!("round-{round}");
        let words = ["snapshot", "create", "--memory", "source", "-n", &name];
        let mut copying = common::guest::start(blockbox, &words);
        std::thread::sleep(std::time::Duration::from_millis(60 * (round / 2)));
        if round % 2 == 0 {
            kill(&json!(copying.id()));
        } else {
            kill(&guest.state("source").unwrap()["monitor_pid"]);
        }
        copying.wait().unwrap();
        let list = blockbox.ok(["snapshot", "ls", "-q"]);
        if list.lines().any(|one| one == name) {
            blockbox.ok(["snapshot", "verify", &name]);
        }
        if round % 2 == 0 {
            // The source is not affected.
            guest.counts("source");
        } else {
            blockbox.ok(["start", "source"]);
        }
    }
    // Only complete snapshots are left after the next access.
    blockbox.ok(["gc"]);
    let left = std::fs::read_dir(blockbox.home().join("snapshots")).unwrap();
    for entry in left {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.starts_with('.'), "{name}");
    }
    blockbox.ok(["rm", "-f", "source"]);
}
