//! Credential helpers: programs called `docker-credential-NAME` that keep secrets elsewhere.
//!
//! The protocol is that of docker-credential-helpers: the verb is the argument, the server's name
//! comes on standard input, and the answer is JSON on standard output.

use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;

use super::login::Login;
use crate::Secret;

/// How long a helper may take: some ask a person, or a cloud's metadata service.
const TIME_LIMIT: Duration = Duration::from_secs(30);

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
    #[error("{program} did not answer within {} seconds", TIME_LIMIT.as_secs())]
    Time { program: String },
    #[error("{program} failed: {message}")]
    Failed { program: String, message: String },
    #[error("{program} returned an invalid response")]
    Answer { program: String },
}

/// The program of the helper `name`.
pub(super) fn program(name: &str) -> String {
    format!("docker-credential-{name}")
}

/// The credentials that the helper `name` keeps for `server`, if any.
pub(super) fn get(name: &str, server: &str) -> Result<Option<Login>, HelperError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        #[serde(default)]
        username: Option<String>,
        #[serde(default)]
        secret: Option<String>,
    }
    let output = match run(name, "get", server.as_bytes(), TIME_LIMIT) {
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
            username,
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
    let secret = secret.reveal();
    let entry = json!({"ServerURL": server, "Username": username, "Secret": secret});
    run(name, "store", entry.to_string().as_bytes(), TIME_LIMIT).map(drop)
}

/// Erases the credentials for `server` in the helper `name`, and returns whether there were any.
pub(super) fn erase(name: &str, server: &str) -> Result<bool, HelperError> {
    match run(name, "erase", server.as_bytes(), TIME_LIMIT) {
        Ok(_) => Ok(true),
        Err(HelperError::Failed { message, .. }) if is_not_found(&message) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_not_found(message: &str) -> bool {
    message.contains("credentials not found")
}

/// Runs the helper, and returns its standard output.
fn run(name: &str, verb: &str, input: &[u8], limit: Duration) -> Result<Vec<u8>, HelperError> {
    // A name with a slash would name a program outside of $PATH.
    if name.is_empty() || name.contains(['/', '\\', '\0']) {
        return Err(HelperError::Name(name.to_owned()));
    }
    run_program(&program(name), verb, input, limit)
}

fn run_program(
    program: &str,
    verb: &str,
    input: &[u8],
    limit: Duration,
) -> Result<Vec<u8>, HelperError> {
    let program = program.to_owned();
    let mut child = Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|source| HelperError::Start {
            program: program.clone(),
            source,
        })?;
    let answered = converse(&mut child, input, limit);
    if answered.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let (success, output) = answered.ok_or_else(|| HelperError::Time {
        program: program.clone(),
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

/// Returns whether the helper succeeds, and its output; `None` if it takes too long.
fn converse(child: &mut Child, input: &[u8], limit: Duration) -> Option<(bool, Vec<u8>)> {
    let deadline = Instant::now() + limit;
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
    let output = receiver.recv_timeout(limit).ok()?;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some((status.success(), output)),
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            _ => return None,
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_path_are_refused() {
        for name in ["", "../x", "/bin/sh", "a\0"] {
            assert!(
                matches!(get(name, "h"), Err(HelperError::Name(_))),
                "{name:?}"
            );
        }
        assert!(matches!(
            get("of-this-name-there-is-none", "h"),
            Err(HelperError::Start { .. })
        ));
    }

    #[test]
    fn an_answer_of_a_helper_that_fails_is_not_repeated() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker-credential-leak");
        let script = "#!/bin/sh\necho '{\"Username\": \"me\", \"Secret\": \"s3cr3t\"}'; exit 1\n";
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let error = run_program(path.to_str().unwrap(), "get", b"h", TIME_LIMIT).unwrap_err();
        assert!(!error.to_string().contains("s3cr3t"), "{error}");
    }
}
