//! Runs the main command of a sandbox.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use blockbox_protocol::{ExitStatus, WindowSize};
use blockbox_store::spec::Signal;
use blockbox_store::state::{Status, now_ns};
use blockbox_vmm::guest::{GuestError, Session};
use blockbox_vmm::with_causes;

use super::clock::Clock;
use super::hub::{Hub, Log, Options};
use super::lifecycle::{Life, RunEnd};
use super::message::{Answer, Failure, FailureKind};
use super::on_fork;
use super::shared::{Start, Stop, send};
use crate::background;
use crate::error::{Error, Result};
use crate::{events, log, process, sandbox};

/// How long a killed main command may take to end before the machine is switched off.
const KILL_TIME: Duration = Duration::from_secs(10);

/// How often the host's clock is checked.
const LOOK: Duration = Duration::from_secs(5);

/// The terminal size of a main command whose client has no terminal.
const WINDOW_SIZE: WindowSize = WindowSize { rows: 24, cols: 80 };

impl Life {
    /// Starts the main command when the launcher requests it, and waits for its end.
    pub(super) fn run_main(&mut self, first: bool, session: &Arc<Session>) -> Result<RunEnd> {
        let start = if first {
            match self.monitor.wait_start()? {
                Some(start) => Some(start),
                None => return Ok(self.never_ran(None)),
            }
        } else {
            None
        };
        let process = self.spec.process.clone().unwrap_or_default();
        let size = start.as_ref().and_then(|start| start.attach?.window_size());
        let tty = process.tty.then(|| size.unwrap_or(WINDOW_SIZE));
        let attach = start.as_ref().and_then(|start| start.attach);
        let adopted = self.adopted.take();
        let input = match &adopted {
            Some(exec) => exec.has_stdin(),
            None => process.stdin || attach.is_some_and(|attach| attach.stdin),
        };
        let (hub, feed) = Hub::new(Options {
            tty: process.tty,
            owned: attach.is_some(),
            transient: false,
        });
        if let Some(Start { client, id, .. }) =
            start.as_ref().filter(|start| start.attach.is_some())
            && let Some(refusal) = client.attach(&hub, *id, input)
        {
            client.answer(*id, &Err(Failure::new(FailureKind::Other, refusal)));
        }
        if self.spec.forked && self.state.started_ns.is_none() {
            on_fork::run(session, &process);
        }
        let spec = process::exec_spec(&process, tty, input);
        let exec = match adopted.map_or_else(|| session.exec(&spec), Ok) {
            Ok(exec) => exec,
            Err(error) => {
                if let GuestError::SpawnFailed { code, message } = &error {
                    hub.failed(*code, message);
                    if let Some(Start {
                        client,
                        id,
                        attach: None,
                    }) = &start
                    {
                        let failure = Failure::new(FailureKind::Spawn(*code), message);
                        client.answer(*id, &Err(failure));
                    }
                    return Ok(RunEnd {
                        status: Status::Exited,
                        exit_code: Some(*code),
                        error: Some(message.clone()),
                        ran: None,
                    });
                }
                let full = self.monitor.lock().disk_full.take();
                let error = full.unwrap_or_else(|| error.into());
                hub.failed(125, &with_causes(&error));
                if let Some(Start {
                    client,
                    id,
                    attach: None,
                }) = &start
                {
                    client.answer(*id, &Err(Failure::other(&error)));
                }
                return Err(error);
            }
        };
        // From here on the machine can be copied.
        hub.begin(&exec);
        let started = Instant::now();
        self.state.status = Status::Running;
        self.state.started_ns = Some(now_ns());
        self.state.finished_ns = None;
        self.state.exit_code = None;
        self.state.discard = self.spec.remove_on_exit;
        let log = self.open_log();
        {
            let mut inner = self.monitor.lock();
            inner.main = Some(Arc::clone(&hub));
            inner.main_input = input;
            inner.main_over = None;
            inner.launched = true;
            inner.copying += 1;
        }
        // Its output does not wait until the state is on the disk.
        let monitor = Arc::clone(&self.monitor);
        let running = Arc::clone(&hub);
        background::thread("main", move || {
            let result = running.run(exec, feed, log);
            let mut inner = monitor.lock();
            inner.main_over = Some(result);
            inner.copying -= 1;
            monitor.changed.notify_all();
        });
        self.save()?;
        events::note(&self.store, &self.spec, "start", &[]);
        if let Some(Start {
            client,
            id,
            attach: None,
        }) = &start
        {
            client.answer(*id, &Ok(Answer::Done));
        }
        let over = self.wait_main(&hub, session, started);
        self.monitor.lock().main = None;
        let code = over.as_ref().map_or(137, |status| status.code());
        let attributes = [("exit_code", code.to_string())];
        events::note(&self.store, &self.spec, "die", &attributes);
        let status = match over {
            Ok(status) => status,
            // The machine was switched off because the command did not end.
            Err(_) if self.monitor.is_stopped() => ExitStatus::Signal(9),
            Err(error) => return Err(error.into()),
        };
        Ok(RunEnd {
            status: Status::Exited,
            exit_code: Some(status.code()),
            error: None,
            ran: Some(started.elapsed()),
        })
    }

