//! The main loop of init: boots, serves the host, powers off.

mod clones;
mod events;

use std::collections::BTreeMap;
use std::fs::File;
use std::time::{Duration, Instant};

use blockbox_protocol::{
    ExecSpec, ExitStatus, FileTask, Network, PROTOCOL_VERSION, Reply, Request, Ulimit,
};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::process::{WaitOptions, WaitStatus};

use self::events::Source;
use super::boot::{Early, Roots};
use super::cgroup::{Cgroup, Cgroups};
use super::command::Command;
use super::control::Control;
use super::disk::Disk;
use super::etc::Names;
use super::failure::{Failure, Step, Warnings, errno_of};
use super::namespaces::Namespaces;
use super::network::relay;
use super::readahead::Metadata;
use super::spawn::{self, SpawnFailure, Surroundings};
use super::worker::Outcome;
use super::{clock, files, power, stats, sys};

/// How long processes have to end after the host has disconnected.
const ORPHAN_GRACE: Duration = Duration::from_secs(2);

/// How many ended children are reaped before other work gets its turn: a command can create them as
/// fast as init reaps them.
pub(crate) const REAPED_AT_A_TIME: usize = 256;

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
    let boot = match control.wait_boot() {
        Ok((PROTOCOL_VERSION, boot)) => boot,
        Ok((version, _)) => {
            // The host recognises the error by the version in this message.
            control.send(&hello(Vec::new()));
            let reason = format!("its protocol version is {version}, not {PROTOCOL_VERSION}");
            return give_up(Some(control), &Failure::new("the host", reason));
        }
        Err(failure) => return give_up(Some(control), &failure),
    };
    let mut warnings = Warnings::default();
    let started = early
        .enter_container(&boot, &mut warnings)
        .and_then(|(roots, metadata)| {
            let children = sys::child_signals().step("making a signal descriptor")?;
            Ok((roots, metadata, children))
        });
    let (roots, metadata, children) = match started {
        Ok(started) => started,
        Err(failure) => return give_up(Some(control), &failure),
    };
    relay::start(boot.network.as_ref(), &mut warnings);
    control.send(&hello(warnings.take()));
    let mut server = Server {
        control,
        children,
        roots,
        names: Names::of(&boot),
        network: boot.network,
        ulimits: boot.ulimits,
        commands: BTreeMap::new(),
        cgroups: Cgroups::open(),
        namespaces: None,
        disk: Disk::new(),
        metadata,
        turn: 0,
        more_children: false,
        suspended: false,
    };
    let end = server.serve();
    let trim = server.disk.has_free_blocks();
    let commands: Vec<_> = server
        .commands
        .values()
        .filter(|command| command.runs())
        .map(|command| (command.pid, command.stop_signal))
        .collect();
    let Server { control, roots, .. } = server;
    power::off(control, roots, &end, &commands, trim);
}

/// How long the host has to read why the machine ends, and then to end it.
const LAST_MESSAGE: Duration = Duration::from_secs(2);

/// Reports an error on the console and to the host, and powers off.
fn give_up(control: Option<Control>, failure: &Failure) {
    eprintln!("blockbox-init: {failure}");
    if let Some(mut control) = control {
        control.send(&Reply::Fatal {
            message: failure.to_string(),
        });
        // The host may be gone.
        let _ = control.flush_within(LAST_MESSAGE);
        // QEMU may end with the reset before it has passed the message on. The host ends the
        // machine when it has read it.
        control.wait_hangup(LAST_MESSAGE);
    }
    power::reset();
}

fn hello(warnings: Vec<String>) -> Reply {
    Reply::Hello {
        version: PROTOCOL_VERSION,
        uptime_ns: stats::uptime_ns(),
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        warnings,
    }
}

/// How the guest shuts down.
pub(crate) struct End {
    /// How long processes have to end by themselves.
    pub(crate) grace: Duration,
    /// Whether the host waits for the last message.
    pub(crate) told: bool,
}

