//! Questions to a monitor and its answers, in JSON in an [`Envelope`](blockbox_protocol::Envelope).

use std::path::PathBuf;

use blockbox_protocol::WindowSize;
use blockbox_store::spec::{Arch, Signal, Spec};
use blockbox_store::state::{State, Status};
use serde::{Deserialize, Serialize};

use crate::secrets::Value;
use crate::stats::{ProcessInfo, Stats};

/// The version of the protocol. A monitor outlives the program that started it, so clients may have
/// other versions.
pub(crate) const VERSION: u32 = 1;

/// A question to a monitor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub(crate) enum Ask {
    /// Asks for the monitor's version. The first question of a client.
    Hello {
        /// The client's [`VERSION`].
        version: u32,
    },
    /// Boots the machine; answered when the guest accepts commands. Only the process that started
    /// the monitor may send this.
    Boot {
        /// The specification of this run, if it differs from the sandbox's own.
        spec: Option<Box<Spec>>,
        /// The values of its secrets.
        #[serde(default)]
        secrets: Vec<Value>,
        /// The copy of a running machine to resume, if possible.
        #[serde(default)]
        resume: Option<Resume>,
    },
    /// Starts the main command; answered when it runs. With streams, the replies are those of a
    /// command.
    Start {
        /// The streams to attach under the question's id.
        attach: Option<Attach>,
    },
    /// Attaches the client to the streams of the main command, under the question's id.
    Attach(Attach),
    /// Waits for the end; answered when the main command has ended and its machine is off.
    Wait,
    /// Stops the sandbox; answered as `Wait` is.
    Stop {
        /// Replaces the sandbox's stop signal.
        signal: Option<Signal>,
        /// Replaces the sandbox's stop timeout.
        timeout_ms: Option<u64>,
    },
    /// Sends a signal to the main command.
    Kill {
        /// The signal.
        signal: Signal,
    },
    /// Asks for the sandbox's state.
    State,
    /// Asks for the guest's resource usage.
    Stats,
    /// Asks for the guest's processes.
    Processes,
    /// Keeps the writable disk from changing until `Release`, or the end of the connection;
    /// answered once the disk is held.
    Hold {
        /// Pauses the machine, instead of having the guest write everything first.
        crash: bool,
    },
    /// Lets the writable disk change again.
    Release,
    /// Copies the running machine: the writable disk, the memory and the state of the devices.
    Save {
        /// The path of the disk.
        from: PathBuf,
        /// The folder for the new files, as [`Saved`](crate::snapshot::Saved) names them.
        to: PathBuf,
    },
    /// Asks for the network activity.
    Network,
    /// Renames the sandbox.
    Rename {
        /// The new name.
        name: String,
    },
}

/// The copy of a running machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Resume {
    /// The folder that [`Ask::Save`] filled.
    pub(crate) folder: PathBuf,
    /// Whether the main command of the copied machine becomes that of the sandbox; otherwise the
    /// sandbox starts its own beside it.
    pub(crate) go_on: bool,
}

/// The streams of the main command that a client attaches to.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Attach {
    /// Whether the client sends input.
    pub(crate) stdin: bool,
    /// Rows and columns of the client's terminal.
    pub(crate) size: Option<(u16, u16)>,
}

impl Attach {
    pub(crate) fn window_size(&self) -> Option<WindowSize> {
        self.size.map(|(rows, cols)| WindowSize { rows, cols })
    }
}

/// An answer of a monitor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// The monitor's own [`VERSION`].
    Hello {
        /// The version.
        version: u32,
    },
    /// The request was carried out.
    Done,
    /// The machine is up, with a warning.
    Booted {
        /// The warning, as a message for users.
        warning: String,
    },
    /// The sandbox has ended.
    Ended(Ended),
    /// The sandbox's state.
    State(State),
    /// The guest's resource usage.
    Stats(Stats),
    /// The hold has ended. What was copied or read meanwhile is consistent.
    Held {
        /// How long the guest could not write, in microseconds.
        held_us: u64,
    },
    /// The network activity.
    Network(Box<blockbox_net::Status>),
    /// The guest's processes.
    Processes {
        /// By process id.
        processes: Vec<ProcessInfo>,
    },
}

/// How a sandbox ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Ended {
    /// [`Status::Exited`] or [`Status::Failed`].
    pub status: Status,
    /// The main command's exit code, if it ran: its own, or 128 plus a signal's number.
    pub exit_code: Option<u8>,
    /// The error, as a message for users.
    pub error: Option<String>,
    /// Whether the sandbox was removed.
    pub removed: bool,
    /// Whether its restart policy restarts it.
    pub restarts: bool,
}

/// Why a request failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// The kind of failure.
    pub(crate) kind: FailureKind,
    /// The error and its causes, as a message for users.
    pub(crate) message: String,
}

/// The kinds of failures that clients distinguish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FailureKind {
    /// The main command could not be started; with docker's exit code.
    Spawn(u8),
    /// The main command is not running.
    NotRunning,
    /// The client was stopped, or the sandbox was stopped meanwhile.
    Interrupted,
    /// Another sandbox has the name.
    Exists,
    /// QEMU is needed, and its program for this architecture is not installed.
    NoQemu(Arch),
    /// libkrun was requested, and cannot work here, for this reason.
    NoHypervisor(String),
    /// QEMU needs virtiofsd to share folders, and it is not installed.
    NoShareServer,
    /// The monitor does not know the question.
    Unknown,
    /// Anything else.
    Other,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

/// The answer to a question.
pub(crate) type Outcome = Result<Answer, Failure>;