    /// Waits for the end of the main command, and ends it if a client stops the sandbox or its time
    /// is up.
    fn wait_main(
        &mut self,
        hub: &Arc<Hub>,
        session: &Arc<Session>,
        started: Instant,
    ) -> std::result::Result<ExitStatus, GuestError> {
        let mut clock = Clock::new();
        let process = self.spec.process.clone().unwrap_or_default();
        let ends = self
            .spec
            .timeout_ms
            .and_then(|limit| started.checked_add(Duration::from_millis(limit)));
        let mut escalation = Escalation::Running;
        let mut inner = self.monitor.lock();
        loop {
            if let Some(over) = inner.main_over.take() {
                return over;
            }
            if let Some((client, id, name)) = inner.rename.take() {
                drop(inner);
                let renamed = self.rename(&name).map(|()| Answer::Done);
                client.answer(id, &renamed.map_err(|error| failure(&error)));
                inner = self.monitor.lock();
                continue;
            }
            if std::mem::take(&mut inner.gateway_lost) {
                drop(inner);
                self.note_lost_gateway();
                inner = self.monitor.lock();
                continue;
            }
            if inner.disk_full.changed {
                drop(inner);
                self.note_disk();
                inner = self.monitor.lock();
                continue;
            }
            clock.look(session);
            let now = Instant::now();
            if ends.is_some_and(|ends| now >= ends) && inner.stop.is_none() {
                inner.stop = Some(Stop {
                    signal: None,
                    timeout: None,
                });
            }
            escalation = match (escalation, inner.stop) {
                (Escalation::Running, Some(stop)) => {
                    let signal = stop.signal.unwrap_or(process.stop_signal());
                    send(hub, signal);
                    let timeout = stop.timeout.unwrap_or(process.stop_timeout());
                    inner.state.status = Status::Stopping;
                    Escalation::Asked(now.checked_add(timeout))
                }
                // A later stop may have a shorter timeout.
                (Escalation::Asked(until), Some(stop)) => {
                    let limit = stop.timeout.and_then(|timeout| now.checked_add(timeout));
                    let until = match (until, limit) {
                        (Some(until), Some(limit)) => Some(until.min(limit)),
                        (until, limit) => until.or(limit),
                    };
                    if until.is_some_and(|until| now >= until) {
                        send(hub, Signal::KILL);
                        // A paused guest cannot end it.
                        let paused = inner.disk_full.disk.is_some();
                        Escalation::Killed(if paused { now } else { now + KILL_TIME })
                    } else {
                        Escalation::Asked(until)
                    }
                }
                (Escalation::Killed(until), _) if now >= until => {
                    if let Some(vm) = &inner.vm {
                        vm.kill();
                    }
                    inner.switched_off = true;
                    // A client may block the thread that copies the command's output.
                    return inner.main_over.take().unwrap_or(Ok(ExitStatus::Signal(9)));
                }
                (other, _) => other,
            };
            let next = match escalation {
                Escalation::Running => ends,
                Escalation::Asked(until) => until,
                Escalation::Killed(until) => Some(until),
            };
            let wait = next.map_or(LOOK, |next| {
                next.saturating_duration_since(Instant::now()).min(LOOK)
            });
            inner = self.monitor.wait(inner, wait);
        }
    }

    /// Renames the sandbox.
    fn rename(&mut self, name: &str) -> Result<()> {
        let lock = sandbox::rename(&self.store, &self.spec, name)?;
        self.folder = self.store.sandbox(name);
        // The old name is free from here on.
        self.lock = lock;
        let old = std::mem::replace(&mut self.spec.name, name.to_owned());
        if let Some(log) = &self.log {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.moved(&self.folder);
        }
        events::note(&self.store, &self.spec, "rename", &[("old_name", old)]);
        Ok(())
    }

    /// Opens the log of the main command. The command also runs if the disk has no space for a log.
    fn open_log(&mut self) -> Option<Log> {
        if self.log.is_none() {
            match log::Writer::open(&self.folder) {
                Ok(writer) => self.log = Some(Arc::new(Mutex::new(writer))),
                Err(error) => background::complain(format_args!(
                    "the sandbox's log cannot be opened: {error}"
                )),
            }
        }
        self.log.clone().map(Log::new)
    }
}

/// How far ending the main command has escalated.
#[derive(Clone, Copy)]
enum Escalation {
    Running,
    /// The stop signal was sent; SIGKILL follows at this time, if any.
    Asked(Option<Instant>),
    /// SIGKILL was sent; the machine is switched off at this time.
    Killed(Instant),
}

/// Converts an error for clients.
fn failure(error: &Error) -> Failure {
    match error {
        Error::SandboxExists(_) => Failure::new(FailureKind::Exists, error.to_string()),
        _ => Failure::other(error),
    }
}
