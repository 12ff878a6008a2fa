//! Many copies of one machine with its memory, and kills of all processes involved.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use testkit::oracle;

use crate::common::guest::{Guest, LONG, start, text, until};
use crate::{Random, number};

/// Counts in memory.
const COUNT: &str = "i=0; while true; do i=$((i+1)); echo $i > /run/count; sleep 1; done";

/// The properties that are unique to each machine, one per line.
const IDENTITY: &str = "hostname; cat /etc/hostname /etc/machine-id /proc/sys/kernel/random/uuid \
                        /sys/class/net/eth0/address; \
                        grep -c $(hostname) /etc/hosts; grep -c source /etc/hosts; /bin/busybox date +%s";

impl Guest {
    fn shell(&self, name: &str, script: &str) -> String {
        let output = self.exec(&[name, "sh", "-c", script]);
        assert!(output.status.success(), "{name}: {output:?}");
        text(&output.stdout)
    }

    fn counts(&self, name: &str) {
        let count = || self.exec(&[name, "cat", "/run/count"]);
        let first = count().stdout;
        let started = Instant::now();
        loop {
            let now = count();
            if !now.stdout.is_empty() && now.stdout != first {
                return;
            }
            assert!(
                started.elapsed() < LONG,
                "{name} does not count: {now:?}, {:?}",
                self.state(name)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn kill_monitor_of(&self, name: &str) {
        let state = self.state(name);
        if let Some(pid) = state.and_then(|state| state["monitor_pid"].as_u64()) {
            // It may have ended meanwhile.
            let kill = std::process::Command::new("kill")
                .args(["-9", &pid.to_string()])
                .output();
            kill.unwrap();
            // Until then it counts as running.
            until("the end of a monitor", || {
                let state = self.state(name);
                let running = state.is_some_and(|state| state["status"] == "running");
                (!running).then_some(())
            });
        }
    }

    /// Stops a sandbox, if there is one, and checks its disk.
    fn stopped_is_clean(&self, name: &str) {
        if self.state(name).is_none() {
            return;
        }
        self.blockbox.ok(["stop", "-t", "0", name]);
        let disk = self.blockbox.home().join("sandboxes").join(name);
        if let Some(mut e2fsck) = oracle("e2fsck") {
            let output = e2fsck.arg("-fn").arg(disk.join("upper.ext4")).output();
            let output = output.unwrap();
            assert!(output.status.success(), "{name}: {output:?}");
        }
    }

    /// Starts a sandbox whose monitor was killed, and checks that its disk is clean then.
    fn stopped_is_clean_after_a_start(&self, name: &str) {
        self.blockbox.ok(["start", name]);
        self.counts(name);
        self.stopped_is_clean(name);
    }
}

fn source() -> Option<Guest> {
    let guest = Guest::new(json!({}))?;
    let options = ["--forkable", "--memory", "96M", "--cpus", "1"];
    let options = [&options[..], &["--name", "source"]].concat();
    guest.detached(&options, &["sh", "-c", COUNT]);
    guest.counts("source");
    Some(guest)
}

/// Makes `BLOCKBOX_CLONES` copies of one memory.
#[test]
#[ignore = "takes minutes"]
fn clones_of_one_memory_all_run_differ_and_diverge() {
    let Some(guest) = source() else {
        return;
    };
    let blockbox = &guest.blockbox;
    let clones = number("BLOCKBOX_CLONES", 20).to_string();
    guest.shell("source", "echo source > /file; echo source > /run/file");
    let forks = blockbox.ok(["fork", "--memory", "source", "--count", &clones]);
    let names: Vec<_> = forks.lines().collect();
    assert_eq!(names.len().to_string(), clones);
    let mut seen = vec![BTreeSet::new(); 5];
    for name in &names {
        guest.counts(name);
        let identity = guest.shell(name, IDENTITY);
        let lines: Vec<_> = identity.lines().map(str::to_owned).collect();
        assert_eq!((&*lines[0], &*lines[1]), (*name, *name));
        for (seen, value) in seen.iter_mut().zip(&lines) {
            assert!(seen.insert(value.clone()), "{identity}");
        }
        assert_ne!(lines[5], "0", "{name} is not in its /etc/hosts");
        assert_eq!(lines[6], "0", "the source is in /etc/hosts of {name}");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!(now.as_secs().abs_diff(lines[7].parse().unwrap()) <= 5);
        let format = "{{.network.mac_address}}";
        let recorded = blockbox.ok(["inspect", "--format", format, name]);
        assert_eq!(recorded.trim_end(), lines[4]);
        let gateway = ["ping", "-c", "1", "-W", "60", "10.187.1.1"];
        let ping = guest.exec(&[&[name, "/bin/busybox"], &gateway[..]].concat());
        assert!(ping.status.success(), "{name}: {ping:?}");
        let write = "cat /file /run/file; hostname > /file; hostname > /run/file";
        assert_eq!(guest.shell(name, write), "source\nsource\n");
    }
    for name in &names {
        let own = format!("{name}\n{name}\n");
        assert_eq!(guest.shell(name, "cat /file /run/file"), own);
        guest.stopped_is_clean(name);
    }
    let own = guest.shell("source", "cat /file /run/file");
    assert_eq!(own, "source\nsource\n");
    guest.counts("source");
    for name in names {
        blockbox.ok(["rm", name]);
    }
    blockbox.ok(["rm", "-f", "source"]);
}

/// Kills copying programs, the source and copies at `BLOCKBOX_CLONE_KILLS` random moments.
#[test]
#[ignore = "takes minutes"]
fn kills_of_a_source_its_clones_and_who_copies_leave_everything_whole() {
    let Some(guest) = source() else {
        return;
    };
    let blockbox = &guest.blockbox;
    let kills = number("BLOCKBOX_CLONE_KILLS", 40);
    let mut random = Random(54321);
    blockbox.ok(["snapshot", "create", "--memory", "source", "-n", "warm"]);
    let clone = ["run", "-d", "--snapshot", "warm", "--name", "x"];
    for round in 0..kills {
        let words: &[&str] = match round % 4 {
            0 => &["fork", "--memory", "source", "--name", "x"],
            1 => &["snapshot", "create", "--memory", "source", "-n", "new"],
            _ => &clone,
        };
        let mut child = start(blockbox, words);
        match round % 4 {
            1 => {
                std::thread::sleep(Duration::from_millis(random.below(600)));
                guest.kill_monitor_of("source");
                child.wait().unwrap();
                let list = blockbox.ok(["snapshot", "ls", "-q"]);
                if list.lines().any(|name| name == "new") {
                    blockbox.ok(["snapshot", "verify", "new"]);
                    blockbox.ok(["snapshot", "rm", "new"]);
                }
                guest.stopped_is_clean_after_a_start("source");
                blockbox.ok(["start", "source"]);
            }
            3 => {
                assert!(child.wait().unwrap().success());
                std::thread::sleep(Duration::from_millis(random.below(600)));
                guest.kill_monitor_of("x");
                guest.stopped_is_clean_after_a_start("x");
            }
            _ => {
                std::thread::sleep(Duration::from_millis(random.below(1200)));
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
        guest.counts("source");
        blockbox.ok(["snapshot", "verify", "warm"]);
        blockbox.output(["rm", "-f", "x"]);
        assert_eq!(guest.sandboxes(), 1, "after {words:?}");
        if round % 10 == 9 {
            eprintln!("{} of {kills} kills", round + 1);
        }
    }
    blockbox.ok(["rm", "-f", "source"]);
    blockbox.ok(["gc"]);
    for (folder, count) in [("sandboxes", 0), ("snapshots", 1), ("locks", 0)] {
        let left = std::fs::read_dir(blockbox.home().join(folder)).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), count, "{left:?}");
    }
}
