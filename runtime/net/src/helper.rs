//! Runs a gateway as a separate process.
//!
//! Its standard input is the control socket, its standard output the link to the guest. The parent
//! creates both sockets, so the process needs no access to folders. The first line on the control
//! socket is the [`Config`] in JSON; the gateway answers with a [`Started`], and from then on with
//! [`crate::Response`]s.

use std::io::{self, BufRead, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::error::Error;
use crate::gateway::{Bound, Gateway};

/// The longest configuration, in bytes.
const LONGEST: u64 = crate::control::LONGEST as u64;
/// The number of descriptors of a gateway at its limits.
const DESCRIPTORS: u64 = 4096;

/// The first message of a gateway's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Started {
    /// It runs.
    Running(Running),
    /// It failed to start.
    Failed {
        /// The error with its causes.
        message: String,
    },
}

/// What a running gateway reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Running {
    /// The ports that it has bound.
    pub bound: Bound,
    /// How it has confined itself, in words.
    pub confinement: String,
}

/// Reads the configuration from standard input, and runs until the guest's machine or the parent
/// has ended.
///
/// `confine` confines the process, and returns what is in force. It is called once everything is
/// open, before the first byte of the guest is read: from
/// then on the gateway only needs sockets. The README lists the system calls.
///
/// # Errors
///
/// As [`Gateway::run`]; an error that keeps the gateway from starting is also sent to the parent.
pub fn run_from_stdio(confine: impl FnOnce() -> io::Result<String>) -> Result<(), Error> {
    raise_limit();
    ignore_signals();
    let control = socket(io::stdin().as_fd().try_clone_to_owned())?;
    let frames = socket(io::stdout().as_fd().try_clone_to_owned())?;
    run(control, frames, confine)
}

/// Ignores signals that service managers send to whole groups: the parent ends the gateway after
/// its guest. SIGKILL still ends it.
fn ignore_signals() {
    let signals: SigSet = [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
    ]
    .into_iter()
    .collect();
    // This cannot fail for valid signals.
    let _ = signals.thread_block();
}

/// Raises the limit of open files as far as the limits on flows need, if the system allows it.
/// Otherwise, connections beyond it are reported as unreachable.
fn raise_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < DESCRIPTORS
    {
        // If the system refuses, the limit stays unchanged.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS.min(hard), hard);
    }
}

fn socket(descriptor: io::Result<OwnedFd>) -> Result<UnixStream, Error> {
    descriptor
        .map(UnixStream::from)
        .map_err(Error::io("cannot use the sockets that the parent gives"))
}

/// As [`run_from_stdio`], with these two sockets.
///
/// # Errors
///
/// As [`run_from_stdio`].
pub fn run(
    mut control: UnixStream,
    frames: UnixStream,
    confine: impl FnOnce() -> io::Result<String>,
) -> Result<(), Error> {
    let started = start(&control, frames, confine);
    let (answer, result) = match started {
        Ok((gateway, running)) => (Started::Running(running), Ok(gateway)),
        Err(error) => {
            let message = with_causes(&error);
            (Started::Failed { message }, Err(error))
        }
    };
    let mut line = serde_json::to_vec(&answer).map_err(Error::Config)?;
    line.push(b'\n');
    // The socket is non-blocking now; a line of this size fits into its buffer.
    control
        .write_all(&line)
        .map_err(Error::io("cannot answer the parent"))?;
    drop(control);
    result?.run()
}

fn start(
    control: &UnixStream,
    frames: UnixStream,
    confine: impl FnOnce() -> io::Result<String>,
) -> Result<(Gateway, Running), Error> {
    let config = read(control)?;
    let ours = control
        .try_clone()
        .map_err(Error::io("cannot use the control socket"))?;
    let (gateway, bound) = Gateway::new(config, frames, ours)?;
    let confinement = confine().map_err(Error::io("cannot confine the gateway"))?;
    Ok((gateway, Running { bound, confinement }))
}

/// Reads one line and no further byte: the rest belongs to the gateway.
fn read(control: &UnixStream) -> Result<Config, Error> {
    let mut line = Vec::new();
    // Byte by byte, because nothing can be put back.
    io::BufReader::with_capacity(1, control)
        .take(LONGEST)
        .read_until(b'\n', &mut line)
        .map_err(Error::io("cannot read the configuration"))?;
    serde_json::from_slice(&line).map_err(Error::Config)
}

fn with_causes(error: &Error) -> String {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    message
}
