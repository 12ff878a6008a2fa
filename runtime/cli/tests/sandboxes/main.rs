//! Sandboxes in the background: every command that starts, uses and ends one, with real boots.
//!
//! A boot takes seconds, so each test checks many things on one sandbox.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../common/mod.rs"]
mod common;
mod emulated;
mod interrupted;
mod lost;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Child;
use std::time::{Duration, Instant};

use common::guest::{Guest, signal, start, text, until};
use serde_json::{Value, json};

/// Uses one sandbox in the background with many commands.
#[test]
fn a_sandbox_in_the_background_is_used_by_many_clients_and_stopped() {
    let Some(guest) = Guest::new(json!({ "Env": ["FROM=image"], "WorkingDir": "/etc" })) else {
        return;
    };
    let blockbox = &guest.blockbox;
    let script = "trap 'echo bye; exit 7' TERM; echo up; echo err >&2; while :; do sleep 0.1; done";
    let options = ["--name", "web", "--label", "tier=front", "-e", "MINE=1"];
    let id = guest.detached(&options, &["sh", "-c", script]);

    // It is listed, by name and by the beginning of its id.
    assert_eq!(blockbox.ok(["ps", "-q"]).trim_end(), &id[..12]);
    let shown = |filter: &str| blockbox.ok(["ps", "-q", "--filter", filter]);
    assert_ne!(shown("label=tier=front"), "");
    assert_ne!(shown("status=running"), "");
    assert_eq!(shown("label=tier=back"), "");
    assert_eq!(shown("name=db"), "");
    let format = "{{.Name}} {{.Status}} {{.Labels.tier}}";
    let line = blockbox.ok(["ps", "--format", format]);
    assert_eq!(line, "web running front\n");
    let template = ["inspect", "-f", "{{.State.Status}}", &id[..12]];
    assert_eq!(blockbox.ok(template), "running\n");

    // exec: output, exit codes, the main command's environment and folder.
    let output = guest.exec(&[
        "web",
        "sh",
        "-c",
        "echo $FROM $MINE; pwd; echo e >&2; exit 3",
    ]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(text(&output.stdout), "image 1\n/etc\n");
    assert_eq!(text(&output.stderr), "e\n");
    let options = ["-e", "MINE=2", "-w", "/bin", "-u", "app", "web"];
    let output = guest.exec(&[&options[..], &["sh", "-c", "echo $MINE; pwd; id -u"]].concat());
    assert_eq!(text(&output.stdout), "2\n/bin\n1000\n");
    assert_eq!(
        guest.exec(&["web", "no-such-command"]).status.code(),
        Some(127)
    );
    assert_eq!(guest.exec(&["web", "/etc/motd"]).status.code(), Some(126));
    // Only the main command's working directory is created.
    for (path, reason) in [
        ("/none/here", "no such file"),
        ("/etc/motd", "not a directory"),
    ] {
        let refused = guest.exec(&["-w", path, "web", "true"]);
        let stderr = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(126), "{stderr}");
        assert!(stderr.contains(path) && stderr.contains(reason), "{stderr}");
    }
    let absent = guest.exec(&["web", "sh", "-c", "[ ! -e /none ]"]);
    assert!(absent.status.success());
    // A command enters its cgroup without a wait for a grace period of RCU.
    let script = "grep -c 'cgroup2.*favordynmods' /proc/mounts";
    let option = guest.exec(&["web", "sh", "-c", script]);
    assert_eq!(text(&option.stdout), "1\n");
    assert_eq!(guest.exec(&["db", "true"]).status.code(), Some(125));
    assert_eq!(
        guest.exec(&["--no-such-option", "web"]).status.code(),
        Some(125)
    );

    // Input is only passed if requested, and more than any buffer holds comes back.
    let mut child = start(blockbox, &["exec", "-i", "web", "wc", "-c"]);
    let big = vec![b'x'; 3 << 20];
    child.stdin.take().unwrap().write_all(&big).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout).trim(), big.len().to_string());
    let mut child = start(blockbox, &["exec", "web", "wc", "-c"]);
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout).trim(), "0");
    let output = guest.exec(&[
        "web",
        "sh",
        "-c",
        "/bin/busybox yes | /bin/busybox head -c 5000000",
    ]);
    assert_eq!(output.stdout.len(), 5_000_000);

    // Eight commands at once.
    std::thread::scope(|scope| {
        for number in 0..8 {
            let guest = &guest;
            scope.spawn(move || {
                let code = format!("exit {number}");
                let status = guest.exec(&["web", "sh", "-c", &code]).status;
                assert_eq!(status.code(), Some(number));
            });
        }
    });

    // A client that is killed, or that detaches, leaves its command running.
    let mut child = start(
        blockbox,
        &["exec", "web", "sh", "-c", "echo on; sleep 1; echo > /one"],
    );
    let mut line = [0; 3];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut line)
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let status = guest
        .exec(&["-d", "web", "sh", "-c", "sleep 1; echo > /two"])
        .status;
    assert!(status.success());
    until("the commands' end", || {
        let words = ["web", "sh", "-c", "test -e /one && test -e /two"];
        guest.exec(&words).status.success().then_some(())
    });

    // Signals reach the command of an exec.
    let script = "trap 'exit 9' INT; echo ready; while :; do sleep 0.1; done";
    let mut child = start(blockbox, &["exec", "web", "sh", "-c", script]);
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut String::new()).unwrap();
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(9));

    // Statistics, processes, a new name.
    let stats = blockbox.ok(["stats", "--no-stream", "--format", "json", "web"]);
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert!(
        stats[0]["memory_bytes"].as_u64().unwrap() > 1 << 20,
        "{stats}"
    );
    assert!(stats[0]["processes"].as_u64().unwrap() >= 1, "{stats}");
    let mut streaming = start(blockbox, &["stats", "--format", "{{.Name}}", "web"]);
    let rounds = BufReader::new(streaming.stdout.take().unwrap()).lines();
    let rounds: Vec<_> = rounds.take(2).map(Result::unwrap).collect();
    assert_eq!(rounds, ["web", "web"]);
    streaming.kill().unwrap();
    streaming.wait().unwrap();
    assert!(blockbox.ok(["top", "web"]).contains("trap"));
    blockbox.ok(["rename", "web", "site"]);
    assert_eq!(blockbox.ok(["ps", "--format", "{{.Name}}"]), "site\n");
    assert!(blockbox.fails(["exec", "web", "true"]).contains("web"));
    assert!(guest.exec(&["site", "id"]).status.success());

    // A running sandbox cannot be removed or started twice, and its name is taken.
    assert!(blockbox.fails(["rm", "site"]).contains("running"));
    assert_eq!(blockbox.ok(["start", "site"]), "site\n");
    let words = ["create", "--name", "site", &guest.image, "--", "true"];
    assert!(blockbox.fails(words).contains("site"));

    // The log.
    let output = blockbox.output(["logs", "site"]);
    assert_eq!(
        (text(&output.stdout), text(&output.stderr)),
        ("up\n".into(), "err\n".into())
    );
    let stamped = blockbox.ok(["logs", "-t", "site"]);
    assert!(
        stamped.starts_with("20") && stamped.ends_with("Z up\n"),
        "{stamped}"
    );
    let last = blockbox.output(["logs", "--tail", "1", "site"]);
    assert_eq!(
        last.stdout.len() + last.stderr.len(),
        3 + usize::from(last.stdout.is_empty())
    );
    assert_eq!(blockbox.ok(["logs", "--since", "0s", "site"]), "");
    let time = stamped.split(' ').next().unwrap();
    assert_eq!(blockbox.ok(["logs", "--since", time, "site"]), "up\n");
    let year: u32 = time[..4].parse().unwrap();
    let later = format!("{}{}", year + 1, &time[4..]);
    assert_eq!(blockbox.ok(["logs", "--since", &later, "site"]), "");
    assert!(blockbox.ok(["logs", "--boot", "site"]).is_ascii());

    // Commands that wait, or follow the log, see the end.
    let mut waiting = start(blockbox, &["wait", "site"]);
    let following = start(blockbox, &["logs", "-f", "site"]);
    std::thread::sleep(Duration::from_millis(300));
    assert!(waiting.try_wait().unwrap().is_none());
    assert_eq!(blockbox.ok(["stop", "site"]), "site\n");
    assert_eq!(text(&waiting.wait_with_output().unwrap().stdout), "7\n");
    assert_eq!(
        text(&following.wait_with_output().unwrap().stdout),
        "up\nbye\n"
    );
    assert_eq!(blockbox.ok(["wait", "site"]), "7\n");
    assert_eq!(blockbox.ok(["ps", "-q"]), "");
    let state = guest.state("site").unwrap();
    assert_eq!(
        (&state["status"], &state["exit_code"]),
        (&json!("exited"), &json!(7))
    );
    assert_eq!(guest.exec(&["site", "true"]).status.code(), Some(125));

    // It starts with the same options and its files; the log is continued.
    blockbox.ok(["start", "site"]);
    let output = guest.exec(&["site", "sh", "-c", "test -e /one && echo $MINE"]);
    assert_eq!(text(&output.stdout), "1\n");
    assert_eq!(blockbox.ok(["kill", "site"]), "site\n");
    assert_eq!(blockbox.ok(["wait", "site"]), "137\n");
    assert_eq!(blockbox.ok(["logs", "site"]), "up\nbye\nup\n");

    // Several names: existing ones are removed, and the command fails at the end.
    let output = blockbox.output(["rm", "nobody", "site", "nobody-else"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "site\n");
    assert_eq!(text(&output.stderr).matches("no sandbox").count(), 2);
    assert_eq!(guest.sandboxes(), 0);

    let events = blockbox.ok([
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--format",
        "{{.Action}}",
    ]);
    let expected = "create start rename die start die remove";
    assert_eq!(
        events.split_whitespace().collect::<Vec<_>>().join(" "),
        expected
    );
}

