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

/// How long a terminal must be silent, after its command ended, to count as drained while other
/// processes still hold it: what a process writes to a terminal reaches the other side through a
/// kernel worker.
const TERMINAL_SILENCE: Duration = Duration::from_millis(50);

/// How many chunks of an output are sent before others have their turn.
const CHUNKS_A_TURN: usize = 2;

#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) id: u32,
    pub(crate) pid: u32,
    pub(crate) stdin: Stdin,
    pub(crate) outputs: Vec<Output>,
    /// Its cgroup, where the kernel has cgroups.
    pub(crate) cgroup: Option<Cgroup>,
    /// The signal that asks it to end when the guest powers off.
    pub(crate) stop_signal: u32,
    /// Whether it is process 1 of namespaces of its own.
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

    /// Whether the command has ended and everything it wrote has been sent: how it ended.
    pub(crate) fn finished(&self) -> Option<ExitStatus> {
        self.exit
            .filter(|_| self.outputs.iter().all(|output| output.fd.is_none()))
    }

    /// Whether its process has not been reaped yet, so that its pid is its own.
    pub(crate) fn runs(&self) -> bool {
        self.exit.is_none()
    }

    /// The process has ended. What it has written so far is still to be sent; what other processes
    /// write from now on with its streams is not.
    pub(crate) fn exited(&mut self, status: ExitStatus) {
        self.exit = Some(status);
        self.stdin.close();
        self.terminal = None;
        for output in &mut self.outputs {
            output.drain(self.has_terminal);
        }
    }

    /// Bytes for the command's input.
    pub(crate) fn input(&mut self, data: &[u8], control: &mut Control) {
        if self.stdin.fd.is_none() {
            // Nobody will ever take them, and the host must not wait for that.
            credit(self.id, data.len(), control);
            return;
        }
        self.stdin.pending.extend(data);
        self.feed(control);
    }

    /// The host has no more input.
    pub(crate) fn end_input(&mut self, control: &mut Control) {
        if self.has_terminal {
            /// What a person types to end the input.
            const END_OF_TRANSMISSION: u8 = 4;
            self.stdin.pending.push_back(END_OF_TRANSMISSION);
        } else {
            self.stdin.ending = true;
        }
        self.feed(control);
    }

    /// Passes input on as far as the command takes it.
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
                    // The command closed its input: the rest goes nowhere.
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

    /// Kills the command and its descendants, those of the same cgroup or else of the same process
    /// group.
    pub(crate) fn kill_all(&self) {
        let killed = self
            .cgroup
            .as_ref()
            .is_some_and(|cgroup| cgroup.kill().is_ok());
        if !killed && self.runs() {
            // It can have ended by itself meanwhile.
            let _ = sys::kill_group(self.pid, libc::SIGKILL);
        }
    }

    /// What it and its descendants use.
    pub(crate) fn usage(&self) -> CommandStats {
        let usage = self.cgroup.as_ref().map(Cgroup::usage).unwrap_or_default();
        let mut stats = CommandStats::default();
        (stats.id, stats.pid) = (self.id, self.pid);
        (stats.memory, stats.cpu_ns, stats.processes) =
            (usage.memory, usage.cpu_ns, usage.processes);
        stats
    }

    /// The terminal has a new size.
    pub(crate) fn resize(&mut self, size: WindowSize) {
        if let Some(output) = self.outputs.first().filter(|_| self.has_terminal)
            && let Some(terminal) = &output.fd
        {
            // A size the terminal does not take leaves the old one.
            let _ = streams::resize(terminal, size);
        }
    }

    /// Nobody reads an output any more.
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

    /// Another host has its streams from now on. What was on its way to and from the one before is
    /// gone.
    pub(crate) fn adopted(&mut self) {
        self.stdin.pending.clear();
        for output in &mut self.outputs {
            output.credit = WINDOW;
        }
    }

    /// No host has its streams any more: it goes on, its output thrown away.
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

/// A command's input on its way.
#[derive(Debug)]
pub(crate) struct Stdin {
    fd: Option<OwnedFd>,
    pending: VecDeque<u8>,
    ending: bool,
}

impl Stdin {
    /// The descriptor to wait for, if there is something to write to it.
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
    /// Whether what is written is thrown away: the host takes no more, and the command goes on.
    discarded: bool,
    end: End,
}

/// Where an output ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The command still runs.
    Open,
    /// After this many bytes: what the pipe held when the command ended.
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

    /// The descriptor to wait for, if the host takes more.
    pub(crate) fn waiting(&self) -> Option<&OwnedFd> {
        self.fd
            .as_ref()
            .filter(|_| self.credit > 0 || self.discarded)
    }

    /// Whether the outgoing queue must have room for what is read.
    pub(crate) fn is_sent(&self) -> bool {
        !self.discarded
    }

    /// When this output must be looked at even if nothing arrives.
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

    /// Sends what the command wrote, as far as the host's credit and the outgoing queue allow, and
    /// not more than is fair to others at a time.
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
                // A terminal whose other side is closed for good reads as EIO.
                Err(_) => self.fd = None,
            }
        }
    }
}
