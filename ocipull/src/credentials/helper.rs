//! Credential helpers: programs called `docker-credential-NAME` that keep secrets elsewhere.
//!
//! The protocol is that of docker-credential-helpers: the verb is the argument, the server's name
//! comes on standard input, and the answer is JSON on standard output.

use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;

use super::login::Login;
use crate::{Event, Events, Secret};

/// How a helper is watched.
#[derive(Clone, Copy)]
struct Watch {
    /// After this time the wait is reported.
    report: Duration,
    /// After this time the helper is ended.
    limit: Duration,
    group: Group,
}

/// The process group of a helper and of the processes that it starts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    /// Its own, so that all of it can be ended.
    #[cfg_attr(not(unix), expect(dead_code, reason = "other systems have no groups"))]
    Own,
    /// That of this process.
    Shared,
}

impl Watch {
    /// The usual times: some helpers ask a person, or a cloud's metadata service.
    fn new() -> Self {
        Self {
            report: Duration::from_secs(2),
            limit: Duration::from_secs(30),
            group: Group::new(),
        }
    }
}

/// The longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// The name that marks the secret as an identity token.
const TOKEN_USERNAME: &str = "<token>";

/// Why a helper returned no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum HelperError {
    #[error("{0:?} is not the name of a credential helper")]
    Name(String),
    #[error("{program} does not start")]
    Start { program: String, source: io::Error },
    #[error("{program} did not answer within {} seconds and was ended", limit.as_secs())]
    Time { program: String, limit: Duration },
    #[error("{program} failed: {message}")]
    Failed { program: String, message: String },
    #[error("{program} returned an invalid response")]
    Answer { program: String },
    #[error("{program} keeps only passwords that are valid UTF-8")]
    NotText { program: String },
}

/// The program of the helper `name`.
pub(super) fn program(name: &str) -> String {
    format!("docker-credential-{name}")
}

/// The credentials that the helper `name` keeps for `server`, if any.
pub(super) fn get(
    name: &str,
    server: &str,
    events: Option<&Events>,
) -> Result<Option<Login>, HelperError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        #[serde(default)]
        username: Option<String>,
        #[serde(default)]
        secret: Option<String>,
    }
    let output = match run(name, "get", server.as_bytes(), events) {
        Ok(output) => output,
        Err(HelperError::Failed { message, .. }) if is_not_found(&message) => return Ok(None),
        Err(error) => return Err(error),
    };
    let answer: Answer = serde_json::from_slice(&output).map_err(|_| HelperError::Answer {
        program: program(name),
    })?;
    let username = answer.username.unwrap_or_default();
    let secret = Secret::new(answer.secret.unwrap_or_default());
    Ok(match username.as_str() {
        "" => None,
        TOKEN_USERNAME => Some(Login::Identity(secret)),
        _ => Some(Login::Basic {
            username: username.into_bytes(),
            password: secret,
        }),
    })
}

/// Stores `username` and `secret` for `server` in the helper `name`.
pub(super) fn store(
    name: &str,
    server: &str,
    username: &str,
    secret: &Secret,
) -> Result<(), HelperError> {
    let not_text = |_| HelperError::NotText {
        program: program(name),
    };
    let secret = std::str::from_utf8(secret.reveal()).map_err(not_text)?;
    let entry = json!({"ServerURL": server, "Username": username, "Secret": secret});
    run(name, "store", entry.to_string().as_bytes(), None).map(drop)
}

