//! State that the threads of a monitor share: requests of the clients, and what is needed to handle
//! them.
//!
//! Clients' threads record their requests here and wake the first thread, which alone acts on them.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use blockbox_protocol::{ExecSpec, ExitStatus, FileTask};
use blockbox_store::spec::{Signal, Spec};
use blockbox_store::state::{State, Status};
use blockbox_vmm::guest::{GuestError, RunningCommand, Session};
use blockbox_vmm::{Vm, with_causes};

use super::client::Client;
use super::disk_full::DiskFull;
use super::hold::{Holds, Means};
use super::hub::{Feed, Hub, Recipient};
use super::message::{self, Answer, Ask, Attach, Ended, Failure, FailureKind, Resume};
use super::save::Savable;
use crate::background;
use crate::error::{Error, Result};
use crate::network::Gateway;
use crate::secrets::Value;

/// The most commands at a time besides the main one.
const COMMANDS: usize = 512;

/// How long the end of a machine may be noticed after the end of its link.
const MACHINE_END: Duration = Duration::from_secs(1);

/// State that the threads of a monitor share.
#[derive(Debug, Default)]
pub(super) struct Monitor {
    inner: Mutex<Inner>,
    pub(super) changed: Condvar,
    /// The hold of the writable disk.
    holds: Arc<Holds>,
}

/// The state of the monitor, which its threads lock in turn.
#[derive(Debug, Default)]
pub(super) struct Inner {
    /// The state as it is on disk.
    pub(super) state: State,
    pub(super) clients: Vec<Arc<Client>>,
    /// Clients that wait for the end of the sandbox.
    pub(super) waiting: Vec<(Arc<Client>, u32)>,
    /// The launcher asked to boot.
    pub(super) boot: Option<BootRequest>,
    /// The launcher asked to start the main command.
    pub(super) start: Option<Start>,
    /// The main command has run: the sandbox does not end with the launcher any more.
    pub(super) launched: bool,
    /// The launcher left before the main command ran.
    pub(super) abandoned: bool,
    pub(super) stop: Option<Stop>,
    pub(super) vm: Option<Arc<Vm>>,
    pub(super) session: Option<Arc<Session>>,
    /// What a copy of the running machine needs, if it can be copied.
    pub(super) savable: Option<Arc<Savable>>,
    /// The gateway of the network, while it runs.
    pub(super) gateway: Option<Arc<Gateway>>,
    pub(super) main: Option<Arc<Hub>>,
    pub(super) main_input: bool,
    /// The exit status of the main command.
    pub(super) main_over: Option<std::result::Result<ExitStatus, GuestError>>,
    /// The number of threads that copy commands' output.
    pub(super) copying: usize,
    /// The number of threads with a request to the guest.
    pub(super) looking: usize,
    /// Whether the gateway ended unexpectedly, and the state does not show it yet.
    pub(super) gateway_lost: bool,
    /// The disk that the host has no space for.
    pub(super) disk_full: DiskFull,
    /// Whether the machine was switched off because its command did not end.
    pub(super) switched_off: bool,
    /// A client's request to rename the sandbox.
    pub(super) rename: Option<(Arc<Client>, u32, String)>,
}

#[derive(Debug)]
pub(super) struct BootRequest {
    pub(super) client: Arc<Client>,
    pub(super) id: u32,
    pub(super) spec: Option<Box<Spec>>,
    pub(super) secrets: Vec<Value>,
    pub(super) resume: Option<Resume>,
}

#[derive(Debug)]
pub(super) struct Start {
    pub(super) client: Arc<Client>,
    pub(super) id: u32,
    pub(super) attach: Option<Attach>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    pub(super) signal: Option<Signal>,
    pub(super) timeout: Option<Duration>,
}

/// Work in the guest with streams, for a client.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// Runs a command.
    Command(ExecSpec),
    /// Reads or writes the container's files.
    Files(FileTask),
}

impl Monitor {
    /// Registers a new client.
    pub(super) fn client_came(&self, client: &Arc<Client>) {
        self.lock().clients.push(Arc::clone(client));
    }

    /// Removes a client whose connection has ended.
    pub(super) fn client_left(&self, client: &Arc<Client>) {
        let mut inner = self.lock();
        inner.clients.retain(|other| !Arc::ptr_eq(other, client));
        inner
            .waiting
            .retain(|(other, _)| !Arc::ptr_eq(other, client));
        if client.launcher && !inner.launched {
            inner.abandoned = true;
            if let Some(vm) = &inner.vm {
                vm.kill();
            }
        }
        self.changed.notify_all();
        drop(inner);
        self.holds.left(client);
    }

