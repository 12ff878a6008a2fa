//! Commands that are interrupted before a sandbox is up.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use serde_json::json;

use crate::common::guest::{Guest, signal, start, text, until};

/// Whenever the client ends, only what the options promise is left.
#[test]
fn an_interrupted_run_leaves_what_its_flags_promise() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let blockbox = &guest.blockbox;
    let run = |options: &[&str]| {
        let words = [&["run"], options, &[&guest.image, "--", "sleep", "1000"]].concat();
        start(blockbox, &words)
    };
    // During the boot, at moments spread over its length.
    for (number, wait) in (0..10).zip((0..).step_by(300)) {
        let options: &[&str] = [&["--name", "x"][..], &["--rm", "--name", "x"]][number % 2];
        let mut child = run(options);
        std::thread::sleep(Duration::from_millis(wait));
        if number % 3 == 0 {
            child.kill().unwrap();
        } else {
            signal(&child, "TERM");
        }
        child.wait().unwrap();
        until("the end of the sandbox", || match guest.state("x") {
            None => Some(()),
            Some(state) => {
                // The command got the signal, or continues without its client.
                if !state["started"].is_null() {
                    blockbox.output(["rm", "-f", "x"]);
                }
                None
            }
        });
    }
    assert_eq!(guest.sandboxes(), 0);

    // While the command runs, its client may end: the monitor carries out --rm.
    let mut child = run(&["--rm", "--name", "x"]);
    until("the start", || {
        guest
            .state("x")
            .filter(|state| state["status"] == "running")
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(guest.exec(&["x", "id"]).status.success());
    blockbox.ok(["stop", "-t", "0", "x"]);
    assert_eq!(guest.sandboxes(), 0);

    // The third SIGTERM kills a command that ignores it.
    let script = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
    let words = ["run", "--rm", &guest.image, "--", "sh", "-c", script];
    let mut child = start(blockbox, &words);
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut String::new()).unwrap();
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(200));
        signal(&child, "TERM");
    }
    assert_eq!(child.wait().unwrap().code(), Some(137));

    // A sandbox whose command cannot be started is not kept, in the foreground and in the
    // background.
    for options in [&["--name", "x"][..], &["-d", "--name", "x"]] {
        let words = [&["run"], options, &[&guest.image, "--", "nothing"]].concat();
        assert_eq!(blockbox.output(words).status.code(), Some(127));
        assert_eq!(guest.sandboxes(), 0);
    }
    // An error of usage is 125, and docker's spelling of options is not suggested.
    let output = blockbox.output(["run", "--no-such", &guest.image]);
    assert_eq!(output.status.code(), Some(125));
    assert!(
        !text(&output.stderr).contains("tip"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_signal_for_the_command_that_comes_during_the_boot_is_kept_until_it_runs() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let blockbox = &guest.blockbox;
    let words = [
        "run",
        "--rm",
        "--name",
        "x",
        &guest.image,
        "--",
        "sleep",
        "1000",
    ];
    let mut client = start(blockbox, &words);
    // The sandbox is there before its machine is.
    until("the boot", || guest.state("x"));
    signal(&client, "USR1");
    let status = until("the end", || client.try_wait().unwrap());
    assert_eq!(status.code(), Some(128 + 10));
}

#[test]
fn an_interrupted_pull_leaves_no_file_for_the_id_and_an_empty_one_is_taken_over() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let blockbox = &guest.blockbox;
    let file = blockbox.home().join("id");
    let path = file.to_str().unwrap();
    // A registry that accepts and never answers.
    let registry = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let image = format!("{}/x", registry.local_addr().unwrap());
    let mut client = start(
        blockbox,
        &[
            "run",
            "--cidfile",
            path,
            "--plain-http",
            &image,
            "--",
            "true",
        ],
    );
    let _connection = registry.accept().unwrap();
    signal(&client, "TERM");
    until("the end", || client.try_wait().unwrap());
    assert!(!file.exists());

    std::fs::write(&file, "").unwrap();
    let create = ["create", "--cidfile", path, &guest.image, "--", "true"];
    let id = blockbox.ok(create);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), id.trim_end());
}
