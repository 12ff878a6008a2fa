//! A running command and its streams.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use blockbox_protocol::{
    CHUNK, CommandStats, ExecSpec, ExitStatus, Reply, Stream, WINDOW, WindowSize,
};
use rustix::io::Errno;

use super::cgroup::Cgroup;
use super::control::Control;
use super::spawn::Spawned;
use super::{streams, sys};

/// How long a terminal must be silent after its command has ended, while other processes still hold
/// it, before its output counts as complete: writes to a terminal reach the other side through a
/// kernel worker.
const TERMINAL_SILENCE: Duration = Duration::from_millis(50);

/// How many chunks of an output are sent before other outputs get their turn.
const CHUNKS_A_TURN: usize = 2;

#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) id: u32,
    pub(crate) pid: u32,
    pub(crate) stdin: Stdin,
    pub(crate) outputs: Vec<Output>,
    /// Its cgroup, if the kernel supports cgroups.
    pub(crate) cgroup: Option<Cgroup>,
    /// The signal that asks it to end when the guest powers off.
    pub(crate) stop_signal: u32,
    /// Whether it is process 1 of its own namespaces.
    pub(crate) is_init: bool,
    terminal: Option<OwnedFd>,
    has_terminal: bool,
    detached: bool,
    exit: Option<ExitStatus>,
}

impl Command {
    pub(crate) fn new(id: u32, spec: &ExecSpec, spawned: Spawned, cgroup: Option<Cgroup>) -> Self {
        let mut outputs = vec![Output::new(Stream::Stdout, spawned.stdout)];
        outputs.extend(spawned.stderr.map(|fd| Output::new(Stream::Stderr, fd)));
        Command {
            id,
            pid: spawned.pid,
            cgroup,
            stop_signal: match spec.stop_signal {
                0 => libc::SIGTERM as u32,
                signal => signal,
            },
            is_init: spec.init,
            detached: spec.detach,
            stdin: Stdin {
                fd: spawned.stdin,
                pending: VecDeque::new(),
                ending: false,
            },
            outputs,
            has_terminal: spawned.terminal.is_some(),
            terminal: spawned.terminal,
            exit: None,
        }
    }

    /// Returns the exit status, if the command has ended and all its output has been sent.
    pub(crate) fn finished(&self) -> Option<ExitStatus> {
        self.exit
            .filter(|_| self.outputs.iter().all(|output| output.fd.is_none()))
    }

    /// Returns whether its process has not been reaped yet, so that its process id is not reused.
    pub(crate) fn runs(&self) -> bool {
        self.exit.is_none()
    }

    /// Records that the process has ended. Output that it has written so far is still sent; later
    /// output of other processes on its streams is not.
    pub(crate) fn exited(&mut self, status: ExitStatus) {
        self.exit = Some(status);
        self.stdin.close();
        self.terminal = None;
        for output in &mut self.outputs {
            output.drain(self.has_terminal);
        }
    }

    /// Queues bytes for the command's input.
    pub(crate) fn input(&mut self, data: &[u8], control: &mut Control) {
        if self.stdin.fd.is_none() {
            // They will never be read, and the host must not wait for that.
            credit(self.id, data.len(), control);
            return;
        }
        self.stdin.pending.extend(data);
        self.feed(control);
    }

    /// Ends the command's input.
    pub(crate) fn end_input(&mut self, control: &mut Control) {
        if self.has_terminal {
            /// The character that ends the input of a terminal.
            const END_OF_TRANSMISSION: u8 = 4;
            self.stdin.pending.push_back(END_OF_TRANSMISSION);
        } else {
            self.stdin.ending = true;
        }
        self.feed(control);
    }

