//! Machines in the pool.

use crate::common::guest::{Guest, text};
use crate::{PING, guest};

/// Prints what stays the same until a machine boots again, and what is unique to the machine.
const SHOWN: &str = "cat /proc/sys/kernel/random/boot_id /run/warm /file /forks 2>/dev/null; hostname; \
     cat /sys/class/net/eth0/address";

impl Guest {
    /// Warms up the image with this name. Returns the name of the snapshot.
    fn warm(&self, image: &str) -> String {
        let script = "echo disk > /file; read id < /proc/sys/kernel/random/boot_id; echo $id > /run/warm; \
                      (while true; do echo > /run/alive; sleep 0.2; done) >/dev/null 2>&1 &";
        let words = ["warm", "--memory", "192M", image, "--", "sh", "-c", script];
        self.blockbox.ok(words).trim().to_owned()
    }

    /// Runs a script in a sandbox from the pool. Returns its output lines and blockbox's messages.
    fn run_pooled(&self, memory: &str, image: &str, script: &str) -> (Vec<String>, String) {
        let words = ["run", "--rm", "--from-pool", "--memory", memory, image];
        let output = self
            .blockbox
            .output([&words[..], &["--", "sh", "-c", script]].concat());
        assert!(output.status.success(), "{output:?}");
        let lines = text(&output.stdout);
        (
            lines.lines().map(str::to_owned).collect(),
            text(&output.stderr),
        )
    }
}

#[test]
fn a_run_from_the_pool_starts_its_command_in_a_copy_of_the_warm_machine() {
    let Some(guest) = guest() else {
        return;
    };
    let blockbox = &guest.blockbox;
    let first = guest.warm(&guest.image);
    assert_eq!(blockbox.ok(["ps", "-aq"]), "");
    blockbox.ok(["snapshot", "verify", &first]);
    assert!(blockbox.ok(["snapshot", "ls"]).contains("for the pool"));

    let mut names = Vec::new();
    let mut cards = Vec::new();
    for _ in 0..2 {
        // Memory and disk are there, a process that was left runs, and no machine booted.
        let script = format!(
            "{SHOWN}; {PING} || exit; /bin/busybox rm /run/alive; until [ -e /run/alive ]; do sleep 0.1; done"
        );
        let (lines, stderr) = guest.run_pooled("192M", &guest.image, &script);
        assert_eq!(stderr, "");
        assert_eq!(lines[0], lines[1], "booted");
        assert_eq!(lines[2..4], ["disk", "forked"]);
        names.push(lines[4].clone());
        cards.push(lines[5].clone());
    }
    assert_ne!(names[0], names[1]);
    assert_ne!(cards[0], cards[1]);
    // Its command is the main command.
    let words = ["run", "--name", "seven", "--from-pool", "--memory", "192M"];
    let run = [&words[..], &[&guest.image, "--", "sh", "-c", "exit 7"]].concat();
    assert_eq!(blockbox.output(run).status.code(), Some(7));
    assert_eq!(guest.state("seven").unwrap()["exit_code"], 7);
    blockbox.ok(["rm", "seven"]);

    // A command that fails leaves no machine, and one that succeeds replaces the machine before.
    let words = [
        "warm",
        "--memory",
        "192M",
        &guest.image,
        "--",
        "sh",
        "-c",
        "exit 3",
    ];
    let failed = blockbox.output(words);
    assert_eq!(failed.status.code(), Some(3), "{failed:?}");
    assert_eq!(blockbox.ok(["snapshot", "ls", "-q"]), format!("{first}\n"));
    let second = guest.warm(&guest.image);
    assert_ne!(first, second);
    assert_eq!(blockbox.ok(["snapshot", "ls", "-q"]), format!("{second}\n"));
    assert_eq!(blockbox.ok(["ps", "-aq"]), "");
}

#[test]
fn a_machine_in_the_pool_that_does_not_match_is_not_used_and_is_removed_with_its_image() {
    let Some(guest) = guest() else {
        return;
    };
    let blockbox = &guest.blockbox;
    let boots = |memory: &str, reason: &str| {
        let (lines, stderr) = guest.run_pooled(memory, "moved:1", SHOWN);
        assert!(stderr.contains(reason), "{stderr}");
        // No file of the warm machine, and not a copy.
        assert_eq!(lines.len(), 3, "{lines:?}");
    };
    blockbox.ok(["tag", &guest.image, "moved:1"]);
    let warm = guest.warm("moved:1");
    boots(
        "256M",
        &format!("{warm}, the machine of moved:1 in the pool, has other memory; it boots"),
    );

    // Another image gets the name.
    blockbox.ok(["create", "--name", "other", &guest.image, "--", "true"]);
    blockbox.ok(["cp", "/etc/hostname", "other:/second"]);
    blockbox.ok(["commit", "other", "moved:1"]);
    blockbox.ok(["rm", "other"]);
    boots(
        "192M",
        "moved:1 has changed since it was warmed up; it boots",
    );

    // Options of machines that cannot be copied are rejected before the boot.
    for (option, value, reason) in [
        ("--volume", "data:/data", "cannot share"),
        ("--name", "mine", "--name is for the sandboxes"),
        ("--publish", "8080:80", "--publish is for the sandboxes"),
    ] {
        let stderr = blockbox.fails(["warm", option, value, &guest.image, "--", "true"]);
        assert!(stderr.contains(reason), "{stderr}");
    }
    // The machine does not keep the image in use.
    let removed = blockbox.ok(["rmi", &guest.image]);
    assert!(removed.lines().any(|line| line == warm), "{removed}");
    assert_eq!(blockbox.ok(["snapshot", "ls", "-q"]), "");
    assert_eq!(blockbox.ok(["ps", "-aq"]), "");
}
