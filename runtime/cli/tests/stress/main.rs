//! Tests that take minutes: kills at any moment, and many processes at once. `cargo xtask stress`
//! runs them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod clones;
#[path = "../common/mod.rs"]
mod common;
mod forks;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::guest::{Guest, start, until};
use serde_json::{Value, json};
use testkit::oracle;

/// Returns a number from the environment, which `cargo xtask stress` sets.
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |number| number.parse().unwrap())
}

/// Reproducible pseudorandom numbers; any distribution will do.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % bound
    }
}

/// A sandbox that is killed repeatedly.
struct Victim<'a> {
    guest: &'a Guest,
    /// The number of the last file synced to its disk.
    synced: Option<u64>,
}

impl Victim<'_> {
    /// Waits until the sandbox is up and accepts commands, or is down. Returns whether it is up.
    fn settled(&self) -> bool {
        until("a sandbox that is up or at rest", || {
            let Some(state) = self.guest.state("x") else {
                return Some(false);
            };
            match state["status"].as_str().unwrap() {
                "running" => self
                    .guest
                    .exec(&["x", "id"])
                    .status
                    .success()
                    .then_some(true),
                "starting" | "stopping" => None,
                _ => Some(false),
            }
        })
    }

    /// Writes a file that must never be lost.
    fn write(&mut self, number: u64) {
        let script = format!("echo {number} > /synced && /bin/busybox sync && echo written");
        let output = self.guest.exec(&["x", "sh", "-c", &script]);
        if output.stdout == b"written\n" {
            self.synced = Some(number);
        }
    }

    /// Starts the sandbox again, checks what was written, and checks its disk when it is down.
    fn check(&mut self) {
        let blockbox = &self.guest.blockbox;
        if self.guest.state("x").is_none() {
            self.synced = None;
            return;
        }
        if !self.settled() {
            blockbox.ok(["start", "x"]);
            assert!(self.settled(), "a sandbox that was started is not up");
        }
        if let Some(number) = self.synced {
            let output = self.guest.exec(&["x", "cat", "/synced"]);
            let found = String::from_utf8(output.stdout).unwrap();
            // A write whose end was not reported may be there as well.
            let found: u64 = found.trim().parse().unwrap();
            assert!(found >= number, "{found} instead of {number}");
        }
        blockbox.ok(["stop", "-t", "0", "x"]);
        if let Some(mut e2fsck) = oracle("e2fsck") {
            let disk = blockbox.home().join("sandboxes/x/upper.ext4");
            let output = e2fsck.arg("-fn").arg(disk).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
    }

    /// Checks that `ps` and `inspect` agree on the sandbox.
    fn is_listed(&self) {
        // Whether it is up; `None` if it does not exist.
        let inspected = || {
            let status = self.guest.state("x")?["status"].as_str()?.to_owned();
            Some(["starting", "running", "stopping"].contains(&&*status))
        };
        let shown = |options: &[&str]| {
            let words = [&["ps", "--format", "{{.Name}}"], options].concat();
            self.guest.blockbox.ok(words) == "x\n"
        };
        until("a list of a sandbox at rest", || {
            let before = inspected();
            let listed = shown(&["-a"]).then(|| shown(&[]));
            // A stop whose client was killed may end it between the two.
            if before != inspected() {
                return None;
            }
            assert_eq!(listed, before);
            Some(())
        });
    }

    fn kill_monitor(&self) {
        let pid = self
            .guest
            .state("x")
            .and_then(|state| state["monitor_pid"].as_u64());
        if let Some(pid) = pid {
            // It may have ended meanwhile.
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).output();
        }
    }
}