/// `attach`, input that stays open, and output without losses.
#[test]
fn clients_share_the_streams_of_the_main_command() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let blockbox = &guest.blockbox;
    let script = "echo first; while read line; do echo \"got $line\"; done; echo end";
    guest.detached(&["-i", "--name", "echo"], &["sh", "-c", script]);
    let mut one = start(blockbox, &["attach", "echo"]);
    let two = start(blockbox, &["attach", "--no-stdin", "echo"]);
    std::thread::sleep(Duration::from_millis(500));
    writeln!(one.stdin.as_mut().unwrap(), "a").unwrap();
    let mut out = BufReader::new(one.stdout.take().unwrap());
    // A client that attaches early also gets the first line.
    let mut line = String::new();
    while line != "got a\n" {
        assert!(matches!(&*line, "" | "first\n"), "{line}");
        line.clear();
        out.read_line(&mut line).unwrap();
    }
    // A client that leaves affects neither the command nor the other client.
    one.kill().unwrap();
    one.wait().unwrap();
    let mut three = start(blockbox, &["attach", "echo"]);
    writeln!(three.stdin.as_mut().unwrap(), "b").unwrap();
    until("the second line", || {
        blockbox
            .ok(["logs", "echo"])
            .contains("got b")
            .then_some(())
    });
    blockbox.ok(["stop", "-t", "0", "echo"]);
    let output = two.wait_with_output().unwrap();
    assert!(output.stdout.ends_with(b"got a\ngot b\n"), "{output:?}");
    // It may have ended by SIGTERM before SIGKILL was sent.
    let code = three.wait().unwrap().code();
    assert!(matches!(code, Some(137 | 143)), "{code:?}");
    assert_eq!(
        blockbox.fails(["attach", "echo"]),
        "blockbox: sandbox \"echo\" is not running: `blockbox start echo` starts it"
    );

    // A command in the foreground, its log and its pipe; the input's end reaches the command.
    let output = guest.run(&["--name", "fg"], &["sh", "-c", "cat; echo done"], "in\n");
    assert_eq!(text(&output.stdout), "in\ndone\n");
    assert_eq!(blockbox.ok(["logs", "fg"]), "in\ndone\n");
    let mut child = start(blockbox, &["start", "fg", "--", "/bin/busybox", "yes"]);
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut String::new()).unwrap();
    drop(out);
    assert_eq!(child.wait().unwrap().code(), Some(128 + 13));
    // `start -a` runs the original command.
    let mut child = start(blockbox, &["start", "-a", "fg"]);
    writeln!(child.stdin.take().unwrap(), "again").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), "again\ndone\n");
}

