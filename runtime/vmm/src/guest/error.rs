//! What can go wrong with a guest.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use blockbox_protocol::ProtocolError;
use blockbox_protocol::frame::MAX_PAYLOAD;
use thiserror::Error;

/// What can go wrong with a guest.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GuestError {
    /// The guest's init never reported.
    #[error("{}", never_reported(*waited, *vm, console))]
    NeverReported {
        /// How long it was waited for.
        waited: Duration,
        /// How the VM ended, if it did.
        vm: Option<ExitStatus>,
        /// What the guest's console showed last.
        console: String,
    },
    /// Init could not set the guest up.
    #[error("the guest could not be set up: {message}")]
    SetupFailed {
        /// What init says.
        message: String,
    },
    /// The writable disk holds the init of another blockbox.
    #[error(
        "the guest's init speaks protocol {guest}, this blockbox {host}; make the sandbox anew"
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
        /// What failed.
        message: String,
    },
    /// The VM ended, or closed the channel, while something was asked of it.
    #[error("the virtual machine ended unexpectedly{}", last_words(console))]
    Lost {
        /// What the guest's console showed last.
        console: String,
    },
    /// The sandbox's monitor ended, or closed the connection.
    #[error("the sandbox's monitor ended unexpectedly")]
    MonitorLost,
    /// The guest did not answer in time.
    #[error("the guest did not answer to {request} within {} s", waited.as_secs())]
    NoAnswer {
        /// What was asked.
        request: &'static str,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The guest's init does not know the request.
    #[error("the guest's init does not know how to {request}")]
    Unknown {
        /// What was asked.
        request: &'static str,
    },
    /// The guest answered something that does not fit the request.
    #[error("the guest's answer does not fit the request to {request}")]
    WrongAnswer {
        /// What was asked.
        request: &'static str,
    },
    /// What the guest is told at its start does not fit in a message.
    #[error("mounts, secrets and other settings take more than {} MiB", MAX_PAYLOAD >> 20)]
    BootTooLarge,
    /// The guest does not keep to the protocol.
    #[error("the guest broke the protocol")]
    Protocol(#[from] ProtocolError),
    /// The guest sent more of a stream than it had credit for.
    #[error("the guest sent more output than it was allowed to")]
    WindowExceeded,
    /// The guest's kernel refused a request.
    #[error("the guest refused to {request}: {}", io::Error::from_raw_os_error(*errno as i32))]
    Refused {
        /// What was asked.
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
    /// The operating system refused something.
    #[error("{what}")]
    Io {
        /// What was being used.
        what: &'static str,
        /// The refusal.
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

/// The console's last lines, as a person wants to see them under an error.
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
