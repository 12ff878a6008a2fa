//! Sandboxes on a real terminal, with tmux as the user.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use common::guest::Guest;
use serde_json::json;
use testkit::oracle;

/// A terminal of 80 columns and 24 lines with a shell, on a separate server.
struct Terminal {
    socket: std::path::PathBuf,
}

impl Terminal {
    fn new(guest: &Guest) -> Self {
        let terminal = Self {
            socket: guest.blockbox.home().join("tmux"),
        };
        let home = guest.blockbox.home().display().to_string();
        let program = env!("CARGO_BIN_EXE_blockbox");
        // Both paths may contain blanks.
        let shell =
            format!("export BLOCKBOX_HOME='{home}' B='{program}'; PS1='$ ' exec bash --norc -i");
        terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "80",
            "-y",
            "24",
            &shell,
        ]);
        terminal
    }

    fn tmux(&self, args: &[&str]) -> String {
        let output = Command::new("tmux")
            .arg("-S")
            .arg(&self.socket)
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn line(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
        self.keys(&["Enter"]);
    }

    /// Waits until the screen shows `text`.
    fn shows(&self, text: &str) -> String {
        let started = Instant::now();
        loop {
            let screen = self.tmux(&["capture-pane", "-p"]);
            if screen.contains(text) {
                return screen;
            }
            let waited = started.elapsed();
            assert!(
                waited < Duration::from_secs(90),
                "no {text:?} in:\n{screen}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux")
            .arg("-S")
            .arg(&self.socket)
            .arg("kill-server")
            .output();
    }
}

#[test]
fn a_terminal_is_resized_interrupted_detached_from_and_attached_to_again() {
    if oracle("tmux").is_none() {
        return;
    }
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let terminal = Terminal::new(&guest);
    terminal.line(&format!("\"$B\" run --name box -it {} -- sh", guest.image));
    terminal.shows("/ #");
    terminal.line("/bin/busybox stty size");
    terminal.shows("24 80");

    // A new size is passed on.
    terminal.tmux(&["resize-window", "-x", "100", "-y", "30"]);
    std::thread::sleep(Duration::from_millis(500));
    terminal.line("/bin/busybox stty size");
    terminal.shows("30 100");

    // Ctrl-C is passed to the guest, and ends the foreground command there.
    terminal.line("sleep 1000; echo ended with $?");
    std::thread::sleep(Duration::from_millis(500));
    terminal.keys(&["C-c"]);
    terminal.line("echo still $((40 + 2))");
    terminal.shows("still 42");
    // Ctrl-Z as well: the guest's shell has the job, this terminal's shell has none.
    terminal.line("sleep 1000");
    std::thread::sleep(Duration::from_millis(500));
    terminal.keys(&["C-z"]);
    terminal.shows("Stopped");

    // After detaching, the sandbox continues, and the terminal is restored.
    terminal.keys(&["C-p", "C-q"]);
    terminal.line("clear; echo outside $((1 + 1))");
    terminal.shows("outside 2");
    assert_eq!(guest.blockbox.ok(["ps", "--format", "{{.Name}}"]), "box\n");

    // After attaching again, it is the same shell.
    terminal.line("\"$B\" attach box");
    std::thread::sleep(Duration::from_millis(500));
    terminal.line("jobs; echo inside $((2 + 2))");
    terminal.shows("inside 4");
    terminal.shows("Stopped");
    // A shell with a job refuses to exit.
    terminal.line("kill -9 %1");
    std::thread::sleep(Duration::from_millis(500));
    terminal.line("");
    terminal.shows("Killed");
    terminal.line("/bin/busybox clear; echo no job $((3 + 3))");
    terminal.shows("no job 6");
    terminal.line("exit 5");
    // Input before the client has ended is the client's.
    terminal.shows("\n$");
    terminal.line("code=$?; clear; echo the status is $code");
    terminal.shows("the status is 5");

    // exec has its own terminal.
    guest.blockbox.ok(["start", "box"]);
    terminal.line(
        "clear; \"$B\" exec box sh -c '[ -t 0 ] && echo on a terminal; exit 3'; echo status $?",
    );
    let screen = terminal.shows("status 3");
    assert!(screen.contains("on a terminal"), "{screen}");
    guest.blockbox.ok(["rm", "-f", "box"]);
}
