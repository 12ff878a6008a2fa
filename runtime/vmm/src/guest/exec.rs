//! A command in the guest.

use std::io::{self, Write};
use std::sync::Arc;

use blockbox_protocol::frame::MAX_PAYLOAD;
use blockbox_protocol::{
    CHUNK, ExecSpec, ExitStatus, FileTask, Request, Stream, WINDOW, WindowSize,
};

use super::error::GuestError;
use super::inbox::{Event, Failure, Inbox};
use super::link::Link;

/// Credit is returned after this many bytes have been read: often enough that the sender does not
/// wait for it, rarely enough that its cost is negligible.
const CREDIT_STEP: usize = WINDOW / 4;

/// A running command. Dropping it closes its streams, as closing a terminal window would; the
/// command itself continues until it notices.
#[derive(Debug)]
pub struct Exec {
    control: ExecControl,
    stdin: Option<Stdin>,
    pid: u32,
    /// Bytes of each output that were read and not yet returned as credit.
    owed: [usize; 2],
    status: Option<ExitStatus>,
}

/// Controls a running command from any thread.
#[derive(Debug, Clone)]
pub struct ExecControl {
    id: u32,
    link: Arc<Link>,
    inbox: Arc<Inbox>,
}

/// A command's standard input. Dropping it ends the input.
#[derive(Debug)]
pub struct Stdin {
    control: ExecControl,
}

impl Exec {
    pub(super) fn start(link: &Arc<Link>, spec: &ExecSpec) -> Result<Self, GuestError> {
        if spec.encoded_len() > MAX_PAYLOAD {
            return Err(GuestError::SpawnFailed {
                code: 126,
                message: format!(
                    "arguments and environment take more than {} MiB",
                    MAX_PAYLOAD >> 20
                ),
            });
        }
        let has_input = spec.stdin || spec.tty.is_some();
        Self::open(link, has_input, |id| {
            link.send(&Request::Exec {
                id,
                spec: spec.clone(),
            })
        })
    }

    /// Starts a task on files in init.
    pub(super) fn files(link: &Arc<Link>, task: &FileTask) -> Result<Self, GuestError> {
        Self::open(link, task.has_input(), |id| {
            link.send(&Request::Files {
                id,
                task: task.clone(),
            })
        })
    }

    /// Registers a command, requests it under its id, and waits until it runs.
    pub(super) fn open(
        link: &Arc<Link>,
        has_input: bool,
        ask: impl FnOnce(u32) -> Result<(), GuestError>,
    ) -> Result<Self, GuestError> {
        let inbox = Arc::new(Inbox::default());
        let id = link.register(Arc::clone(&inbox))?;
        ask(id)?;
        let control = ExecControl {
            id,
            link: Arc::clone(link),
            inbox,
        };
        let pid = control
            .inbox
            .wait_started()
            .map_err(|failure| match failure {
                Failure::Spawn { code, message } => GuestError::SpawnFailed { code, message },
                Failure::End(end) => link.error(end),
            })?;
        Ok(Exec {
            stdin: has_input.then(|| Stdin {
                control: control.clone(),
            }),
            control,
            pid,
            owed: [0; 2],
            status: None,
        })
    }

    /// Takes over a command that already runs in the guest.
    pub(super) fn running(link: &Arc<Link>, id: u32, pid: u32, has_input: bool) -> Self {
        let inbox = Arc::new(Inbox::default());
        inbox.started(pid);
        link.register_running(id, Arc::clone(&inbox));
        let control = ExecControl {
            id,
            link: Arc::clone(link),
            inbox,
        };
        Exec {
            stdin: has_input.then(|| Stdin {
                control: control.clone(),
            }),
            control,
            pid,
            owed: [0; 2],
            status: None,
        }
    }

    /// Returns the command's process id in the guest.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns whether the command has an input that was not taken yet.
    pub fn has_stdin(&self) -> bool {
        self.stdin.is_some()
    }

    /// Takes the command's standard input, if it was started with one.
    pub fn take_stdin(&mut self) -> Option<Stdin> {
        self.stdin.take()
    }

    /// Returns a handle to signal and resize the command while another thread reads its output.
    pub fn control(&self) -> ExecControl {
        self.control.clone()
    }

    /// Waits for the next event. After [`Event::Exited`] it returns the same event again.
    ///
    /// # Errors
    ///
    /// If the guest is gone.
    pub fn next_event(&mut self) -> Result<Event, GuestError> {
        if let Some(status) = self.status {
            return Ok(Event::Exited(status));
        }
        let event = self
            .control
            .inbox
            .next_event()
            .map_err(|end| self.control.link.error(end))?;
        match &event {
            Event::Exited(status) => self.status = Some(*status),
            Event::Output { stream, data } => self.repay(*stream, data.len())?,
        }
        Ok(event)
    }

