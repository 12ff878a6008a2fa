//! Sandboxes whose monitor, machine or host is lost.

use serde_json::json;

use crate::common::guest::{Guest, start, text, until};

/// The monitor is killed; the state found afterwards is correct, and the disk is clean.
#[test]
fn a_killed_monitor_takes_its_machine_along_and_is_noticed() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let blockbox = &guest.blockbox;
    guest.detached(&["--name", "a"], &["sleep", "1000"]);
    for round in 0..3 {
        let path = format!("/round-{round}");
        let script = format!("echo > {path}; /bin/busybox sync");
        assert!(guest.exec(&["a", "sh", "-c", &script]).status.success());
        let monitor = guest.state("a").unwrap()["monitor_pid"].to_string();
        let attached = start(blockbox, &["attach", "a"]);
        kill(&monitor);
        let state = until("the monitor's end", || {
            let state = guest.state("a").unwrap();
            (state["status"] != "running").then_some(state)
        });
        assert_eq!(
            (&state["status"], &state["exit_code"]),
            (&json!("exited"), &json!(137))
        );
        assert!(state["error"].as_str().unwrap().contains("killed"));
        assert_eq!(
            attached.wait_with_output().unwrap().status.code(),
            Some(125)
        );
        assert_eq!(blockbox.ok(["wait", "a"]), "137\n");
        blockbox.ok(["start", "a"]);
        assert!(guest.exec(&["a", "cat", &path]).status.success());
    }
    blockbox.ok(["rm", "-f", "a"]);
    assert_eq!(guest.sandboxes(), 0);
    let left = std::fs::read_dir(blockbox.home().join("locks"))
        .unwrap()
        .count();
    assert_eq!(left, 0, "locks are left");
}

/// Returns the processes that a monitor has started.
fn children(monitor: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{monitor}/task")).unwrap();
    let of_task = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children"));
    let lists: Vec<_> = tasks
        .flatten()
        .filter_map(|task| of_task(task).ok())
        .collect();
    let children = lists.iter().flat_map(|list| list.split_whitespace());
    children.map(str::to_owned).collect()
}

fn kill(process: &str) {
    let status = std::process::Command::new("kill")
        .args(["-9", process])
        .status();
    assert!(status.unwrap().success());
}

/// The machine crashes; then the host: no process is left, and no socket.
#[test]
fn a_crashed_machine_and_a_host_that_went_down_leave_a_sandbox_that_starts_or_is_removed() {
    let Some(mut guest) = Guest::new(json!({})) else {
        return;
    };
    // The folder of sockets, which a host that starts again does not have.
    let run = tempfile::tempdir().unwrap();
    let sockets = run.path().join("run");
    std::fs::create_dir(&sockets).unwrap();
    guest.blockbox.set("XDG_RUNTIME_DIR", &sockets);
    let ok = |args: &[&str]| guest.blockbox.ok(args);
    let ended = |name: &str| {
        until("its end", || {
            let format = "{{.Status}} {{.ExitCode}}";
            let filter = format!("name={name}");
            let listed = ok(&["ps", "-a", "--filter", &filter, "--format", format]);
            let lives = listed.starts_with("running") || listed.starts_with("stopping");
            (!lives).then_some(listed)
        })
    };
    ok(&[
        "run",
        "-d",
        "--name",
        "a",
        &guest.image,
        "--",
        "sleep",
        "1000",
    ]);
    ok(&[
        "exec",
        "a",
        "sh",
        "-c",
        "echo kept > /file; /bin/busybox sync",
    ]);
    let monitor = guest.state("a").unwrap()["monitor_pid"].to_string();
    let machine = children(&monitor).into_iter().find(|child| {
        let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap();
        // QEMU, or blockbox itself with libkrun.
        ["qemu-system-", "__vm"]
            .iter()
            .any(|name| text(&line).contains(name))
    });
    kill(&machine.unwrap());
    assert_eq!(ended("a"), "failed 137\n");
    assert_eq!(ok(&["ps", "-q"]), "");
    ok(&["start", "a"]);
    assert_eq!(ok(&["exec", "a", "cat", "/file"]), "kept\n");

    let monitor = guest.state("a").unwrap()["monitor_pid"].to_string();
    let mut processes = children(&monitor);
    processes.push(monitor);
    kill(processes.last().unwrap());
    std::fs::remove_dir_all(&sockets).unwrap();
    std::fs::create_dir(&sockets).unwrap();
    assert_eq!(ended("a"), "exited 137\n");
    until("the end of all processes", || {
        let alive = |process: &String| {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
            // If orphans are not reaped here, they stay zombies.
            stat.is_ok_and(|stat| !stat.contains(") Z "))
        };
        (!processes.iter().any(alive)).then_some(())
    });
    ok(&["start", "a"]);
    assert_eq!(ok(&["exec", "a", "cat", "/file"]), "kept\n");
    let monitor = guest.state("a").unwrap()["monitor_pid"].to_string();
    kill(&monitor);
    std::fs::remove_dir_all(&sockets).unwrap();
    std::fs::create_dir(&sockets).unwrap();
    ok(&["rm", "-f", "a"]);
    assert_eq!(ok(&["ps", "-aq"]), "");
}
