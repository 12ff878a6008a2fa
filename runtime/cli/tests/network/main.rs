//! Sandboxes with a network, under QEMU: real programs in a guest and servers on the loopback and
//! in network namespaces of the tests.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../common/mod.rs"]
mod common;
mod lab;
mod policy;
mod ports;
mod resolver;
mod software;
mod streams;

use std::process::{Command, Output};

use common::guest::{Guest, until};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

/// Starts a sandbox in the background, which sleeps unless a command is given.
fn start(guest: &Guest, name: &str, options: &[&str], command: &[&str]) -> Output {
    start_by(guest.blockbox.command(), guest, name, options, command)
}

fn start_by(
    mut blockbox: Command,
    guest: &Guest,
    name: &str,
    options: &[&str],
    command: &[&str],
) -> Output {
    let command = match command {
        [] => &["sleep", "1000"],
        command => command,
    };
    blockbox
        .args(["run", "-d", "--name", name])
        .args(options)
        .args([&guest.image, "--"])
        .args(command)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Runs a shell script in a running sandbox, which must succeed.
fn sh(guest: &Guest, name: &str, script: &str) -> String {
    guest.blockbox.ok(["exec", name, "--", "sh", "-c", script])
}

fn inspect(guest: &Guest, name: &str) -> Value {
    let list: Value = serde_json::from_str(&guest.blockbox.ok(["inspect", name])).unwrap();
    list[0].clone()
}

/// Returns the output of `net`.
fn net(guest: &Guest, name: &str) -> Value {
    serde_json::from_str(&guest.blockbox.ok(["net", name, "--format", "json"])).unwrap()
}

/// Returns the process of a sandbox's gateway, a child of its monitor.
fn gateway(guest: &Guest, name: &str) -> Option<i32> {
    let monitor = inspect(guest, name)["state"]["monitor_pid"].as_u64()?;
    let tasks = std::fs::read_dir(format!("/proc/{monitor}/task")).ok()?;
    let children = tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .collect::<Vec<_>>()
        .join(" ");
    children
        .split_whitespace()
        .find(|child| {
            let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == b"__net")
        })
        .map(|child| child.parse().unwrap())
}

fn kill(process: i32) {
    let process = Pid::from_raw(process).unwrap();
    rustix::process::kill_process(process, Signal::KILL).unwrap();
}

#[test]
fn a_guest_without_a_network_has_only_a_loopback() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let script = "test -e /sys/class/net/eth0 || wc -l </proc/net/route; grep db /etc/hosts; cat /etc/resolv.conf";
    let options = ["--rm", "--network", "none", "--add-host", "db:192.0.2.7"];
    assert_eq!(
        guest.script(&options, script),
        "1\n192.0.2.7\tdb\n# This sandbox has no network, and so no name server.\n"
    );
}

#[test]
fn a_sandbox_survives_a_killed_gateway_and_has_a_network_after_its_restart() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    text(&start(&guest, "box", &["-p", "0:80"], &[]));
    let killed = gateway(&guest, "box").unwrap();
    let before = net(&guest, "box");
    assert_eq!(before["mode"], "public");
    assert_eq!(before["ports"], inspect(&guest, "box")["state"]["ports"]);
    kill(killed);
    until("the loss is noted", || {
        let state = inspect(&guest, "box")["state"].clone();
        let noted = state["error"].as_str()?.contains("gateway");
        (noted && state["status"] == "running" && state["ports"] == json!([])).then_some(())
    });
    assert_eq!(sh(&guest, "box", "echo here"), "here\n");
    let error = guest.blockbox.fails(["net", "box"]);
    assert!(error.contains("gateway"), "{error}");
    let events = guest
        .blockbox
        .ok(["events", "--since", "1h", "--until", "0s"]);
    assert!(events.contains("network-lost"), "{events}");
    guest.blockbox.ok(["restart", "-t", "0", "box"]);
    assert_eq!(net(&guest, "box")["ports"].as_array().unwrap().len(), 1);
    assert_eq!(inspect(&guest, "box")["state"]["error"], Value::Null);
}

#[test]
fn a_gateway_is_confined_and_ends_with_its_sandbox() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    text(&start(&guest, "box", &[], &[]));
    let process = gateway(&guest, "box").unwrap();
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{status}");
    }
    let state = inspect(&guest, "box")["state"].clone();
    let said = state["gateway_confinement"].as_str().unwrap();
    assert!(said.ends_with("seccomp"), "{said}");
    assert!(guest.blockbox.ok(["doctor"]).contains(said));
    let monitor = state["monitor_pid"].as_i64();
    kill(i32::try_from(monitor.unwrap()).unwrap());
    until("the gateway ends", || {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
        // If orphans are not reaped here, it stays a zombie.
        stat.map_or(Some(()), |stat| stat.contains(") Z ").then_some(()))
    });
}