    /// Copies the outputs to `stdout` and `stderr` until the command ends. If one cannot be
    /// written, it is closed in the guest as well, and its error is returned after the command has
    /// ended.
    ///
    /// # Errors
    ///
    /// If the guest is gone, or an output cannot be written; a closed pipe is not an error, as in a
    /// shell.
    pub fn stream(
        mut self,
        stdout: &mut dyn Write,
        stderr: &mut dyn Write,
    ) -> Result<ExitStatus, GuestError> {
        let mut failed: [Option<io::Error>; 2] = [None, None];
        loop {
            let (stream, data) = match self.next_event()? {
                Event::Output { stream, data } => (stream, data),
                Event::Exited(status) => {
                    let error = failed
                        .into_iter()
                        .flatten()
                        .find(|error| error.kind() != io::ErrorKind::BrokenPipe);
                    return match error {
                        Some(source) => Err(GuestError::io("cannot write the output")(source)),
                        None => Ok(status),
                    };
                }
            };
            let (out, failed): (&mut dyn Write, _) = match stream {
                Stream::Stdout => (&mut *stdout, &mut failed[0]),
                Stream::Stderr => (&mut *stderr, &mut failed[1]),
            };
            if failed.is_none()
                && let Err(error) = out.write_all(&data).and_then(|()| out.flush())
            {
                *failed = Some(error);
                self.close_output(stream)?;
            }
        }
    }

    /// Waits for the command's end, discarding its output.
    ///
    /// # Errors
    ///
    /// If the guest is gone.
    pub fn wait(mut self) -> Result<ExitStatus, GuestError> {
        drop(self.stdin.take());
        self.stream(&mut io::sink(), &mut io::sink())
    }

    /// Closes an output: the command gets `SIGPIPE` when it writes to it.
    ///
    /// # Errors
    ///
    /// If the guest is gone.
    pub fn close_output(&self, stream: Stream) -> Result<(), GuestError> {
        self.control.close_output(stream)
    }

    fn repay(&mut self, stream: Stream, bytes: usize) -> Result<(), GuestError> {
        let owed = match stream {
            Stream::Stdout => &mut self.owed[0],
            Stream::Stderr => &mut self.owed[1],
        };
        *owed += bytes;
        if *owed < CREDIT_STEP {
            return Ok(());
        }
        let bytes = u32::try_from(std::mem::take(owed)).unwrap_or(u32::MAX);
        self.control.inbox.repaid(stream, bytes as usize);
        self.control.link.send(&Request::Credit {
            id: self.control.id,
            stream,
            bytes,
        })
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        if self.status.is_none() && !self.control.inbox.is_over() {
            // If the guest is gone, so are the streams.
            let _ = self.close_output(Stream::Stdout);
            let _ = self.close_output(Stream::Stderr);
        }
    }
}

impl ExecControl {
    /// Returns the command's id on the channel, as in [`CommandStats`](super::CommandStats).
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Sends a signal, by its number on Linux, to the command's process.
    ///
    /// # Errors
    ///
    /// If the guest is gone. That the command has ended is not an error.
    pub fn signal(&self, signal: u32) -> Result<(), GuestError> {
        self.send_while_running(Request::Signal {
            id: self.id,
            signal,
        })
    }

    /// Kills the command and all its descendants.
    ///
    /// # Errors
    ///
    /// If the guest is gone. That the command has ended is not an error.
    pub fn kill_all(&self) -> Result<(), GuestError> {
        self.send_while_running(Request::KillExec { id: self.id })
    }

    /// Sets the size of the command's terminal.
    ///
    /// # Errors
    ///
    /// If the guest is gone. That the command has ended, or has no terminal, is not an error.
    pub fn resize(&self, size: WindowSize) -> Result<(), GuestError> {
        self.send_while_running(Request::Resize { id: self.id, size })
    }

    /// Closes an output: the command gets `SIGPIPE` when it writes to it.
    ///
    /// # Errors
    ///
    /// If the guest is gone.
    pub fn close_output(&self, stream: Stream) -> Result<(), GuestError> {
        let id = self.id;
        self.link.send(&Request::CloseOutput { id, stream })
    }

    fn send_while_running(&self, request: Request) -> Result<(), GuestError> {
        if self.inbox.is_over() {
            return Ok(());
        }
        self.link.send(&request)
    }
}

impl Write for Stdin {
    /// Waits until the command accepts input; fails with [`io::ErrorKind::BrokenPipe`] once it has
    /// ended.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let count = self
            .control
            .inbox
            .take_credit(buf.len().min(CHUNK))
            .ok_or(io::ErrorKind::BrokenPipe)?;
        let data = buf.get(..count).unwrap_or_default().to_vec();
        self.control
            .link
            .send(&Request::Stdin {
                id: self.control.id,
                data,
            })
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Stdin {
    fn drop(&mut self) {
        // The guest may be gone.
        let _ = self.control.send_while_running(Request::StdinEof {
            id: self.control.id,
        });
    }
}
