//! A guest with a hostile kernel and init: its messages cost the host neither memory nor its
//! commands.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../common/mod.rs"]
mod common;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::guest::{Guest, until};
use serde_json::{Value, json};

/// A timeout that suffices on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// The most memory of a monitor, in KiB.
const MEMORY: u64 = 64 << 10;

/// Programs in place of QEMU.
struct Machines(tempfile::TempDir);

impl Machines {
    fn compile() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hostile/machine.rs");
        let status = Command::new("rustc")
            .args(["--edition", "2024", "-o"])
            .arg(folder.path().join("machine"))
            .arg(source)
            .status();
        assert!(status.unwrap().success());
        Self(folder)
    }

    fn named(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::copy(self.0.path().join("machine"), &path).unwrap();
        path
    }
}

fn run(guest: &Guest, machines: &Machines, name: &str) -> Child {
    guest
        .blockbox
        .command()
        .args([
            "run",
            "--vmm",
            "qemu",
            "--name",
            name,
            &guest.image,
            "--",
            "true",
        ])
        .env("BLOCKBOX_QEMU", machines.named(name))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Returns the most memory that a process has had, in KiB; `None` if it has ended.
fn peak(process: u64) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn a_guest_that_forks_without_end_costs_its_monitor_no_memory_and_is_stopped_or_killed() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let blockbox = &guest.blockbox;
    let bomb = "b() { b | b & }; b; sleep 100000";
    guest.detached(&["--name", "bomb", "--memory", "256M"], &["sh", "-c", bomb]);
    for (words, status) in [
        (&["stop", "-t", "0", "bomb"][..], "exited"),
        (&["kill", "bomb"], "exited"),
        (&["rm", "-f", "bomb"], ""),
    ] {
        let monitor = guest.state("bomb").unwrap()["monitor_pid"]
            .as_u64()
            .unwrap();
        let format = ["stats", "--no-stream", "--format", "{{.Processes}}", "bomb"];
        until("many processes", || {
            let output = blockbox.output(format);
            // A guest may also be too busy to answer.
            let count = String::from_utf8_lossy(&output.stdout)
                .trim()
                .parse::<u64>();
            (!output.status.success() || count.is_ok_and(|count| count > 100)).then_some(())
        });
        let kib = peak(monitor).unwrap();
        assert!(kib < MEMORY, "{words:?}: {kib} KiB");
        let began = Instant::now();
        blockbox.ok(words);
        blockbox.output(["wait", "bomb"]);
        assert!(began.elapsed() < LONG, "{words:?}");
        let format = ["ps", "-a", "--format", "{{.Status}}"];
        assert_eq!(blockbox.ok(format).trim(), status);
        if !status.is_empty() {
            blockbox.ok(["start", "bomb"]);
        }
    }
}

#[test]
fn noise_instead_of_frames_ends_the_sandbox_with_one_error() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let machines = Machines::compile();
    for name in ["noise", "zeros", "ones"] {
        let started = Instant::now();
        let output = run(&guest, &machines, name).wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{stderr}");
        assert!(stderr.contains("violated the protocol"), "{name}: {stderr}");
        assert!(started.elapsed() < LONG, "{name}");
        guest.blockbox.output(["rm", "-f", name]);
    }
    assert_eq!(guest.sandboxes(), 0);
}

#[test]
fn a_guest_that_never_answers_or_floods_its_console_can_be_removed() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let machines = Machines::compile();
    for name in ["silent", "deaf", "console"] {
        let mut child = run(&guest, &machines, name);
        let started = Instant::now();
        let monitor = loop {
            let output = guest.blockbox.output(["inspect", name]);
            let list: Value = serde_json::from_slice(&output.stdout).unwrap();
            let state = &list[0]["state"];
            if let (Some("starting"), Some(pid)) =
                (state["status"].as_str(), state["monitor_pid"].as_u64())
            {
                break pid;
            }
            assert!(started.elapsed() < LONG, "{name} does not start: {list}");
            std::thread::sleep(Duration::from_millis(20));
        };
        // Long enough for a flood to have an effect.
        std::thread::sleep(Duration::from_secs(1));
        if let Some(kib) = peak(monitor) {
            assert!(kib < MEMORY, "{name}: {kib} KiB");
        }
        let removed = Instant::now();
        guest.blockbox.ok(["rm", "-f", name]);
        assert!(removed.elapsed() < LONG, "{name}");
        assert!(!child.wait().unwrap().success(), "{name}");
        assert_eq!(guest.sandboxes(), 0, "{name}");
    }
}
