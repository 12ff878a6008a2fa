//! Commands, their streams and their exit status.

use crate::frame::{Payload, ProtocolError};
use crate::wire::{Element, Wire, wire};

/// A terminal's size in characters (`struct winsize`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// The number of lines.
    pub rows: u16,
    /// The number of characters in a line.
    pub cols: u16,
}

wire!(WindowSize { rows, cols });

/// One of a command's two outputs. With a terminal all output is on [`Stream::Stdout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

impl Wire for Stream {
    fn put(&self, out: &mut Vec<u8>) {
        let number: u32 = match self {
            Stream::Stdout => 1,
            Stream::Stderr => 2,
        };
        number.put(out);
    }

    fn take(payload: &mut Payload<'_>) -> Result<Self, ProtocolError> {
        match payload.u32()? {
            1 => Ok(Stream::Stdout),
            2 => Ok(Stream::Stderr),
            _ => Err(payload.malformed()),
        }
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code, 0 to 255.
    Code(u8),
    /// It was killed by this signal.
    Signal(u8),
}

impl ExitStatus {
    /// Returns the status as a shell and docker report it: the code itself, or 128 plus the
    /// signal's number.
    pub fn code(self) -> u8 {
        match self {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal(signal) => signal.saturating_add(128),
        }
    }

    /// Returns whether the command exited with code 0.
    pub fn success(self) -> bool {
        self == ExitStatus::Code(0)
    }
}

/// A resource limit (`struct rlimit64`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ulimit {
    /// The resource's number on Linux (`RLIMIT_NOFILE` is 7).
    pub resource: u32,
    /// The soft limit; `u64::MAX` is unlimited.
    pub soft: u64,
    /// The hard limit; `u64::MAX` is unlimited.
    pub hard: u64,
}

wire!(Ulimit {
    resource,
    soft,
    hard,
});
impl Element for Ulimit {}

/// A command to run in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ExecSpec {
    /// The command and its arguments, at least one. A command without a slash is looked up in the
    /// `PATH` of `env`.
    pub args: Vec<Vec<u8>>,
    /// The complete environment, `NAME=value` each. As docker does, init adds `PATH`, `HOME`,
    /// `HOSTNAME` and, with a terminal, `TERM` if they are missing.
    pub env: Vec<Vec<u8>>,
    /// The working directory; created if missing, as docker does for WORKDIR. Empty is `/`.
    pub cwd: Vec<u8>,
    /// An OCI image configuration's `User`: `name|uid[:group|gid]`, resolved in the guest. Empty is
    /// root.
    pub user: Vec<u8>,
    /// Supplementary groups of the user besides its own, names or numbers.
    pub groups: Vec<Vec<u8>>,
    /// The size of a terminal for all three streams; `None` is three pipes.
    pub tty: Option<WindowSize>,
    /// Whether the host will send input. Otherwise (and without a terminal) stdin is `/dev/null`.
    pub stdin: bool,
    /// Whether the command continues when the host closes an output, which is then discarded;
    /// otherwise the command gets `SIGPIPE`.
    pub detach: bool,
    /// Whether the command is process 1 of a PID namespace of its own, with its own cgroup
    /// namespace and `/proc`, as an init requires. Commands that start while it runs join its
    /// namespaces. At most one such command runs at a time.
    pub init: bool,
    /// Whether to keep the command from gaining privileges through set-id bits and file
    /// capabilities (`PR_SET_NO_NEW_PRIVS`).
    pub no_new_privileges: bool,
    /// The signal that asks the command to end when the guest powers off; 0 is `SIGTERM`.
    pub stop_signal: u32,
    /// Its resource limits, which override those of [`Boot`](crate::Boot).
    pub ulimits: Vec<Ulimit>,
}

wire!(ExecSpec {
    args,
    env,
    cwd,
    user,
    groups,
    tty,
    stdin,
    detach,
    init,
    no_new_privileges,
    stop_signal,
    ulimits,
});

impl ExecSpec {
    /// Returns the command `args`, run as root in `/`, without input.
    pub fn new<A: Into<Vec<u8>>>(args: impl IntoIterator<Item = A>) -> Self {
        ExecSpec {
            args: args.into_iter().map(Into::into).collect(),
            ..ExecSpec::default()
        }
    }

    /// Returns the bytes that the command takes in a frame, limited by
    /// [`MAX_PAYLOAD`](crate::frame::MAX_PAYLOAD).
    pub fn encoded_len(&self) -> usize {
        let mut payload = Vec::new();
        self.put(&mut payload);
        payload.len()
    }
}
