//! What the host asks.

use crate::boot::{Boot, Identity};
use crate::exec::{ExecSpec, Stream, WindowSize};
use crate::files::FileTask;
use crate::frame::{Frame, Payload, ProtocolError, put_frame};
use crate::wire::Wire;

/// What the host asks. Ids are the host's choice; a command's id is free again after
/// [`Reply::Exited`] or [`Reply::SpawnFailed`], another request's after its answer. A request that
/// init does not know, or cannot read, is answered by [`Reply::Rejected`].
///
/// [`Reply::Exited`]: crate::Reply::Exited
/// [`Reply::SpawnFailed`]: crate::Reply::SpawnFailed
/// [`Reply::Rejected`]: crate::Reply::Rejected
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Set the guest up. The first message, once; answered by [`Reply::Hello`](crate::Reply::Hello)
    /// or [`Reply::Fatal`](crate::Reply::Fatal).
    Boot {
        /// The host's [`PROTOCOL_VERSION`](crate::PROTOCOL_VERSION).
        version: u32,
        /// How.
        boot: Boot,
    },
    /// Run a command.
    Exec {
        /// The command's id from here on.
        id: u32,
        /// The command.
        spec: ExecSpec,
    },
    /// Do something with the container's files: answered, and its streams served, as a command's.
    Files {
        /// The task's id from here on.
        id: u32,
        /// What to do.
        task: FileTask,
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
    /// Nobody reads an output any more: the command gets `SIGPIPE` when it writes, unless it is
    /// detached.
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
    /// Kill the command and all its descendants (`SIGKILL`), whatever sessions they made.
    KillExec {
        /// The command.
        id: u32,
    },
    /// `sync(2)`; answered by [`Reply::Done`](crate::Reply::Done).
    Sync {
        /// Returned in the answer.
        id: u32,
    },
    /// Freeze the writable disk (`FIFREEZE`): until [`Request::Thaw`] its image on the host is
    /// consistent. Answered by [`Reply::Done`](crate::Reply::Done).
    Freeze {
        /// Returned in the answer.
        id: u32,
        /// The disk thaws by itself after this many milliseconds, unless [`Request::KeepFrozen`]
        /// comes before; 0 is never.
        thaw_after_ms: u32,
    },
    /// Start the time of a freeze anew. Answered by [`Reply::Done`](crate::Reply::Done), with
    /// `EINVAL` when nothing is frozen (any more).
    KeepFrozen {
        /// Returned in the answer.
        id: u32,
        /// As in [`Request::Freeze`].
        thaw_after_ms: u32,
    },
    /// End a freeze (`FITHAW`). Answered by [`Reply::Done`](crate::Reply::Done), with `EINVAL` when
    /// nothing is frozen (any more).
    Thaw {
        /// Returned in the answer.
        id: u32,
    },
    /// Give the writable disk's free blocks back to the host (`FITRIM`). Answered by
    /// [`Reply::Done`](crate::Reply::Done).
    Trim {
        /// Returned in the answer.
        id: u32,
    },
    /// Set the guest's clock. Answered by [`Reply::Done`](crate::Reply::Done).
    SetClock {
        /// Returned in the answer.
        id: u32,
        /// The host's time, in nanoseconds since 1970.
        realtime_ns: u64,
        /// Whether the clock jumps there; otherwise a difference of less than a second is slewed.
        step: bool,
    },
    /// What the guest uses; answered by [`Reply::Stats`](crate::Reply::Stats).
    Stats {
        /// Returned in the answer.
        id: u32,
    },
    /// The guest's processes; answered by [`Reply::Processes`](crate::Reply::Processes).
    Processes {
        /// Returned in the answer.
        id: u32,
    },
    /// Become another guest: a clone has this before its first command. Answered by
    /// [`Reply::Done`](crate::Reply::Done) once the hook of the image has ended: with `ETIMEDOUT`
    /// when it took too long, `ECANCELED` when it failed.
    Identity {
        /// Returned in the answer.
        id: u32,
        /// What changes.
        identity: Identity,
    },
    /// Stand still for a copy of the machine: commands are frozen, and init sends nothing after the
    /// answer, [`Reply::Done`](crate::Reply::Done), until the next request. The host sends none
    /// before the copy is made, so a copy finds nothing on its way in either direction.
    Suspend {
        /// Returned in the answer.
        id: u32,
    },
    /// The guest is a copy that was made after [`Request::Suspend`], and this is another host. The
    /// disk thaws, commands other than `command` lose their streams, the guest becomes another one
    /// as with [`Request::Identity`], and then commands go on. Answered as that, with `EINVAL` when
    /// nothing is suspended.
    Adopt {
        /// Returned in the answer.
        id: u32,
        /// The command whose streams the host has from now on, each with its full window; 0 is
        /// none.
        command: u32,
        /// What changes.
        identity: Identity,
    },
    /// End every process, unmount, power off. [`Reply::Bye`](crate::Reply::Bye) is the last the
    /// host hears.
    Shutdown {
        /// How long processes have between being asked to end and `SIGKILL`, in milliseconds.
        grace_ms: u32,
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
const BOOT: u32 = 12;
const KILL_EXEC: u32 = 13;
const KEEP_FROZEN: u32 = 14;
const TRIM: u32 = 15;
const SET_CLOCK: u32 = 16;
const STATS: u32 = 17;
const PROCESSES: u32 = 18;
const IDENTITY: u32 = 19;
const FILES: u32 = 20;
const SUSPEND: u32 = 21;
const ADOPT: u32 = 22;

impl Request {
    /// Appends the request to `out` as one frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Request::Boot { version, boot } => put_frame(out, BOOT, 0, |out| {
                version.put(out);
                boot.put(out);
            }),
            Request::Exec { id, spec } => put_frame(out, EXEC, *id, |out| spec.put(out)),
            Request::Files { id, task } => put_frame(out, FILES, *id, |out| task.put(out)),
            Request::Stdin { id, data } => {
                put_frame(out, STDIN, *id, |out| out.extend_from_slice(data));
            }
            Request::StdinEof { id } => put_frame(out, STDIN_EOF, *id, |_| ()),
            Request::Credit { id, stream, bytes } => put_frame(out, CREDIT, *id, |out| {
                stream.put(out);
                bytes.put(out);
            }),
            Request::CloseOutput { id, stream } => {
                put_frame(out, CLOSE_OUTPUT, *id, |out| stream.put(out));
            }
            Request::Resize { id, size } => put_frame(out, RESIZE, *id, |out| size.put(out)),
            Request::Signal { id, signal } => put_frame(out, SIGNAL, *id, |out| signal.put(out)),
            Request::KillExec { id } => put_frame(out, KILL_EXEC, *id, |_| ()),
            Request::Sync { id } => put_frame(out, SYNC, *id, |_| ()),
            Request::Freeze { id, thaw_after_ms } => {
                put_frame(out, FREEZE, *id, |out| thaw_after_ms.put(out));
            }
            Request::KeepFrozen { id, thaw_after_ms } => {
                put_frame(out, KEEP_FROZEN, *id, |out| thaw_after_ms.put(out));
            }
            Request::Thaw { id } => put_frame(out, THAW, *id, |_| ()),
            Request::Trim { id } => put_frame(out, TRIM, *id, |_| ()),
            Request::SetClock {
                id,
                realtime_ns,
                step,
            } => put_frame(out, SET_CLOCK, *id, |out| {
                realtime_ns.put(out);
                step.put(out);
            }),
            Request::Stats { id } => put_frame(out, STATS, *id, |_| ()),
            Request::Processes { id } => put_frame(out, PROCESSES, *id, |_| ()),
            Request::Identity { id, identity } => {
                put_frame(out, IDENTITY, *id, |out| identity.put(out));
            }
            Request::Suspend { id } => put_frame(out, SUSPEND, *id, |_| ()),
            Request::Adopt {
                id,
                command,
                identity,
            } => put_frame(out, ADOPT, *id, |out| {
                command.put(out);
                identity.put(out);
            }),
            Request::Shutdown { grace_ms } => put_frame(out, SHUTDOWN, 0, |out| grace_ms.put(out)),
        }
    }

    /// Reads a request from a frame.
    ///
    /// # Errors
    ///
    /// When the frame is not a request, or not a whole one.
    pub fn decode(frame: Frame<'_>) -> Result<Self, ProtocolError> {
        let id = frame.id;
        let mut payload = Payload::new(frame);
        let take = &mut payload;
        let request = match frame.kind {
            BOOT => Request::Boot {
                version: Wire::take(take)?,
                boot: Wire::take(take)?,
            },
            EXEC => Request::Exec {
                id,
                spec: Wire::take(take)?,
            },
            FILES => Request::Files {
                id,
                task: Wire::take(take)?,
            },
            STDIN => Request::Stdin {
                id,
                data: payload.rest(),
            },
            STDIN_EOF => Request::StdinEof { id },
            CREDIT => Request::Credit {
                id,
                stream: Wire::take(take)?,
                bytes: Wire::take(take)?,
            },
            CLOSE_OUTPUT => Request::CloseOutput {
                id,
                stream: Wire::take(take)?,
            },
            RESIZE => Request::Resize {
                id,
                size: Wire::take(take)?,
            },
            SIGNAL => Request::Signal {
                id,
                signal: Wire::take(take)?,
            },
            KILL_EXEC => Request::KillExec { id },
            SYNC => Request::Sync { id },
            FREEZE => Request::Freeze {
                id,
                thaw_after_ms: Wire::take(take)?,
            },
            KEEP_FROZEN => Request::KeepFrozen {
                id,
                thaw_after_ms: Wire::take(take)?,
            },
            THAW => Request::Thaw { id },
            TRIM => Request::Trim { id },
            SET_CLOCK => Request::SetClock {
                id,
                realtime_ns: Wire::take(take)?,
                step: Wire::take(take)?,
            },
            STATS => Request::Stats { id },
            PROCESSES => Request::Processes { id },
            IDENTITY => Request::Identity {
                id,
                identity: Wire::take(take)?,
            },
            SUSPEND => Request::Suspend { id },
            ADOPT => Request::Adopt {
                id,
                command: Wire::take(take)?,
                identity: Wire::take(take)?,
            },
            SHUTDOWN => Request::Shutdown {
                grace_ms: Wire::take(take)?,
            },
            kind => return Err(ProtocolError::UnknownKind { kind }),
        };
        payload.finish(request)
    }
}
