//! What host and guest say to each other.

use crate::frame::{
    Frame, Payload, ProtocolError, put_bytes, put_frame, put_list, put_u32, put_u64,
};

/// A terminal's size in characters (`struct winsize`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

/// One of a command's two outputs. With a terminal everything comes on [`Stream::Stdout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code, 0 to 255.
    Code(u8),
    /// This signal killed it.
    Signal(u8),
}

impl ExitStatus {
    /// The status as a shell and docker report it: the code itself, or 128 plus the signal's number.
    pub fn code(self) -> u8 {
        match self {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal(signal) => signal.saturating_add(128),
        }
    }

    /// Whether the command exited with code 0.
    pub fn success(self) -> bool {
        self == ExitStatus::Code(0)
    }
}

/// A command to run in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecSpec {
    /// The command and its arguments, at least one. A command without a slash is looked up in the `PATH` of `env`.
    pub args: Vec<Vec<u8>>,
    /// The whole environment, `NAME=value` each. Init adds `PATH`, `HOME`, `HOSTNAME` and, with a terminal, `TERM` where
    /// they are missing, as docker does.
    pub env: Vec<Vec<u8>>,
    /// The working directory; created when missing, as docker does for WORKDIR. Empty is `/`.
    pub cwd: Vec<u8>,
    /// An OCI image configuration's `User`: `name|uid[:group|gid]`, resolved in the guest. Empty is root.
    pub user: Vec<u8>,
    /// A terminal of this size for all three streams, or none for three pipes.
    pub tty: Option<WindowSize>,
    /// Whether the host will send input. Without it (and without a terminal) stdin is `/dev/null`.
    pub stdin: bool,
}

impl ExecSpec {
    /// Bytes the command takes in a frame, which [`MAX_PAYLOAD`](crate::frame::MAX_PAYLOAD) limits.
    pub fn encoded_len(&self) -> usize {
        let mut payload = Vec::new();
        put_spec(&mut payload, self);
        payload.len()
    }
}

/// What the host asks. Ids are the host's choice; a command's id is free again after [`Reply::Exited`] or
/// [`Reply::SpawnFailed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Run a command.
    Exec {
        /// The command's id from here on.
        id: u32,
        /// The command.
        spec: ExecSpec,
    },
    /// Bytes for a command's standard input, within its credit.
    Stdin {
        /// The command.
        id: u32,
        /// At most [`CHUNK`](crate::CHUNK) bytes.
        data: Vec<u8>,
    },
    /// A command's standard input ends after what was sent.
    StdinEof {
        /// The command.
        id: u32,
    },
    /// The host's reader took this many bytes of an output.
    Credit {
        /// The command.
        id: u32,
        /// Which output.
        stream: Stream,
        /// How many bytes.
        bytes: u32,
    },
    /// Nobody reads an output any more: the command gets `SIGPIPE` when it writes.
    CloseOutput {
        /// The command.
        id: u32,
        /// Which output.
        stream: Stream,
    },
    /// The terminal's size changed.
    Resize {
        /// The command.
        id: u32,
        /// The new size.
        size: WindowSize,
    },
    /// Send a signal to the command's process.
    Signal {
        /// The command.
        id: u32,
        /// The signal's number on Linux.
        signal: u32,
    },
    /// `sync(2)`; answered by [`Reply::Done`].
    Sync {
        /// Returned in the answer.
        id: u32,
    },
    /// Freeze the writable disk (`FIFREEZE`): until [`Request::Thaw`] its image on the host is consistent.
    Freeze {
        /// Returned in the answer.
        id: u32,
    },
    /// End a freeze (`FITHAW`).
    Thaw {
        /// Returned in the answer.
        id: u32,
    },
    /// End every process, unmount, power off. [`Reply::Bye`] is the last the host hears.
    Shutdown {
        /// How long processes have between `SIGTERM` and `SIGKILL`, in milliseconds.
        grace_ms: u32,
    },
}

/// What the guest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Init has set everything up and takes requests.
    Hello {
        /// [`PROTOCOL_VERSION`](crate::PROTOCOL_VERSION) of the guest.
        version: u32,
        /// Time since the guest's kernel started, in nanoseconds (`CLOCK_BOOTTIME`).
        uptime_ns: u64,
        /// The guest kernel's release (`uname -r`).
        kernel: String,
    },
    /// Init could not set the guest up, and powers off.
    Fatal {
        /// What failed, for a person.
        message: String,
    },
    /// A command runs.
    Started {
        /// The command.
        id: u32,
        /// Its process id in the guest.
        pid: u32,
    },
    /// A command could not be started.
    SpawnFailed {
        /// The command.
        id: u32,
        /// The exit code docker gives this failure: 127 not found, 126 found but not executable or another failure.
        code: u8,
        /// What failed, for a person.
        message: String,
    },
    /// Bytes a command wrote, within the host's credit.
    Output {
        /// The command.
        id: u32,
        /// Which output.
        stream: Stream,
        /// At most [`CHUNK`](crate::CHUNK) bytes.
        data: Vec<u8>,
    },
    /// A command took this many bytes of its input (or will never take them).
    StdinCredit {
        /// The command.
        id: u32,
        /// How many bytes.
        bytes: u32,
    },
    /// A command ended; everything its process wrote has been sent before.
    Exited {
        /// The command.
        id: u32,
        /// How it ended.
        status: ExitStatus,
    },
    /// A sync, freeze or thaw was done.
    Done {
        /// The request's id.
        id: u32,
        /// 0, or the guest's `errno`.
        errno: u32,
    },
    /// The guest powers off right after this.
    Bye {
        /// 0 when the writable disk is unmounted cleanly, otherwise the `errno` that stood in the way.
        errno: u32,
    },
}

