//! Requests of the host.

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
    /// Sends the guest's settings. The first message, sent once; answered by
    /// [`Reply::Hello`](crate::Reply::Hello) or [`Reply::Fatal`](crate::Reply::Fatal).
    Boot {
        /// The host's [`PROTOCOL_VERSION`](crate::PROTOCOL_VERSION).
        version: u32,
        /// The settings.
        boot: Boot,
    },
    /// Runs a command.
    Exec {
        /// The command's id from now on.
        id: u32,
        /// The command.
        spec: ExecSpec,
    },
    /// Runs a task on the container's files: its answer and streams are as for a command.
    Files {
        /// The task's id from now on.
        id: u32,
        /// The task.
        task: FileTask,
    },
    /// Bytes of a command's standard input, within its credit.
    Stdin {
        /// The command.
        id: u32,
        /// At most [`CHUNK`](crate::CHUNK) bytes.
        data: Vec<u8>,
    },
    /// Ends a command's standard input after the bytes sent so far.
    StdinEof {
        /// The command.
        id: u32,
    },
    /// The host's reader consumed this many bytes of an output.
    Credit {
        /// The command.
        id: u32,
        /// The output.
        stream: Stream,
        /// The number of bytes.
        bytes: u32,
    },
    /// Closes an output: the command gets `SIGPIPE` when it writes to it, unless it is detached.
    CloseOutput {
        /// The command.
        id: u32,
        /// The output.
        stream: Stream,
    },
    /// Sets the terminal's size.
    Resize {
        /// The command.
        id: u32,
        /// The new size.
        size: WindowSize,
    },
    /// Sends a signal to the command's process.
    Signal {
        /// The command.
        id: u32,
        /// The signal's number on Linux.
        signal: u32,
    },
    /// Kills the command and all its descendants (`SIGKILL`), in any session.
    KillExec {
        /// The command.
        id: u32,
    },
    /// Calls `sync(2)`; answered by [`Reply::Done`](crate::Reply::Done).
    Sync {
        /// The id for the answer.
        id: u32,
    },
    /// Freezes the writable disk (`FIFREEZE`): until [`Request::Thaw`] its image on the host is
    /// consistent. Answered by [`Reply::Done`](crate::Reply::Done).
    Freeze {
        /// The id for the answer.
        id: u32,
        /// The disk is thawed after this many milliseconds, unless [`Request::KeepFrozen`] arrives
        /// before; 0 means never.
        thaw_after_ms: u32,
    },
    /// Restarts the timeout of a freeze. Answered by [`Reply::Done`](crate::Reply::Done), with
    /// `EINVAL` if the disk is not frozen (any more).
    KeepFrozen {
        /// The id for the answer.
        id: u32,
        /// As in [`Request::Freeze`].
        thaw_after_ms: u32,
    },
    /// Thaws the disk (`FITHAW`). Answered by [`Reply::Done`](crate::Reply::Done), with `EINVAL` if
    /// the disk is not frozen (any more).
    Thaw {
        /// The id for the answer.
        id: u32,
    },
    /// Discards the writable disk's free blocks (`FITRIM`). Answered by
    /// [`Reply::Done`](crate::Reply::Done).
    Trim {
        /// The id for the answer.
        id: u32,
    },
    /// Sets the guest's clock. Answered by [`Reply::Done`](crate::Reply::Done).
    SetClock {
        /// The id for the answer.
        id: u32,
        /// The host's time, in nanoseconds since 1970.
        realtime_ns: u64,
        /// Whether to step the clock in any case; otherwise a difference of less than a second is
        /// slewed.
        step: bool,
    },
    /// Asks for the guest's resource usage; answered by [`Reply::Stats`](crate::Reply::Stats).
    Stats {
        /// The id for the answer.
        id: u32,
    },
    /// Asks for the guest's processes; answered by [`Reply::Processes`](crate::Reply::Processes).
    Processes {
        /// The id for the answer.
        id: u32,
    },
    /// Gives a copied guest its own identity, before its first command. Answered by
    /// [`Reply::Done`](crate::Reply::Done) once the hook of the image has ended: with `ETIMEDOUT`
    /// if it took too long, `ECANCELED` if it failed.
    Identity {
        /// The id for the answer.
        id: u32,
        /// The new identity.
        identity: Identity,
    },
    /// Suspends the guest for a copy of the machine: commands are frozen, and after the answer,
    /// [`Reply::Done`](crate::Reply::Done), init sends nothing until the next request. The host
    /// sends none before the copy is made, so no messages are in transit in either direction.
    Suspend {
        /// The id for the answer.
        id: u32,
    },
    /// Takes over a copy of a guest that was made after [`Request::Suspend`], by another host. The
    /// disk is thawed, commands other than `command` lose their streams, the guest gets its own
    /// identity as with [`Request::Identity`], and then commands continue. Answered as that, with
    /// `EINVAL` if the guest is not suspended.
    Adopt {
        /// The id for the answer.
        id: u32,
        /// The command whose streams this host uses from now on, each with its full window; 0 is
        /// none.
        command: u32,
        /// The new identity.
        identity: Identity,
    },
    /// Ends every process, unmounts and powers off. [`Reply::Bye`](crate::Reply::Bye) is the
    /// guest's last message.
    Shutdown {
        /// How long processes have to end before `SIGKILL`, in milliseconds.
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
    /// If the frame is not a complete request.
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