struct Server {
    control: Control,
    children: File,
    roots: Roots,
    names: Names,
    network: Option<Network>,
    ulimits: Vec<Ulimit>,
    commands: BTreeMap<u32, Command>,
    cgroups: Cgroups,
    /// The namespaces of the command that runs as an init, if there is one.
    namespaces: Option<Namespaces>,
    disk: Disk,
    /// The metadata of the image, until it is locked in memory.
    metadata: Option<Metadata>,
    /// Counts up, so that another descriptor is served first each time.
    turn: usize,
    /// Whether there may be ended children that were not reaped yet.
    more_children: bool,
    /// Whether no messages may be sent before the next request.
    suspended: bool,
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
                    Source::Worker => {
                        let outcomes = self.disk.finish();
                        self.report(outcomes);
                    }
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
            let outcomes = self.disk.look_at_time(&self.roots);
            self.report(outcomes);
            let due = |metadata: &mut Metadata| Instant::now() >= metadata.due();
            if let Some(metadata) = self.metadata.take_if(due) {
                metadata.lock();
            }
            if !self.suspended {
                self.cgroups.make_spare();
                self.report_exits();
            }
        }
    }

    /// Reads requests and carries them out. `Err` if the host has disconnected.
    fn take_requests(&mut self, events: PollFlags) -> Result<Option<End>, ()> {
        let connected = if events.contains(PollFlags::IN) {
            self.control.fill().map_err(drop)?
        } else {
            !events.intersects(PollFlags::HUP | PollFlags::ERR)
        };
        // A host that violates the protocol is treated as disconnected.
        while let Some(request) = self.control.next_request().map_err(drop)? {
            if let Some(end) = self.carry_out(request) {
                return Ok(Some(end));
            }
        }
        if connected { Ok(None) } else { Err(()) }
    }

    fn carry_out(&mut self, request: Request) -> Option<End> {
        if self.suspended && !matches!(request, Request::Adopt { .. }) {
            self.suspend(false);
        }
        let control = &mut self.control;
        match request {
            Request::Exec { id, spec } => self.exec(id, &spec),
            Request::Files { id, task } => self.files(id, task),
            // The command may have ended meanwhile, which is not an error of the host.
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
                let command = self.commands.get_mut(&id);
                if let Some(output) = command.and_then(|command| command.output_mut(stream)) {
                    output.grant(bytes);
                }
            }
            Request::CloseOutput { id, stream } => {
                if let Some(command) = self.commands.get_mut(&id) {
                    command.close_output(stream);
                }
            }
            Request::Resize { id, size } => {
                if let Some(command) = self.commands.get_mut(&id) {
                    command.resize(size);
                }
            }
            Request::Signal { id, signal } => {
                if let Some(command) = self.commands.get(&id).filter(|command| command.runs()) {
                    // It may have ended meanwhile, or the signal number is invalid.
                    let _ = sys::kill(command.pid, signal);
                }
            }
            Request::KillExec { id } => {
                if let Some(command) = self.commands.get(&id) {
                    command.kill_all();
                }
            }
            Request::SetClock {
                id,
                realtime_ns,
                step,
            } => {
                let set = if step {
                    clock::set(realtime_ns).map_err(Into::into)
                } else {
                    clock::follow(realtime_ns)
                };
                let errno = set.err();
                let errno = errno.map_or(0, |error| errno_of(&error));
                control.send(&Reply::Done { id, errno });
            }
            Request::Stats { id } => {
                let mut stats = stats::stats(&self.roots);
                let proc = &self.roots.proc;
                let commands = self.commands.values();
                stats.commands = commands.map(|command| command.usage(proc)).collect();
                control.send(&Reply::Stats { id, stats });
            }
            Request::Processes { id } => {
                let processes = stats::processes(&self.roots.proc);
                control.send(&Reply::Processes { id, processes });
            }
            Request::Identity { id, identity } => {
                let outcomes = self.become_clone(id, &identity);
                self.report(outcomes);
            }
            Request::Suspend { id } => {
                self.suspend(true);
                self.control.send(&Reply::Done { id, errno: 0 });
            }
            Request::Adopt {
                id,
                command,
                identity,
            } => {
                let outcomes = self.adopt(id, command, &identity);
                self.report(outcomes);
            }
            Request::Shutdown { grace_ms } => {
                return Some(End {
                    grace: Duration::from_millis(u64::from(grace_ms)),
                    told: true,
                });
            }
            Request::Sync { .. }
            | Request::Freeze { .. }
            | Request::KeepFrozen { .. }
            | Request::Thaw { .. }
            | Request::Trim { .. } => {
                let outcomes = self.disk.carry_out(&request, &self.roots);
                self.report(outcomes);
            }
            // The guest is set up already.
            Request::Boot { .. } => {
                let errno = Errno::ALREADY.raw_os_error() as u32;
                control.send(&Reply::Done { id: 0, errno });
            }
        }
        None
    }

    fn exec(&mut self, id: u32, spec: &ExecSpec) {
        if let Err(failure) = spawn::check(spec, self.namespaces.as_ref()) {
            return self.refuse(id, None, failure);
        }
        let cgroup = self.cgroups.create();
        let surroundings = Surroundings {
            proc: &self.roots.proc,
            ulimits: &self.ulimits,
            cgroup: cgroup.as_ref(),
            namespaces: self.namespaces.as_ref(),
            frozen: self.disk.is_frozen(),
        };
        match spawn::spawn(spec, &surroundings) {
            Ok(spawned) => {
                let pid = spawned.pid;
                if spec.init {
                    // If this fails, later commands do not join the namespaces.
                    self.namespaces = Namespaces::of(&self.roots.proc, pid).ok();
                }
                self.control.send(&Reply::Started { id, pid });
                let command = Command::new(id, spec, spawned, cgroup);
                self.commands.insert(id, command);
            }
            Err(failure) => self.refuse(id, cgroup, failure),
        }
    }

    fn files(&mut self, id: u32, task: FileTask) {
        let cgroup = self.cgroups.create();
        let spec = files::command(&task);
        match files::start(task, cgroup.as_ref()) {
            Ok(spawned) => {
                let pid = spawned.pid;
                self.control.send(&Reply::Started { id, pid });
                let command = Command::new(id, &spec, spawned, cgroup);
                self.commands.insert(id, command);
            }
            Err(failure) => self.refuse(id, cgroup, failure),
        }
    }

    fn refuse(&mut self, id: u32, cgroup: Option<Cgroup>, failure: SpawnFailure) {
        if let Some(cgroup) = cgroup {
            self.cgroups.remove(cgroup);
        }
        self.control.send(&Reply::SpawnFailed {
            id,
            code: failure.code,
            message: failure.message,
        });
    }

    fn report(&mut self, outcomes: Vec<Outcome>) {
        for outcome in outcomes {
            if let Some(id) = outcome.request {
                let errno = outcome.errno;
                self.control.send(&Reply::Done { id, errno });
            }
        }
    }

    /// Reaps ended children: commands, and their orphaned descendants.
    fn reap(&mut self) {
        let mut records = [0; 16 * sys::SIGNAL_RECORD];
        // One signal may stand for many children; this only empties the descriptor.
        let _ = rustix::io::read(&self.children, &mut records);
        self.more_children = true;
        for _ in 0..REAPED_AT_A_TIME {
            let Some((pid, status)) = reap_one() else {
                self.more_children = false;
                break;
            };
            let command = self
                .commands
                .values_mut()
                .find(|command| command.pid == pid && command.runs());
            if let (Some(command), Some(status)) = (command, exit_status(status)) {
                command.exited(status);
                if command.is_init {
                    self.namespaces = None;
                }
            }
        }
        self.cgroups.sweep();
    }

    fn report_exits(&mut self) {
        let ended: Vec<_> = self
            .commands
            .iter()
            .filter_map(|(&id, command)| Some((id, command.finished()?)))
            .collect();
        for (id, status) in ended {
            let command = self.commands.remove(&id);
            if let Some(cgroup) = command.and_then(|command| command.cgroup) {
                self.cgroups.remove(cgroup);
            }
            self.control.send(&Reply::Exited { id, status });
        }
    }
}

pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Reaps one ended child, if there is one.
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