    fn is_connected(&self, client: &Arc<Client>) -> bool {
        let inner = self.lock();
        inner.clients.iter().any(|other| Arc::ptr_eq(other, client))
    }

    /// Answers a question, or passes it to the thread that will.
    pub(super) fn asked(self: &Arc<Self>, client: &Arc<Client>, id: u32, ask: Ask) {
        let fail = |kind, text: &str| client.answer(id, &Err(Failure::new(kind, text)));
        // Questions to the guest, which does not answer while it is paused.
        let of_guest = matches!(
            ask,
            Ask::Stats | Ask::Processes | Ask::Hold { crash: false } | Ask::Save { .. }
        );
        let refusal = self.lock().disk_full.refusal();
        if let Some(refusal) = refusal.filter(|_| of_guest) {
            return fail(FailureKind::Other, refusal);
        }
        match ask {
            Ask::Hello { .. } => {
                let version = message::VERSION;
                client.answer(id, &Ok(Answer::Hello { version }));
            }
            Ask::Boot {
                spec,
                secrets,
                resume,
            } if client.launcher => {
                self.lock().boot = Some(BootRequest {
                    client: Arc::clone(client),
                    id,
                    spec,
                    secrets,
                    resume,
                });
                self.changed.notify_all();
            }
            Ask::Start { attach } if client.launcher => {
                self.lock().start = Some(Start {
                    client: Arc::clone(client),
                    id,
                    attach,
                });
                self.changed.notify_all();
            }
            Ask::Boot { .. } | Ask::Start { .. } => fail(
                FailureKind::Unknown,
                "only the process that starts a sandbox may request that",
            ),
            Ask::Attach(attach) => {
                let (main, input) = {
                    let inner = self.lock();
                    (inner.main.clone(), inner.main_input && attach.stdin)
                };
                let refusal = match main {
                    Some(hub) => client.attach(&hub, id, input).map(str::to_owned),
                    None => Some("the sandbox's command does not run".to_owned()),
                };
                if let Some(message) = refusal {
                    client.reply(&blockbox_protocol::Reply::SpawnFailed {
                        id,
                        code: 125,
                        message,
                    });
                }
            }
            Ask::Wait => self.lock().waiting.push((Arc::clone(client), id)),
            Ask::Stop { signal, timeout_ms } => {
                self.lock().waiting.push((Arc::clone(client), id));
                self.stop(Stop {
                    signal,
                    timeout: timeout_ms.map(Duration::from_millis),
                });
            }
            Ask::Kill { signal } => {
                let main = self.lock().main.clone();
                match main {
                    Some(hub) => {
                        if signal == Signal::KILL {
                            // The user ends the sandbox: no policy restarts it.
                            self.stop(Stop {
                                signal: Some(signal),
                                timeout: Some(Duration::ZERO),
                            });
                        } else {
                            send(&hub, signal);
                        }
                        client.answer(id, &Ok(Answer::Done));
                    }
                    None => fail(
                        FailureKind::NotRunning,
                        "the sandbox's command does not run",
                    ),
                }
            }
            Ask::Stats => self.look(client, id, |session| {
                Ok(Answer::Stats(session.stats()?.into()))
            }),
            Ask::Processes => self.look(client, id, |session| {
                let processes = session.processes()?.into_iter().map(Into::into).collect();
                Ok(Answer::Processes { processes })
            }),
            Ask::Hold { crash } => {
                let (vm, session) = {
                    let inner = self.lock();
                    (inner.vm.clone(), inner.session.clone())
                };
                let means = match (vm, session) {
                    (Some(vm), _) if crash => Some(Means::Pause(vm)),
                    (_, session) => session.map(Means::Freeze),
                };
                let (monitor, holder) = (Arc::clone(self), Arc::clone(client));
                self.look(client, id, move |_| {
                    let means = means.ok_or(Error::Interrupted)?;
                    let is_connected = || monitor.is_connected(&holder);
                    monitor.holds.hold(&holder, means, is_connected)?;
                    Ok(Answer::Done)
                });
            }
            Ask::Release => {
                let (monitor, holder) = (Arc::clone(self), Arc::clone(client));
                self.look(client, id, move |_| {
                    let held = monitor.holds.release(&holder)?;
                    let held_us = u64::try_from(held.as_micros()).unwrap_or(u64::MAX);
                    Ok(Answer::Held { held_us })
                });
            }
            Ask::Save { from, to } => self.save(client, id, from, to),
            Ask::Network => self.network(client, id),
            Ask::Rename { name } => {
                let mut inner = self.lock();
                if inner.main.is_none() || inner.rename.is_some() {
                    drop(inner);
                    return fail(
                        FailureKind::NotRunning,
                        "a sandbox cannot be renamed while it starts or stops",
                    );
                }
                inner.rename = Some((Arc::clone(client), id, name));
                self.changed.notify_all();
            }
            Ask::State => {
                let state = self.lock().state.clone();
                client.answer(id, &Ok(Answer::State(state)));
            }
        }
    }

