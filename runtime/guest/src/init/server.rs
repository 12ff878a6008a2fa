//! Init's life: boot, serve the host, power off.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use blockbox_protocol::{ExitStatus, PROTOCOL_VERSION, Reply, Request, Stream};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{WaitOptions, WaitStatus};
use rustix::time::ClockId;

use super::boot::{Early, Roots};
use super::command::Command;
use super::control::Control;
use super::failure::{Failure, Step};
use super::{power, spawn, sys};

/// How long processes have to end when the host has gone without a word.
const ORPHAN_GRACE: Duration = Duration::from_secs(2);

/// Runs the guest. Returns only when powering off fails.
pub(crate) fn run() {
    let early = match Early::mount() {
        Ok(early) => early,
        Err(failure) => return give_up(None, &failure),
    };
    let mut control = match early.control_port().and_then(|node| Control::open(&node)) {
        Ok(control) => control,
        Err(failure) => return give_up(None, &failure),
    };
    let started = early.enter_container().and_then(|roots| {
        let children = sys::child_signals().step("making a signal descriptor")?;
        Ok((roots, children))
    });
    let (roots, children) = match started {
        Ok(started) => started,
        Err(failure) => return give_up(Some(control), &failure),
    };
    control.send(&hello());
    let mut server = Server {
        control,
        children,
        roots,
        commands: BTreeMap::new(),
    };
    let end = server.serve();
    let Server { control, roots, .. } = server;
    power::off(control, roots, end.grace, end.told);
}

/// Says what failed where somebody may see it, and powers off.
fn give_up(control: Option<Control>, failure: &Failure) {
    eprintln!("blockbox-init: {failure}");
    if let Some(mut control) = control {
        control.send(&Reply::Fatal {
            message: failure.to_string(),
        });
        // Without a host there is nobody left to tell.
        let _ = control.flush_within(Duration::from_secs(2));
    }
    power::reset();
}

fn hello() -> Reply {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    let nanoseconds = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    Reply::Hello {
        version: PROTOCOL_VERSION,
        uptime_ns: u64::try_from(nanoseconds).unwrap_or_default(),
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
    }
}

/// Why the guest ends.
struct End {
    grace: Duration,
    /// Whether somebody waits for a farewell.
    told: bool,
}

struct Server {
    control: Control,
    children: File,
    roots: Roots,
    commands: BTreeMap<u32, Command>,
}

/// What a descriptor in the poll set stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Control,
    Children,
    Stdin(u32),
    Output(u32, Stream),
}

impl Server {
    fn serve(&mut self) -> End {
        let orphaned = End {
            grace: ORPHAN_GRACE,
            told: false,
        };
        loop {
            if self.control.flush().is_err() {
                return orphaned;
            }
            for (source, events) in self.wait() {
                match source {
                    Source::Control => match self.take_requests(events) {
                        Ok(None) => {}
                        Ok(Some(end)) => return end,
                        Err(()) => return orphaned,
                    },
                    Source::Children => self.reap(),
                    Source::Stdin(id) => {
                        if let Some(command) = self.commands.get_mut(&id) {
                            command.feed(&mut self.control);
                        }
                    }
                    Source::Output(id, stream) => {
                        let command = self.commands.get_mut(&id);
                        if let Some(output) = command.and_then(|command| command.output_mut(stream))
                        {
                            output.forward(id, &mut self.control);
                        }
                    }
                }
            }
            self.report_exits();
        }
    }