const EXEC: u32 = 1;
const STDIN: u32 = 2;
const STDIN_EOF: u32 = 3;
const CREDIT: u32 = 4;
const CLOSE_OUTPUT: u32 = 5;
const RESIZE: u32 = 6;
const SIGNAL: u32 = 7;
const SYNC: u32 = 8;
const FREEZE: u32 = 9;
const THAW: u32 = 10;
const SHUTDOWN: u32 = 11;

const HELLO: u32 = 0x101;
const FATAL: u32 = 0x102;
const STARTED: u32 = 0x103;
const SPAWN_FAILED: u32 = 0x104;
const STDOUT: u32 = 0x105;
const STDERR: u32 = 0x106;
const STDIN_CREDIT: u32 = 0x107;
const EXITED: u32 = 0x108;
const KILLED: u32 = 0x109;
const DONE: u32 = 0x10a;
const BYE: u32 = 0x10b;

impl Request {
    /// Appends the request to `out` as one frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Request::Exec { id, spec } => put_frame(out, EXEC, *id, |out| put_spec(out, spec)),
            Request::Stdin { id, data } => {
                put_frame(out, STDIN, *id, |out| out.extend_from_slice(data));
            }
            Request::StdinEof { id } => put_frame(out, STDIN_EOF, *id, |_| ()),
            Request::Credit { id, stream, bytes } => put_frame(out, CREDIT, *id, |out| {
                put_stream(out, *stream);
                put_u32(out, *bytes);
            }),
            Request::CloseOutput { id, stream } => {
                put_frame(out, CLOSE_OUTPUT, *id, |out| put_stream(out, *stream));
            }
            Request::Resize { id, size } => put_frame(out, RESIZE, *id, |out| put_size(out, *size)),
            Request::Signal { id, signal } => {
                put_frame(out, SIGNAL, *id, |out| put_u32(out, *signal));
            }
            Request::Sync { id } => put_frame(out, SYNC, *id, |_| ()),
            Request::Freeze { id } => put_frame(out, FREEZE, *id, |_| ()),
            Request::Thaw { id } => put_frame(out, THAW, *id, |_| ()),
            Request::Shutdown { grace_ms } => {
                put_frame(out, SHUTDOWN, 0, |out| put_u32(out, *grace_ms));
            }
        }
    }

    /// Reads a request from a frame.
    ///
    /// # Errors
    ///
    /// When the frame is no request, or not a whole one.
    pub fn decode(frame: Frame<'_>) -> Result<Self, ProtocolError> {
        let id = frame.id;
        let mut payload = Payload::new(frame);
        let request = match frame.kind {
            EXEC => Request::Exec {
                id,
                spec: take_spec(&mut payload)?,
            },
            STDIN => Request::Stdin {
                id,
                data: payload.rest(),
            },
            STDIN_EOF => Request::StdinEof { id },
            CREDIT => Request::Credit {
                id,
                stream: take_stream(&mut payload)?,
                bytes: payload.u32()?,
            },
            CLOSE_OUTPUT => Request::CloseOutput {
                id,
                stream: take_stream(&mut payload)?,
            },
            RESIZE => Request::Resize {
                id,
                size: take_size(&mut payload)?,
            },
            SIGNAL => Request::Signal {
                id,
                signal: payload.u32()?,
            },
            SYNC => Request::Sync { id },
            FREEZE => Request::Freeze { id },
            THAW => Request::Thaw { id },
            SHUTDOWN => Request::Shutdown {
                grace_ms: payload.u32()?,
            },
            kind => return Err(ProtocolError::UnknownKind { kind }),
        };
        payload.finish(request)
    }
}