    /// Sends a request to the guest in a separate thread, for a client.
    pub(super) fn look(
        self: &Arc<Self>,
        client: &Arc<Client>,
        id: u32,
        ask: impl FnOnce(&Session) -> Result<Answer> + Send + 'static,
    ) {
        let session = {
            let mut inner = self.lock();
            let busy = inner.looking >= COMMANDS;
            let session = inner.session.clone().filter(|_| !busy);
            inner.looking += usize::from(session.is_some());
            session
        };
        let Some(session) = session else {
            let failure = Failure::new(FailureKind::NotRunning, "the sandbox is not running");
            return client.answer(id, &Err(failure));
        };
        let (monitor, client) = (Arc::clone(self), Arc::clone(client));
        background::thread("look", move || {
            let outcome = ask(&session).map_err(|error| Failure::other(&error));
            client.answer(id, &outcome);
            monitor.lock().looking -= 1;
        });
    }

    /// Copies the running machine for a client.
    fn save(self: &Arc<Self>, client: &Arc<Client>, id: u32, from: PathBuf, to: PathBuf) {
        let machine = {
            let inner = self.lock();
            let parts = (inner.vm.clone(), inner.savable.clone(), inner.main.clone());
            match parts {
                // After the main command has ended, the machine shuts down and cannot be copied.
                (_, _, None) if inner.launched => None,
                (Some(vm), Some(savable), main) => Some((vm, savable, main, inner.main_input)),
                _ => None,
            }
        };
        let Some((vm, savable, main, stdin)) = machine else {
            let text =
                "its memory is not in a file: it is a copy itself, or was not made to be forked";
            return client.answer(id, &Err(Failure::new(FailureKind::NotRunning, text)));
        };
        let (monitor, saver) = (Arc::clone(self), Arc::clone(client));
        self.look(client, id, move |session| {
            let _alone = monitor.holds.take(&saver)?;
            let command = match main {
                Some(main) => {
                    let command = main.command().ok_or(Error::Interrupted)?;
                    Some(RunningCommand { stdin, ..command })
                }
                None => None,
            };
            let held = savable.save(session, &vm, command, &from, &to)?;
            let held_us = u64::try_from(held.as_micros()).unwrap_or(u64::MAX);
            Ok(Answer::Held { held_us })
        });
    }

    /// Asks the gateway for its status in a separate thread, for a client.
    fn network(&self, client: &Arc<Client>, id: u32) {
        let Some(gateway) = self.lock().gateway.clone() else {
            let text = "the sandbox has no network, or its gateway has ended";
            return client.answer(id, &Err(Failure::new(FailureKind::NotRunning, text)));
        };
        let client = Arc::clone(client);
        background::thread("network", move || {
            let status = gateway.status();
            let answer = status.map(|status| Answer::Network(Box::new(status)));
            client.answer(id, &answer.map_err(|error| Failure::other(&error)));
        });
    }

    /// Handles the end of the gateway. It is unexpected if the gateway is still the sandbox's and
    /// its machine runs.
    pub(super) fn gateway_ended(&self, gateway: &Arc<Gateway>) {
        let vm = self.lock().vm.clone();
        // The gateway ends with its machine, whose end may be noticed a moment later.
        if vm.is_some_and(|vm| matches!(vm.wait_timeout(MACHINE_END), Ok(Some(_)))) {
            return;
        }
        let mut inner = self.lock();
        if inner
            .gateway
            .take_if(|own| Arc::ptr_eq(own, gateway))
            .is_some()
        {
            inner.gateway_lost = true;
            self.changed.notify_all();
        }
    }