/// Restart policies and time limits.
#[test]
fn policies_start_a_command_again_and_limits_end_it() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let blockbox = &guest.blockbox;
    let script = "echo run; exit 3";
    guest.detached(
        &["--name", "f", "--restart", "on-failure:1"],
        &["sh", "-c", script],
    );
    until("the second end", || {
        let state = guest.state("f").unwrap();
        (state["status"] == "exited").then_some(())
    });
    assert_eq!(blockbox.ok(["logs", "f"]), "run\nrun\n");
    assert_eq!(guest.state("f").unwrap()["restarts"], 1);

    // If its user stopped it, it stays down.
    guest.detached(&["--name", "k", "--restart", "always"], &["sleep", "1000"]);
    blockbox.ok(["kill", "k"]);
    blockbox.ok(["wait", "k"]);
    assert_eq!(guest.state("k").unwrap()["status"], "exited");

    let output = guest.run(&["--rm", "--timeout", "1"], &["sleep", "1000"], "");
    assert_eq!(output.status.code(), Some(143));
    let words = ["run", "--rm", "--restart", "always", &guest.image];
    assert_eq!(blockbox.output(words).status.code(), Some(125));

    // Limits, and a read-only root.
    let options = ["--rm", "--read-only", "--ulimit", "nofile=77:99"];
    let script = "ulimit -n; ulimit -Hn; echo > /file; echo > /tmp/file && echo written";
    let output = guest.run(&options, &["sh", "-c", script], "");
    assert_eq!(text(&output.stdout), "77\n99\nwritten\n");
    assert!(text(&output.stderr).contains("Read-only"), "{output:?}");

    // The file for the id is new, and is removed if no sandbox was made.
    let file = blockbox.home().join("id");
    let path = file.to_str().unwrap();
    let output = guest.run(
        &["--rm", "--cidfile", path, "--memory", "1M"],
        &["true"],
        "",
    );
    assert_eq!(output.status.code(), Some(125));
    assert!(!file.exists());
    let words = [
        "create",
        "--cidfile",
        path,
        "--name",
        "c",
        &guest.image,
        "--",
        "true",
    ];
    let id = blockbox.ok(words);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), id.trim_end());
    assert_eq!(guest.state("c").unwrap()["status"], "created");
    assert!(blockbox.fails(words).contains("id"));
}