impl Reply {
    /// Appends the reply to `out` as one frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Hello {
                version,
                uptime_ns,
                kernel,
            } => put_frame(out, HELLO, 0, |out| {
                put_u32(out, *version);
                put_u64(out, *uptime_ns);
                put_bytes(out, kernel.as_bytes());
            }),
            Reply::Fatal { message } => {
                put_frame(out, FATAL, 0, |out| put_bytes(out, message.as_bytes()));
            }
            Reply::Started { id, pid } => put_frame(out, STARTED, *id, |out| put_u32(out, *pid)),
            Reply::SpawnFailed { id, code, message } => put_frame(out, SPAWN_FAILED, *id, |out| {
                put_u32(out, u32::from(*code));
                put_bytes(out, message.as_bytes());
            }),
            Reply::Output { id, stream, data } => {
                put_frame(out, output_kind(*stream), *id, |out| {
                    out.extend_from_slice(data)
                });
            }
            Reply::StdinCredit { id, bytes } => {
                put_frame(out, STDIN_CREDIT, *id, |out| put_u32(out, *bytes));
            }
            Reply::Exited { id, status } => {
                let (kind, value) = match status {
                    ExitStatus::Code(code) => (EXITED, *code),
                    ExitStatus::Signal(signal) => (KILLED, *signal),
                };
                put_frame(out, kind, *id, |out| put_u32(out, u32::from(value)));
            }
            Reply::Done { id, errno } => put_frame(out, DONE, *id, |out| put_u32(out, *errno)),
            Reply::Bye { errno } => put_frame(out, BYE, 0, |out| put_u32(out, *errno)),
        }
    }

    /// Reads a reply from a frame.
    ///
    /// # Errors
    ///
    /// When the frame is no reply, or not a whole one.
    pub fn decode(frame: Frame<'_>) -> Result<Self, ProtocolError> {
        let id = frame.id;
        let mut payload = Payload::new(frame);
        let reply = match frame.kind {
            HELLO => Reply::Hello {
                version: payload.u32()?,
                uptime_ns: payload.u64()?,
                kernel: payload.text()?,
            },
            FATAL => Reply::Fatal {
                message: payload.text()?,
            },
            STARTED => Reply::Started {
                id,
                pid: payload.u32()?,
            },
            SPAWN_FAILED => Reply::SpawnFailed {
                id,
                code: take_u8(&mut payload)?,
                message: payload.text()?,
            },
            STDOUT => Reply::Output {
                id,
                stream: Stream::Stdout,
                data: payload.rest(),
            },
            STDERR => Reply::Output {
                id,
                stream: Stream::Stderr,
                data: payload.rest(),
            },
            STDIN_CREDIT => Reply::StdinCredit {
                id,
                bytes: payload.u32()?,
            },
            EXITED => Reply::Exited {
                id,
                status: ExitStatus::Code(take_u8(&mut payload)?),
            },
            KILLED => Reply::Exited {
                id,
                status: ExitStatus::Signal(take_u8(&mut payload)?),
            },
            DONE => Reply::Done {
                id,
                errno: payload.u32()?,
            },
            BYE => Reply::Bye {
                errno: payload.u32()?,
            },
            kind => return Err(ProtocolError::UnknownKind { kind }),
        };
        payload.finish(reply)
    }
}

/// Appends stream data read into a buffer of its own as one [`Reply::Output`], without an owned copy in between.
pub fn encode_output(out: &mut Vec<u8>, id: u32, stream: Stream, data: &[u8]) {
    put_frame(out, output_kind(stream), id, |out| {
        out.extend_from_slice(data)
    });
}

fn output_kind(stream: Stream) -> u32 {
    match stream {
        Stream::Stdout => STDOUT,
        Stream::Stderr => STDERR,
    }
}

fn put_stream(out: &mut Vec<u8>, stream: Stream) {
    put_u32(
        out,
        match stream {
            Stream::Stdout => 1,
            Stream::Stderr => 2,
        },
    );
}

fn take_stream(payload: &mut Payload<'_>) -> Result<Stream, ProtocolError> {
    match payload.u32()? {
        1 => Ok(Stream::Stdout),
        2 => Ok(Stream::Stderr),
        _ => Err(payload.malformed()),
    }
}

fn put_size(out: &mut Vec<u8>, size: WindowSize) {
    put_u32(out, u32::from(size.rows) | u32::from(size.cols) << 16);
}

fn take_size(payload: &mut Payload<'_>) -> Result<WindowSize, ProtocolError> {
    let [r0, r1, c0, c1] = payload.u32()?.to_le_bytes();
    Ok(WindowSize {
        rows: u16::from_le_bytes([r0, r1]),
        cols: u16::from_le_bytes([c0, c1]),
    })
}

fn take_u8(payload: &mut Payload<'_>) -> Result<u8, ProtocolError> {
    u8::try_from(payload.u32()?).map_err(|_| payload.malformed())
}

fn put_spec(out: &mut Vec<u8>, spec: &ExecSpec) {
    put_list(out, &spec.args);
    put_list(out, &spec.env);
    put_bytes(out, &spec.cwd);
    put_bytes(out, &spec.user);
    put_u32(out, u32::from(spec.stdin));
    put_u32(out, u32::from(spec.tty.is_some()));
    put_size(out, spec.tty.unwrap_or(WindowSize { rows: 0, cols: 0 }));
}

fn take_spec(payload: &mut Payload<'_>) -> Result<ExecSpec, ProtocolError> {
    let args = payload.list()?;
    let env = payload.list()?;
    let cwd = payload.bytes()?;
    let user = payload.bytes()?;
    let stdin = payload.u32()? != 0;
    let has_tty = payload.u32()? != 0;
    let size = take_size(payload)?;
    Ok(ExecSpec {
        args,
        env,
        cwd,
        user,
        tty: has_tty.then_some(size),
        stdin,
    })
}
