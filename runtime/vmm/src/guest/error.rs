//! Errors of a guest.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use blockbox_protocol::ProtocolError;
use blockbox_protocol::frame::MAX_PAYLOAD;
use thiserror::Error;

/// An error of a guest.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GuestError {
    /// The guest's init never reported.
    #[error("{}", never_reported(*waited, *vm, console))]
    NeverReported {
        /// The time waited.
        waited: Duration,
        /// The exit status of the VM, if it ended.
        vm: Option<ExitStatus>,
        /// The last output of the guest's console.
        console: String,
    },
    /// Init could not set the guest up.
    #[error("the guest could not be set up: {message}")]
    SetupFailed {
        /// The message of init.
        message: String,
    },
    /// The writable disk holds the init of another version of blockbox.
    #[error(
        "the guest's init has protocol version {guest}, and this blockbox {host}: make the sandbox anew"
    )]
    VersionMismatch {
        /// This blockbox's version.
        host: u32,
        /// Init's version.
        guest: u32,
    },
    /// A command could not be started.
    #[error("{message}")]
    SpawnFailed {
        /// The exit code docker gives this failure, 126 or 127.
        code: u8,
        /// The reason.
        message: String,
    },
    /// The VM ended, or closed the channel, while an answer was pending.
    #[error("the virtual machine ended unexpectedly{}", last_words(console))]
    Lost {
        /// The last output of the guest's console.
        console: String,
    },
    /// The sandbox's monitor ended, or closed the connection.
    #[error("the sandbox's monitor ended unexpectedly")]
    MonitorLost,
    /// The guest did not answer in time.
    #[error("the guest did not answer to {request} within {} s", waited.as_secs())]
    NoAnswer {
        /// The request.
        request: &'static str,
        /// The time waited.
        waited: Duration,
    },
    /// The guest's init does not know the request.
    #[error("the guest's init does not know how to {request}")]
    Unknown {
        /// The request.
        request: &'static str,
    },
    /// The guest's answer does not match the request.
    #[error("the guest's answer does not fit the request to {request}")]
    WrongAnswer {
        /// The request.
        request: &'static str,
    },
    /// The boot message is too large.
    #[error("mounts, secrets and other settings take more than {} MiB", MAX_PAYLOAD >> 20)]
    BootTooLarge,
    /// The guest violates the protocol.
    #[error("the guest violated the protocol")]
    Protocol(#[from] ProtocolError),
    /// The guest sent more of a stream than its credit allows.
    #[error("the guest sent more output than it was allowed to")]
    WindowExceeded,
    /// The guest's kernel refused a request.
    #[error("the guest refused to {request}: {}", io::Error::from_raw_os_error(*errno as i32))]
    Refused {
        /// The request.
        request: &'static str,
        /// The guest's `errno`.
        errno: u32,
    },
    /// The writable disk was not unmounted cleanly.
    #[error("the sandbox's disk was not unmounted cleanly: {}", io::Error::from_raw_os_error(*errno as i32))]
    UncleanShutdown {
        /// The guest's `errno`.
        errno: u32,
    },
    /// A system call failed.
    #[error("{what}")]
    Io {
        /// The object of the operation.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl GuestError {
    pub(super) fn io(what: &'static str) -> impl Fn(io::Error) -> GuestError {
        move |source| GuestError::Io { what, source }
    }
}

fn never_reported(waited: Duration, vm: Option<ExitStatus>, console: &str) -> String {
    let how = match vm {
        Some(status) => format!("the virtual machine ended ({status}) before its init reported"),
        None => format!(
            "the guest's init did not report within {} s",
            waited.as_secs()
        ),
    };
    format!("{how}{}", last_words(console))
}

/// Formats the console's last lines for an error message.
fn last_words(console: &str) -> String {
    let lines: Vec<_> = console
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    if lines.is_empty() {
        return String::new();
    }
    let tail = lines
        .get(lines.len().saturating_sub(20)..)
        .unwrap_or_default();
    format!("; its console showed last:\n{}", tail.join("\n"))
}