/// Kills clients and monitors at random moments of everything that starts, uses and ends a sandbox:
/// afterwards the list is correct, synced data is kept, the disk is clean after the next start, and
/// nothing is left in the end.
#[test]
#[ignore = "takes minutes"]
fn kills_at_any_moment_leave_a_store_that_works() {
    let Some(mut guest) = Guest::new(json!({})) else {
        return;
    };
    // A folder of its own for sockets.
    let runtime = tempfile::tempdir().unwrap();
    guest.blockbox.set("XDG_RUNTIME_DIR", runtime.path());
    let blockbox = &guest.blockbox;
    let kills = number("BLOCKBOX_KILLS", 200);
    let mut random = Random(12345);
    let mut victim = Victim {
        guest: &guest,
        synced: None,
    };
    let run = [
        "run",
        "-d",
        "--name",
        "x",
        &guest.image,
        "--",
        "sleep",
        "1000",
    ];
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (input, output) = (at("input"), at("output"));
    std::fs::write(&input, vec![7; 4 << 20]).unwrap();
    for number in 0..kills {
        // Seven kinds of commands and a check after ten kills: each meets running and stopped
        // sandboxes.
        let words: &[&str] = match number % 7 {
            0 | 1 => &run,
            2 => &["exec", "x", "sh", "-c", "echo > /file; /bin/busybox sync"],
            3 => match number % 2 {
                0 => &["cp", &input, "x:/copied"],
                _ => &["cp", "x:/bin/busybox", &output],
            },
            4 => &["commit", "x", "derived:1"],
            5 => match number % 2 {
                0 => &["gc"],
                _ => &["stop", "-t", "0", "x"],
            },
            _ => match number % 2 {
                0 => &["start", "x"],
                _ => &["rm", "-f", "x"],
            },
        };
        if victim.settled() {
            victim.write(number);
        }
        let mut child = start(blockbox, words);
        std::thread::sleep(Duration::from_millis(random.below(3000)));
        if random.below(2) == 1 {
            victim.kill_monitor();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        victim.settled();
        victim.is_listed();
        // The next command works in any state, in particular one that reads the disk.
        if number % 5 == 4 && guest.state("x").is_some() {
            blockbox.ok(["diff", "x"]);
        }
        if number % 10 == 9 {
            victim.check();
            // Also the committed images.
            blockbox.ok(["image", "verify"]);
            blockbox.output(["rm", "-f", "x"]);
            assert_eq!(guest.sandboxes(), 0);
            victim.synced = None;
            eprintln!("{} of {kills} kills", number + 1);
        }
    }
    blockbox.output(["rm", "-f", "x"]);
    blockbox.output(["rmi", "derived:1"]);
    // `gc` leaves new sockets, which a monitor that starts may have made.
    let sockets = runtime.path().join("blockbox");
    for name in names(&sockets) {
        let mut touch = Command::new("touch");
        let touched = touch
            .args(["-d", "-1 hour"])
            .arg(sockets.join(name))
            .status();
        assert!(touched.unwrap().success());
    }
    blockbox.ok(["gc"]);
    let counts = [
        ("locks", 0),
        ("sandboxes", 0),
        ("images", 1),
        ("downloads", 0),
        ("snapshots", 0),
        ("volumes", 0),
        // The layer and its record.
        ("layers", 2),
    ];
    for (name, count) in counts {
        let left = names(&blockbox.home().join(name));
        assert_eq!(left.len(), count, "{name}: {left:?}");
    }
    let root = names(blockbox.home());
    assert!(!root.iter().any(|name| name.starts_with('.')), "{root:?}");
    assert_eq!(names(&sockets), [""; 0]);
    until("the end of all processes", || {
        let left = processes_with(blockbox.home());
        left.is_empty().then_some(())
    });
}

/// Returns the names in a folder; none if it does not exist.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Returns the command lines of living processes that name the folder.
fn processes_with(folder: &Path) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    let folder = folder.to_string_lossy();
    lines.filter(|line| line.contains(&*folder)).collect()
}

/// Eight processes that each make, use and remove sandboxes.
#[test]
#[ignore = "takes minutes"]
fn many_processes_create_execute_and_remove_at_once() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let rounds = number("BLOCKBOX_ROUNDS", 100);
    // Every tenth round boots: an emulated processor is too slow for eight guests at once.
    let boots = number("BLOCKBOX_BOOTS", 10).max(1);
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let guest = &guest;
            scope.spawn(move || {
                let name = format!("w{worker}");
                for round in 0..rounds {
                    if round % boots == worker % boots {
                        guest.detached(&["--name", &name], &["sleep", "1000"]);
                        let output = guest.exec(&[&name, "echo", &name]);
                        assert_eq!(output.stdout, format!("{name}\n").as_bytes(), "{output:?}");
                    } else {
                        let words = ["create", "--name", &name, &guest.image, "--", "true"];
                        guest.blockbox.ok(words);
                    }
                    let list = guest.blockbox.ok(["ps", "-a", "--format", "json"]);
                    let list: Value = serde_json::from_str(&list).unwrap();
                    let mine = list.as_array().unwrap().iter();
                    assert_eq!(
                        mine.filter(|sandbox| sandbox["name"] == name.as_str())
                            .count(),
                        1
                    );
                    guest.blockbox.ok(["rm", "-f", &name]);
                }
            });
        }
    });
    assert_eq!(guest.sandboxes(), 0);
    guest.blockbox.ok(["image", "verify", &guest.image]);
    guest.blockbox.ok(["gc"]);
    for name in ["locks", "sandboxes"] {
        let left: Vec<_> = std::fs::read_dir(guest.blockbox.home().join(name))
            .unwrap()
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