/// Erases the credentials for `server` in the helper `name`, and returns whether there were any.
pub(super) fn erase(name: &str, server: &str) -> Result<bool, HelperError> {
    match run(name, "erase", server.as_bytes(), None) {
        Ok(_) => Ok(true),
        Err(HelperError::Failed { message, .. }) if is_not_found(&message) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_not_found(message: &str) -> bool {
    message.contains("credentials not found")
}

/// Runs the helper, and returns its standard output.
fn run(
    name: &str,
    verb: &str,
    input: &[u8],
    events: Option<&Events>,
) -> Result<Vec<u8>, HelperError> {
    // A name with a slash would name a program outside of $PATH.
    if name.is_empty() || name.contains(['/', '\\', '\0']) {
        return Err(HelperError::Name(name.to_owned()));
    }
    run_program(&program(name), verb, input, Watch::new(), events)
}

fn run_program(
    program: &str,
    verb: &str,
    input: &[u8],
    watch: Watch,
    events: Option<&Events>,
) -> Result<Vec<u8>, HelperError> {
    let program = program.to_owned();
    let mut command = Command::new(&program);
    command
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    watch.group.apply(&mut command);
    let mut child = command.spawn().map_err(|source| HelperError::Start {
        program: program.clone(),
        source,
    })?;
    let waiting = || report_wait(&program, watch, events);
    let answered = converse(&mut child, input, watch, &waiting);
    if answered.is_none() {
        watch.group.kill(&mut child);
        let _ = child.wait();
    }
    let (success, output) = answered.ok_or_else(|| HelperError::Time {
        program: program.clone(),
        limit: watch.limit,
    })?;
    if success {
        return Ok(output);
    }
    // By the protocol, both errors and secrets come on standard output.
    let message = String::from_utf8_lossy(&output);
    let message = match message.trim_start().starts_with('{') {
        true => "it printed an answer and failed".to_owned(),
        false => message.split_whitespace().collect::<Vec<_>>().join(" "),
    };
    Err(HelperError::Failed {
        program,
        message: message
            .chars()
            .filter(|c| !c.is_control())
            .take(200)
            .collect(),
    })
}

fn report_wait(program: &str, watch: Watch, events: Option<&Events>) {
    let left = watch.limit.saturating_sub(watch.report);
    match events {
        Some(events) => events.report(&Event::WaitingForHelper { program, left }),
        None => tracing::warn!(program, ?left, "waiting for a credential helper"),
    }
}

impl Group {
    /// Chooses a group.
    fn new() -> Self {
        #[cfg(unix)]
        if !in_foreground() {
            return Self::Own;
        }
        Self::Shared
    }

    /// Has `command` begin in this group.
    fn apply(self, command: &mut Command) {
        #[cfg(unix)]
        if self == Self::Own {
            std::os::unix::process::CommandExt::process_group(command, 0);
        }
        let _ = command;
    }

    /// Ends the helper, and with its own group the processes that it started.
    fn kill(self, child: &mut Child) {
        #[cfg(unix)]
        if self == Self::Own {
            use rustix::process::{Pid, Signal, kill_process_group};
            // The helper was not waited for, so its number is still its own.
            let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        }
        let _ = child.kill();
    }
}

/// Whether this process is in the foreground of a terminal: in another group, a helper could not
/// ask the person there, and Ctrl-C would not end it.
#[cfg(unix)]
fn in_foreground() -> bool {
    let terminal = std::fs::File::open("/dev/tty");
    terminal.is_ok_and(|terminal| {
        rustix::termios::tcgetpgrp(&terminal).is_ok_and(|group| group == rustix::process::getpgrp())
    })
}

/// Returns whether the helper succeeds, and its output; `None` if it takes too long. Calls
/// `waiting` once if it takes long.
fn converse(
    child: &mut Child,
    input: &[u8],
    watch: Watch,
    waiting: &dyn Fn(),
) -> Option<(bool, Vec<u8>)> {
    let begun = Instant::now();
    let (mut stdin, stdout) = (child.stdin.take()?, child.stdout.take()?);
    let input = input.to_vec();
    // A helper that does not read must not block this thread.
    thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut output = Vec::new();
        let _ = stdout.take(MAX_ANSWER).read_to_end(&mut output);
        let _ = sender.send(output);
    });
    let output = match receiver.recv_timeout(watch.report) {
        Err(RecvTimeoutError::Timeout) => {
            waiting();
            let left = watch.limit.saturating_sub(begun.elapsed());
            receiver.recv_timeout(left).ok()?
        }
        received => received.ok()?,
    };
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some((status.success(), output)),
            Ok(None) if begun.elapsed() < watch.limit => thread::sleep(Duration::from_millis(5)),
            _ => return None,
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn names_that_leave_the_path_are_refused() {
        for name in ["", "../x", "/bin/sh", "a\0"] {
            assert!(
                matches!(get(name, "h", None), Err(HelperError::Name(_))),
                "{name:?}"
            );
        }
    }

    #[test]
    fn a_helper_that_is_not_installed_cannot_start() {
        assert!(matches!(
            get("of-this-name-there-is-none", "h", None),
            Err(HelperError::Start { .. })
        ));
    }

    #[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    fn script(folder: &Path, name: &str, text: &str) -> String {
        use std::os::unix::fs::PermissionsExt;

        let path = folder.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[test]
    fn an_answer_of_a_helper_that_fails_is_not_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let text = "echo '{\"Username\": \"me\", \"Secret\": \"s3cr3t\"}'; exit 1";
        let path = script(folder.path(), "docker-credential-leak", text);
        let error = run_program(&path, "get", b"h", Watch::new(), None).unwrap_err();
        assert!(!error.to_string().contains("s3cr3t"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_helper_that_hangs_is_reported_and_ended_with_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        // The lock is held by what the helper started, until that ends.
        let lock = folder.path().join("lock");
        let text = format!(
            "exec 9>'{0}'; flock 9; sleep 600 & echo >'{0}.held'; wait",
            lock.display()
        );
        let path = script(folder.path(), "docker-credential-stuck", &text);
        let held = lock.with_extension("held");
        let reported = Arc::new(Mutex::new(Vec::new()));
        let events = {
            let reported = Arc::clone(&reported);
            Events::new(move |event| {
                if let Event::WaitingForHelper { program, .. } = event {
                    // From here on, its child runs.
                    while !held.exists() {
                        thread::sleep(Duration::from_millis(5));
                    }
                    reported.lock().unwrap().push((*program).to_owned());
                }
            })
        };
        let watch = Watch {
            report: Duration::from_millis(50),
            limit: Duration::from_millis(200),
            group: Group::Own,
        };
        let error = run_program(&path, "get", b"h", watch, Some(&events)).unwrap_err();
        assert!(matches!(error, HelperError::Time { .. }), "{error:?}");
        assert!(error.to_string().contains("docker-credential-stuck"));
        assert_eq!(*reported.lock().unwrap(), [path]);
        let ended = std::fs::File::open(&lock).unwrap();
        for _ in 0..2000 {
            match rustix::fs::flock(&ended, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return,
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
        panic!("what the helper started still runs");
    }
}