/// Clients that do not read block only their own command: the monitor's memory is bounded, and
/// other clients are served.
#[test]
fn output_that_nobody_reads_takes_no_memory_and_stops_nobody() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let blockbox = &guest.blockbox;
    guest.detached(&["--name", "a"], &["/bin/busybox", "yes"]);
    // Each has a pipe that is full at once, and the last one does not even receive.
    let exec = ["exec", "a", "/bin/busybox", "yes"];
    let mut clients: Vec<Child> = (0..6).map(|_| start(blockbox, &exec)).collect();
    clients.push(start(blockbox, &["attach", "--no-stdin", "a"]));
    std::thread::sleep(Duration::from_secs(2));
    signal(&clients[5], "STOP");
    signal(&clients[6], "STOP");
    std::thread::sleep(Duration::from_secs(2));

    if cfg!(target_os = "linux") {
        let monitor = guest.state("a").unwrap()["monitor_pid"].to_string();
        let status = std::fs::read_to_string(format!("/proc/{monitor}/status")).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS"))
            .unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(kib < 64 << 10, "{line}");
    }
    assert!(guest.exec(&["a", "id"]).status.success());
    let log = blockbox.home().join("sandboxes/a/log");
    assert!(std::fs::metadata(log).unwrap().len() <= 16 << 20);
    let started = Instant::now();
    blockbox.ok(["stop", "-t", "1", "a"]);
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "{:?}",
        started.elapsed()
    );
    for client in &mut clients {
        client.kill().unwrap();
        client.wait().unwrap();
    }
    blockbox.ok(["rm", "a"]);
}