    /// Writes input as far as the command accepts it.
    pub(crate) fn feed(&mut self, control: &mut Control) {
        let mut taken = 0;
        while let Some(fd) = &self.stdin.fd {
            let (front, _) = self.stdin.pending.as_slices();
            if front.is_empty() {
                break;
            }
            match rustix::io::write(fd, front) {
                Ok(count) => {
                    taken += count;
                    self.stdin.pending.drain(..count);
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => {
                    // The command closed its input: the rest is dropped.
                    taken += self.stdin.pending.len();
                    self.stdin.close();
                }
            }
        }
        if self.stdin.ending && self.stdin.pending.is_empty() {
            self.stdin.close();
        }
        credit(self.id, taken, control);
    }

    /// Kills the command and its descendants, by its cgroup or else its process group.
    pub(crate) fn kill_all(&self) {
        let killed = self
            .cgroup
            .as_ref()
            .is_some_and(|cgroup| cgroup.kill().is_ok());
        if !killed && self.runs() {
            // It may have ended meanwhile.
            let _ = sys::kill_group(self.pid, libc::SIGKILL);
        }
    }

    /// Returns the usage of the command and its descendants.
    pub(crate) fn usage(&self, proc: &OwnedFd) -> CommandStats {
        let mut stats = CommandStats::default();
        (stats.id, stats.pid) = (self.id, self.pid);
        if let Some(cgroup) = &self.cgroup {
            let ids = cgroup.processes();
            stats.memory = super::stats::resident(proc, &ids);
            stats.cpu_ns = cgroup.cpu_ns();
            stats.processes = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        }
        stats
    }

    /// Sets the terminal's size.
    pub(crate) fn resize(&mut self, size: WindowSize) {
        if let Some(output) = self.outputs.first().filter(|_| self.has_terminal)
            && let Some(terminal) = &output.fd
        {
            // If the terminal rejects the size, it keeps the old one.
            let _ = streams::resize(terminal, size);
        }
    }

    /// Closes an output that the host does not read any more.
    pub(crate) fn close_output(&mut self, stream: Stream) {
        let detached = self.detached;
        if let Some(output) = self.output_mut(stream) {
            if detached {
                output.discarded = true;
            } else {
                output.fd = None;
            }
        }
    }

    /// Passes its streams to another host. Bytes in transit to and from the previous host are
    /// dropped.
    pub(crate) fn adopted(&mut self) {
        self.stdin.pending.clear();
        for output in &mut self.outputs {
            output.credit = WINDOW;
        }
    }

    /// Detaches its streams from the host: the command continues, and its output is discarded.
    pub(crate) fn abandoned(&mut self) {
        if !self.has_terminal {
            self.stdin.close();
        }
        self.stdin.pending.clear();
        for output in &mut self.outputs {
            output.discarded = true;
        }
    }

    pub(crate) fn output_mut(&mut self, stream: Stream) -> Option<&mut Output> {
        self.outputs
            .iter_mut()
            .find(|output| output.stream == stream)
    }
}

fn credit(id: u32, bytes: usize, control: &mut Control) {
    if bytes > 0 {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        control.send(&Reply::StdinCredit { id, bytes });
    }
}

/// Pending input of a command.
#[derive(Debug)]
pub(crate) struct Stdin {
    fd: Option<OwnedFd>,
    pending: VecDeque<u8>,
    ending: bool,
}

impl Stdin {
    /// Returns the descriptor to poll, if there is pending input.
    pub(crate) fn waiting(&self) -> Option<&OwnedFd> {
        self.fd.as_ref().filter(|_| !self.pending.is_empty())
    }

    fn close(&mut self) {
        self.fd = None;
        self.pending.clear();
    }
}

/// One of a command's outputs.
#[derive(Debug)]
pub(crate) struct Output {
    stream: Stream,
    fd: Option<OwnedFd>,
    credit: usize,
    /// Whether output is discarded: the host has closed it, and the command continues.
    discarded: bool,
    end: End,
}

/// When an output is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The command is still running.
    Open,
    /// After this many bytes: those in the pipe when the command ended.
    After(usize),
    /// When the terminal has been silent until then.
    Silence(Instant),
}

impl Output {
    fn new(stream: Stream, fd: OwnedFd) -> Self {
        Output {
            stream,
            fd: Some(fd),
            credit: WINDOW,
            discarded: false,
            end: End::Open,
        }
    }

    pub(crate) fn stream(&self) -> Stream {
        self.stream
    }

    /// Returns the descriptor to poll, if the host accepts more output.
    pub(crate) fn waiting(&self) -> Option<&OwnedFd> {
        self.fd
            .as_ref()
            .filter(|_| self.credit > 0 || self.discarded)
    }

    /// Returns whether reading output needs space in the outgoing queue.
    pub(crate) fn is_sent(&self) -> bool {
        !self.discarded
    }

    /// Returns when this output must be checked even if nothing arrives.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.end {
            End::Silence(until) if self.waiting().is_some() => Some(until),
            _ => None,
        }
    }

    pub(crate) fn grant(&mut self, bytes: u32) {
        self.credit = self.credit.saturating_add(bytes as usize).min(WINDOW);
    }

    fn drain(&mut self, terminal: bool) {
        let Some(fd) = &self.fd else {
            return;
        };
        if terminal {
            self.end = End::Silence(Instant::now() + TERMINAL_SILENCE);
            return;
        }
        match rustix::io::ioctl_fionread(fd) {
            Ok(0) | Err(_) => self.fd = None,
            Ok(left) => self.end = End::After(usize::try_from(left).unwrap_or(usize::MAX)),
        }
    }

    /// Sends output as far as the host's credit and the outgoing queue allow, and only as much at a
    /// time as is fair to other commands.
    pub(crate) fn forward(&mut self, id: u32, control: &mut Control) {
        let mut chunk = [0; CHUNK];
        for _ in 0..CHUNKS_A_TURN {
            if self.is_sent() && !control.has_room() {
                return;
            }
            let Some(fd) = self.waiting() else {
                return;
            };
            let wanted = match self.end {
                End::After(left) => left.min(CHUNK),
                _ => CHUNK,
            };
            let allowed = if self.discarded { CHUNK } else { self.credit };
            let Some(room) = chunk.get_mut(..wanted.min(allowed)) else {
                return;
            };
            match rustix::io::read(fd.as_fd(), &mut *room) {
                Ok(0) => self.fd = None,
                Ok(count) => {
                    if !self.discarded {
                        let data = room.get(..count).unwrap_or_default();
                        control.send_output(id, self.stream, data);
                        self.credit -= count;
                    }
                    self.end = match self.end {
                        End::After(left) if left <= count => {
                            self.fd = None;
                            End::After(0)
                        }
                        End::After(left) => End::After(left - count),
                        End::Silence(_) => End::Silence(Instant::now() + TERMINAL_SILENCE),
                        End::Open => End::Open,
                    };
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if matches!(self.end, End::Silence(until) if Instant::now() >= until) {
                        self.fd = None;
                    }
                    return;
                }
                // A terminal whose other side is closed for good returns EIO.
                Err(_) => self.fd = None,
            }
        }
    }
}
