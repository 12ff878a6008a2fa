//! Messages of the guest.

use crate::exec::{ExitStatus, Stream};
use crate::frame::{Frame, Payload, ProtocolError, put_frame};
use crate::stats::{Process, Stats};
use crate::wire::Wire;

/// A message of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Init has set everything up and accepts requests.
    Hello {
        /// [`PROTOCOL_VERSION`](crate::PROTOCOL_VERSION) of the guest.
        version: u32,
        /// The time since the guest's kernel started, in nanoseconds (`CLOCK_BOOTTIME`).
        uptime_ns: u64,
        /// The guest kernel's release (`uname -r`).
        kernel: String,
        /// Warnings about settings that could not be applied, as messages for users.
        warnings: Vec<String>,
    },
    /// Init could not set the guest up, and powers off.
    Fatal {
        /// The error, as a message for users.
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
        /// The exit code of docker for this failure: 127 for not found, 126 for not executable and
        /// other failures.
        code: u8,
        /// The error, as a message for users.
        message: String,
    },
    /// Output of a command, within the host's credit.
    Output {
        /// The command.
        id: u32,
        /// The output.
        stream: Stream,
        /// At most [`CHUNK`](crate::CHUNK) bytes.
        data: Vec<u8>,
    },
    /// A command has read this many bytes of its input (or will never read them).
    StdinCredit {
        /// The command.
        id: u32,
        /// The number of bytes.
        bytes: u32,
    },
    /// A command ended; all output of its process has been sent before.
    Exited {
        /// The command.
        id: u32,
        /// Its exit status.
        status: ExitStatus,
    },
    /// A request was carried out.
    Done {
        /// The request's id.
        id: u32,
        /// 0, or the guest's `errno`.
        errno: u32,
    },
    /// Init does not know a request, or cannot read its payload.
    Rejected {
        /// The request's id.
        id: u32,
        /// The request's kind on the wire.
        kind: u32,
        /// Whether init knows the kind, and only the payload is malformed.
        known: bool,
    },
    /// The guest's resource usage.
    Stats {
        /// The request's id.
        id: u32,
        /// The figures.
        stats: Stats,
    },
    /// The guest's processes.
    Processes {
        /// The request's id.
        id: u32,
        /// By process id, without the kernel's and init. If there are too many, only the first.
        processes: Vec<Process>,
    },
    /// The guest powers off right after this.
    Bye {
        /// 0 if the writable disk was unmounted cleanly, otherwise the `errno` of the failure.
        errno: u32,
    },
}

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
const REJECTED: u32 = 0x10c;
const STATS: u32 = 0x10d;
const PROCESSES: u32 = 0x10e;

/// The protocol's first version, whose `Hello` ends after the kernel's release.
const FIRST_VERSION: u32 = 1;

impl Reply {
    /// Appends the reply to `out` as one frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Hello {
                version,
                uptime_ns,
                kernel,
                warnings,
            } => put_frame(out, HELLO, 0, |out| {
                version.put(out);
                uptime_ns.put(out);
                kernel.put(out);
                if *version > FIRST_VERSION {
                    warnings.put(out);
                }
            }),
            Reply::Fatal { message } => put_frame(out, FATAL, 0, |out| message.put(out)),
            Reply::Started { id, pid } => put_frame(out, STARTED, *id, |out| pid.put(out)),
            Reply::SpawnFailed { id, code, message } => put_frame(out, SPAWN_FAILED, *id, |out| {
                u32::from(*code).put(out);
                message.put(out);
            }),
            Reply::Output { id, stream, data } => encode_output(out, *id, *stream, data),
            Reply::StdinCredit { id, bytes } => {
                put_frame(out, STDIN_CREDIT, *id, |out| bytes.put(out));
            }
            Reply::Exited { id, status } => {
                let (kind, value) = match status {
                    ExitStatus::Code(code) => (EXITED, *code),
                    ExitStatus::Signal(signal) => (KILLED, *signal),
                };
                put_frame(out, kind, *id, |out| u32::from(value).put(out));
            }
            Reply::Done { id, errno } => put_frame(out, DONE, *id, |out| errno.put(out)),
            Reply::Rejected { id, kind, known } => put_frame(out, REJECTED, *id, |out| {
                kind.put(out);
                known.put(out);
            }),
            Reply::Stats { id, stats } => put_frame(out, STATS, *id, |out| stats.put(out)),
            Reply::Processes { id, processes } => {
                put_frame(out, PROCESSES, *id, |out| processes.put(out));
            }
            Reply::Bye { errno } => put_frame(out, BYE, 0, |out| errno.put(out)),
        }
    }

    /// Reads a reply from a frame.
    ///
    /// # Errors
    ///
    /// If the frame is not a complete reply.
    pub fn decode(frame: Frame<'_>) -> Result<Self, ProtocolError> {
        let id = frame.id;
        let mut payload = Payload::new(frame);
        let take = &mut payload;
        let reply = match frame.kind {
            HELLO => {
                let version = Wire::take(take)?;
                Reply::Hello {
                    version,
                    uptime_ns: Wire::take(take)?,
                    kernel: take.text()?,
                    warnings: if version > FIRST_VERSION {
                        Wire::take(take)?
                    } else {
                        Vec::new()
                    },
                }
            }
            FATAL => Reply::Fatal {
                message: take.text()?,
            },
            STARTED => Reply::Started {
                id,
                pid: Wire::take(take)?,
            },
            SPAWN_FAILED => Reply::SpawnFailed {
                id,
                code: take_u8(take)?,
                message: take.text()?,
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
                bytes: Wire::take(take)?,
            },
            EXITED => Reply::Exited {
                id,
                status: ExitStatus::Code(take_u8(take)?),
            },
            KILLED => Reply::Exited {
                id,
                status: ExitStatus::Signal(take_u8(take)?),
            },
            DONE => Reply::Done {
                id,
                errno: Wire::take(take)?,
            },
            REJECTED => Reply::Rejected {
                id,
                kind: Wire::take(take)?,
                known: Wire::take(take)?,
            },
            STATS => Reply::Stats {
                id,
                stats: Wire::take(take)?,
            },
            PROCESSES => Reply::Processes {
                id,
                processes: Wire::take(take)?,
            },
            BYE => Reply::Bye {
                errno: Wire::take(take)?,
            },
            kind => return Err(ProtocolError::UnknownKind { kind }),
        };
        payload.finish(reply)
    }
}

/// Appends stream data in a separate buffer as one [`Reply::Output`], without an intermediate copy.
pub fn encode_output(out: &mut Vec<u8>, id: u32, stream: Stream, data: &[u8]) {
    let kind = match stream {
        Stream::Stdout => STDOUT,
        Stream::Stderr => STDERR,
    };
    put_frame(out, kind, id, |out| out.extend_from_slice(data));
}

fn take_u8(payload: &mut Payload<'_>) -> Result<u8, ProtocolError> {
    u8::try_from(payload.u32()?).map_err(|_| payload.malformed())
}