    /// Starts work in the guest for a client.
    pub(super) fn exec(self: &Arc<Self>, hub: Arc<Hub>, feed: Feed, work: Work, launcher: bool) {
        let session = {
            let mut inner = self.lock();
            // The process that starts the sandbox may prepare the start of the main command.
            let running = inner.main.is_some() || launcher && !inner.launched;
            let refusal = inner.disk_full.refusal();
            match inner.session.clone().filter(|_| running) {
                None => {
                    drop(inner);
                    return hub.failed(125, "the sandbox is not running");
                }
                Some(_) if refusal.is_some() => {
                    drop(inner);
                    return hub.failed(125, refusal.unwrap_or_default());
                }
                Some(_) if inner.copying > COMMANDS => {
                    drop(inner);
                    return hub.failed(126, "too many commands run in the sandbox");
                }
                Some(session) => {
                    inner.copying += 1;
                    session
                }
            }
        };
        let monitor = Arc::clone(self);
        background::thread("command", move || {
            let started = match &work {
                Work::Command(spec) => session.exec(spec),
                Work::Files(task) => session.files(task),
            };
            match started {
                // If the machine is lost, the thread of the main command reports it.
                Ok(exec) => drop(hub.run(exec, feed, None)),
                Err(GuestError::SpawnFailed { code, message }) => hub.failed(code, &message),
                Err(error) => hub.failed(125, &with_causes(&error)),
            }
            monitor.lock().copying -= 1;
            monitor.changed.notify_all();
        });
    }

    /// Stops the sandbox.
    pub(super) fn stop(&self, stop: Stop) {
        let mut inner = self.lock();
        let impatient = |old: Stop| Stop {
            signal: old.signal,
            timeout: match (old.timeout, stop.timeout) {
                (Some(old), Some(new)) => Some(old.min(new)),
                (old, new) => new.or(old),
            },
        };
        inner.stop = Some(inner.stop.map_or(stop, impatient));
        // While the guest boots there is nothing to wait for.
        if inner.main.is_none()
            && inner.state.status == Status::Starting
            && let Some(vm) = &inner.vm
        {
            vm.kill();
        }
        self.changed.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        let inner = self.lock();
        inner.stop.is_some() || inner.abandoned
    }

    /// Waits until the launcher asks to boot; `None` if it left or the sandbox was stopped.
    pub(super) fn wait_boot(&self) -> Option<BootRequest> {
        let mut inner = self.lock();
        loop {
            if inner.stop.is_some() || inner.abandoned {
                return None;
            }
            if let Some(boot) = inner.boot.take() {
                return Some(boot);
            }
            inner = self.wait(inner, Duration::from_secs(60));
        }
    }

    /// Waits until the launcher starts the main command; `None` if it left or the sandbox was
    /// stopped.
    pub(super) fn wait_start(&self) -> Result<Option<Start>> {
        let mut inner = self.lock();
        loop {
            if inner.stop.is_some() || inner.abandoned {
                return Ok(None);
            }
            if let Some(start) = inner.start.take() {
                return Ok(Some(start));
            }
            inner = self.wait(inner, Duration::from_secs(60));
        }
    }

    /// Pauses before a restart. Returns whether the sandbox was stopped meanwhile.
    pub(super) fn pause(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        let mut inner = self.lock();
        loop {
            if inner.stop.is_some() {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            inner = self.wait(inner, left);
        }
    }

    /// Answers all clients that wait for the end of the sandbox.
    pub(super) fn report(&self, ended: &Ended) {
        let waiting = std::mem::take(&mut self.lock().waiting);
        for (client, id) in waiting {
            client.answer(id, &Ok(Answer::Ended(ended.clone())));
        }
    }

    /// Waits until all queued messages have been sent to the clients, or they have disconnected.
    pub(super) fn finish(&self) {
        let mut inner = self.lock();
        while inner.copying > 0 {
            inner = self.wait(inner, Duration::from_secs(60));
        }
        let clients = std::mem::take(&mut inner.clients);
        drop(inner);
        for client in &clients {
            client.close();
        }
        for client in &clients {
            client.wait_closed();
        }
    }

    pub(super) fn wake(&self) {
        // Under the lock, so that no thread misses it between checking and waiting.
        let _wishes = self.lock();
        self.changed.notify_all();
    }

    pub(super) fn wait<'a>(
        &self,
        inner: MutexGuard<'a, Inner>,
        timeout: Duration,
    ) -> MutexGuard<'a, Inner> {
        self.changed
            .wait_timeout(inner, timeout)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends a signal without waiting for the guest, which may never answer.
pub(super) fn send(hub: &Arc<Hub>, signal: Signal) {
    if let Some(control) = hub.control() {
        background::thread("signal", move || {
            // The guest may be gone.
            let _ = control.signal(signal.number());
        });
    }
}