#[test]
fn every_command_works_with_a_read_only_sandbox_without_a_writable_disk() {
    let Some(guest) = Guest::new(json!({"Cmd": ["sleep", "1000"]})) else {
        return;
    };
    let blockbox = &guest.blockbox;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    blockbox.ok(["create", "--read-only", "--name", "ro", &guest.image]);
    blockbox.ok(["create", "--name", "plain", &guest.image]);
    let disk = |name: &str| {
        let folder = blockbox.home().join("sandboxes").join(name);
        folder.join("upper.ext4").exists()
    };
    assert!(!disk("ro") && disk("plain"));
    let host = std::fs::write(at("file"), "from the host\n");
    host.unwrap();
    let (from_host, into) = (at("file"), "ro:/etc/file".to_owned());
    let copes = |state: &str| {
        assert_eq!(blockbox.ok(["diff", "ro"]), "", "{state}");
        blockbox.ok(["cp", "ro:/etc/motd", &at(state)]);
        let copied = std::fs::read_to_string(at(state)).unwrap();
        assert_eq!(copied, "from the image\n", "{state}");
        // The export equals the image.
        let tars = ["ro", "plain"].map(|name| {
            let tar = at(&format!("{name}.tar"));
            blockbox.ok(["export", name, "-o", &tar]);
            std::fs::read(tar).unwrap()
        });
        assert!(tars[0] == tars[1], "{state}");
        blockbox.ok(["commit", "ro", "derived:1"]);
        let history = blockbox.ok(["image", "history", "derived:1", "--format", "json"]);
        let history: Value = serde_json::from_str(&history).unwrap();
        assert_eq!(history.as_array().unwrap().len(), 2, "{state}");
        let refused = blockbox.fails(["snapshot", "create", "ro", "-n", "s"]);
        assert!(
            refused.contains("\"ro\"") && refused.contains("no writable disk"),
            "{state}: {refused}"
        );
        blockbox.fails(["cp", &from_host, &into]);
        assert!(
            blockbox
                .ok(["inspect", "ro"])
                .contains("\"diskless\": true")
        );
        assert!(blockbox.ok(["ps", "-a"]).contains("ro"));
        blockbox.ok(["df"]);
    };
    copes("stopped");
    let refused = blockbox.fails(["cp", &from_host, &into]);
    assert!(refused.contains("no writable disk"), "{refused}");

    blockbox.ok(["start", "ro"]);
    let sh = |script: &str| text(&guest.exec(&["ro", "sh", "-c", script]).stdout);
    // No disk of the machine is writable, and mounts over the image are in memory.
    assert_eq!(sh("cat /sys/block/vd*/ro"), "1\n1\n");
    let root = sh("grep ' / overlay' /proc/mounts");
    assert!(root.contains(" ro,"), "{root}");
    assert_eq!(sh("echo > /x || echo refused"), "refused\n");
    assert_eq!(
        sh("busybox stat -c %a-%u /; cat /etc/motd"),
        "755-0\nfrom the image\n"
    );
    assert_eq!(sh("echo in memory > /tmp/x; cat /tmp/x"), "in memory\n");
    copes("running");
    let name = blockbox.ok(["fork", "ro"]);
    assert!(!disk(name.trim()));
    blockbox.ok(["rm", "-f", name.trim()]);
    blockbox.ok(["stop", "-t", "0", "ro"]);
    copes("again");
    blockbox.ok(["rm", "ro"]);

    // Patches of the image need a disk.
    let options = [
        "--name",
        "patched",
        "--read-only",
        "--patch",
        "write:/etc/motd=patched",
    ];
    let output = guest.run(&options, &["sh", "-c", "cat /etc/motd; echo > /x"], "");
    assert_eq!(text(&output.stdout), "patched");
    assert!(text(&output.stderr).contains("Read-only"), "{output:?}");
    assert!(disk("patched"));
}
