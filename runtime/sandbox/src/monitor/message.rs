//! Questions to a monitor and its answers, as JSON in an [`Envelope`](blockbox_protocol::Envelope).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use blockbox_store::spec::{Signal, Spec};
use blockbox_store::state::{State, Status};

use blockbox_vmm::VmmError;
use blockbox_vmm::guest::WindowSize;
use blockbox_vmm::with_causes;

use crate::error::Error;
use crate::secrets::Value;
use crate::stats::{ProcessInfo, Stats};

/// The version of the conversation. A monitor outlives the program that started it, so clients of
/// other versions come.
pub(crate) const VERSION: u32 = 1;

/// A question to a monitor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub(crate) enum Ask {
    /// Which versions are there? The first question of a client.
    Hello {
        /// The client's [`VERSION`].
        version: u32,
    },
    /// Boot the machine; answered when the guest takes commands. Only the process that started the
    /// monitor asks this.
    Boot {
        /// The specification of this run, where it differs from the sandbox's own.
        spec: Option<Box<Spec>>,
        /// The values of its secrets.
        #[serde(default)]
        secrets: Vec<Value>,
        /// The running machine to go on as, where it can be.
        #[serde(default)]
        resume: Option<Resume>,
    },
    /// Start the main command; answered when it runs. With streams the answer is that of a command.
    Start {
        /// Which streams the client wants, under the question's id.
        attach: Option<Attach>,
    },
    /// Give the client the streams of the main command, under the question's id.
    Attach(Attach),
    /// Answered when the main command has ended and its machine is off.
    Wait,
    /// Stop the sandbox; answered as `Wait` is.
    Stop {
        /// In place of the sandbox's stop signal.
        signal: Option<Signal>,
        /// In place of the sandbox's stop timeout.
        timeout_ms: Option<u64>,
    },
    /// Send a signal to the main command.
    Kill {
        /// Which.
        signal: Signal,
    },
    /// What does the sandbox do?
    State,
    /// What does the guest use?
    Stats,
    /// Which processes are there?
    Processes,
    /// Keep the writable disk from changing until `Release`, or the end of the connection; answered
    /// when it does not change.
    Hold {
        /// Stop the machine where it is, instead of having the guest write everything first.
        crash: bool,
    },
    /// Let the writable disk change again.
    Release,
    /// Copy the machine as it runs: the writable disk, the memory and the state of the machine.
    Save {
        /// The disk.
        from: PathBuf,
        /// The folder for the new files, as [`Saved`](crate::snapshot::Saved) names them.
        to: PathBuf,
    },
    /// What goes on in the network?
    Network,
    /// Give the sandbox another name.
    Rename {
        /// The name.
        name: String,
    },
}

/// The copy of a running machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Resume {
    /// The folder that [`Ask::Save`] filled.
    pub(crate) folder: PathBuf,
    /// Whether the main command of the copied machine is that of the sandbox, which otherwise
    /// starts its own beside it.
    pub(crate) go_on: bool,
}

/// Which streams of the main command a client wants.
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

/// What a monitor answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// The monitor's own [`VERSION`].
    Hello {
        /// The version.
        version: u32,
    },
    /// It is done.
    Done,
    /// The machine is up, but not as it was asked for.
    Booted {
        /// What is different, for a person.
        warning: String,
    },
    /// The sandbox ended.
    Ended(Ended),
    /// The sandbox's state.
    State(State),
    /// What the guest uses.
    Stats(Stats),
    /// The guest goes on. What was copied or read meanwhile is of one moment.
    Held {
        /// How long the guest could not write, in microseconds.
        held_us: u64,
    },
    /// What goes on in the network.
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
    /// The main command's exit code, where it ran: its own, or 128 plus a signal's number.
    pub exit_code: Option<u8>,
    /// What went wrong, for a person.
    pub error: Option<String>,
    /// Whether the sandbox was removed.
    pub removed: bool,
    /// Whether its restart policy starts it again.
    pub restarts: bool,
}

/// Why a monitor did not do what it was asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// What to make of it.
    pub(crate) kind: FailureKind,
    /// The error and its causes, for a person.
    pub(crate) message: String,
}

/// The kinds of failures that clients tell apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FailureKind {
    /// The main command could not be started; docker's exit code for that.
    Spawn(u8),
    /// The main command does not run.
    NotRunning,
    /// The client was stopped, or somebody stopped the sandbox meanwhile.
    Interrupted,
    /// Another sandbox has the name.
    Exists,
    /// QEMU is needed, and this program is not installed.
    NoQemu(String),
    /// libkrun is asked for, and cannot work here, for this reason.
    NoHypervisor(String),
    /// QEMU needs virtiofsd to share folders, and it is not installed.
    NoShareServer,
    /// The question is none that this monitor knows.
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

    /// An error with its causes.
    pub(crate) fn other(error: &(dyn std::error::Error + 'static)) -> Self {
        let kind = match error.downcast_ref() {
            Some(Error::Vmm(VmmError::QemuNotFound { program })) => {
                FailureKind::NoQemu(program.clone())
            }
            Some(Error::Vmm(VmmError::NoHypervisor { reason })) => {
                FailureKind::NoHypervisor(reason.clone())
            }
            Some(Error::Vmm(VmmError::NoShareServer)) => FailureKind::NoShareServer,
            _ => FailureKind::Other,
        };
        Self::new(kind, with_causes(error))
    }
}

/// The answer to a question.
pub(crate) type Outcome = Result<Answer, Failure>;