    /// Waits until something can be done, and says what.
    fn wait(&self) -> Vec<(Source, PollFlags)> {
        let mut sources = vec![Source::Control, Source::Children];
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.control.port(), self.control.interest()),
            PollFd::new(&self.children, PollFlags::IN),
        ];
        let mut deadline: Option<Instant> = None;
        for command in self.commands.values() {
            if let Some(fd) = command.stdin.waiting() {
                sources.push(Source::Stdin(command.id));
                fds.push(PollFd::new(fd, PollFlags::OUT));
            }
            if !self.control.has_room() {
                continue;
            }
            for output in &command.outputs {
                if let Some(fd) = output.waiting() {
                    sources.push(Source::Output(command.id, output.stream()));
                    fds.push(PollFd::new(fd, PollFlags::IN));
                }
                deadline = match (deadline, output.deadline()) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
            }
        }
        let timeout = deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
            .and_then(|left| Timespec::try_from(left).ok());
        let ready = match poll(&mut fds, timeout.as_ref()) {
            Ok(ready) => ready,
            Err(_) => return Vec::new(),
        };
        let timed_out = ready == 0;
        sources
            .into_iter()
            .zip(fds.iter().map(PollFd::revents))
            // When time is up, the outputs that wait for silence are to be looked at.
            .filter(|(source, events)| {
                !events.is_empty() || timed_out && matches!(source, Source::Output(..))
            })
            .collect()
    }

    /// Takes requests in and carries them out. `Err` when the host is gone.
    fn take_requests(&mut self, events: PollFlags) -> Result<Option<End>, ()> {
        let connected = if events.contains(PollFlags::IN) {
            self.control.fill().map_err(drop)?
        } else {
            !events.intersects(PollFlags::HUP | PollFlags::ERR)
        };
        // A host that breaks the protocol is as good as gone.
        while let Some(request) = self.control.next_request().map_err(drop)? {
            if let Some(end) = self.carry_out(request) {
                return Ok(Some(end));
            }
        }
        if connected { Ok(None) } else { Err(()) }
    }

    fn carry_out(&mut self, request: Request) -> Option<End> {
        let control = &mut self.control;
        match request {
            Request::Exec { id, spec } => match spawn::spawn(&spec) {
                Ok(spawned) => {
                    control.send(&Reply::Started {
                        id,
                        pid: spawned.pid,
                    });
                    self.commands.insert(id, Command::new(id, spawned));
                }
                Err(failure) => control.send(&Reply::SpawnFailed {
                    id,
                    code: failure.code,
                    message: failure.message,
                }),
            },
            // Requests for a command that has ended meanwhile are no mistake of the host's.
            Request::Stdin { id, data } => {
                if let Some(command) = self.commands.get_mut(&id) {
                    command.input(&data, control);
                }
            }
            Request::StdinEof { id } => {
                if let Some(command) = self.commands.get_mut(&id) {
                    command.end_input(control);
                }
            }
            Request::Credit { id, stream, bytes } => {
                if let Some(output) = self.output(id, stream) {
                    output.grant(bytes);
                }
            }
            Request::CloseOutput { id, stream } => {
                if let Some(output) = self.output(id, stream) {
                    output.close();
                }
            }
            Request::Resize { id, size } => {
                if let Some(command) = self.commands.get_mut(&id) {
                    command.resize(size);
                }
            }
            Request::Signal { id, signal } => {
                if let Some(command) = self.commands.get(&id).filter(|command| command.runs()) {
                    // It can only have ended by itself meanwhile, or the number is no signal.
                    let _ = sys::kill(command.pid, signal);
                }
            }
            Request::Sync { id } => {
                rustix::fs::sync();
                control.send(&Reply::Done { id, errno: 0 });
            }
            Request::Freeze { id } => {
                let errno = errno_of(sys::freeze(self.roots.upper.as_fd()));
                control.send(&Reply::Done { id, errno });
            }
            Request::Thaw { id } => {
                let errno = errno_of(sys::thaw(self.roots.upper.as_fd()));
                control.send(&Reply::Done { id, errno });
            }
            Request::Shutdown { grace_ms } => {
                return Some(End {
                    grace: Duration::from_millis(u64::from(grace_ms)),
                    told: true,
                });
            }
        }
        None
    }

    fn output(&mut self, id: u32, stream: Stream) -> Option<&mut super::command::Output> {
        self.commands.get_mut(&id)?.output_mut(stream)
    }

    /// Collects ended children: commands, and orphans of theirs.
    fn reap(&mut self) {
        let mut records = [0; 16 * sys::SIGNAL_RECORD];
        // One signal may stand for many children; only emptying the descriptor matters.
        let _ = rustix::io::read(&self.children, &mut records);
        while let Some((pid, status)) = reap_one() {
            let command = self
                .commands
                .values_mut()
                .find(|command| command.pid == pid && command.runs());
            if let (Some(command), Some(status)) = (command, exit_status(status)) {
                command.exited(status);
            }
        }
    }

    fn report_exits(&mut self) {
        let control = &mut self.control;
        self.commands
            .retain(|&id, command| match command.finished() {
                Some(status) => {
                    control.send(&Reply::Exited { id, status });
                    false
                }
                None => true,
            });
    }
}

/// Collects one ended child, if there is one.
pub(crate) fn reap_one() -> Option<(u32, WaitStatus)> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let pid = u32::try_from(pid.as_raw_nonzero().get()).ok()?;
                return Some((pid, status));
            }
            Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

fn exit_status(status: WaitStatus) -> Option<ExitStatus> {
    let code = status
        .exit_status()
        .map(|code| ExitStatus::Code(code as u8));
    let signal = status.terminating_signal();
    code.or_else(|| signal.map(|signal| ExitStatus::Signal(signal as u8)))
}

fn errno_of(result: std::io::Result<()>) -> u32 {
    match result {
        Ok(()) => 0,
        Err(error) => error
            .raw_os_error()
            .and_then(|errno| u32::try_from(errno).ok())
            .unwrap_or(Errno::IO.raw_os_error() as u32),
    }
}
