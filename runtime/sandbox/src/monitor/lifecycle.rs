//! A sandbox's life, from the first boot to the end: the state machine of
//! [`state`](blockbox_store::state).
//!
//! Only the first thread of the process boots, waits and switches off, and changes the state on
//! disk. Clients' threads leave their requests in [`shared`](super::shared) and wake it.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use blockbox_store::snapshot::{MACHINE, MEMORY};
use blockbox_store::spec::Spec;
use blockbox_store::state::{Info, State, Status, now_ns};
use blockbox_store::{Lock, Store, remove as remove_tree};
use blockbox_vmm::guest::{Adoption, Exec, GuestError, Session};
use blockbox_vmm::{Vm, with_causes};

use super::client::Client;
use super::message::{Answer, Ended, Failure, FailureKind, Resume};
use super::save::Savable;
use super::shared::{Monitor, Stop};
use super::{connection, socket};
use crate::background;
use crate::boot::Plan;
use crate::error::{Error, Result};
use crate::network::Gateway;
use crate::root::{Held, Root};
use crate::secrets::Value;
use crate::snapshot::Saved;
use crate::{events, log, mounts, process};

/// How long the processes that the main command leaves have to end.
const GRACE: Duration = Duration::from_secs(1);

/// How long a machine may take to shut down cleanly, beyond [`GRACE`].
const OFF_TIME: Duration = Duration::from_secs(45);

/// The pause before the first restart; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause before a restart.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// If a main command ran this long, the next pause is [`FIRST_PAUSE`] again.
const STABLE: Duration = Duration::from_secs(10);

/// How a run of the machine ended.
pub(super) struct RunEnd {
    pub(super) status: Status,
    pub(super) exit_code: Option<u8>,
    pub(super) error: Option<String>,
    /// How long the main command ran; `None` if it never did.
    pub(super) ran: Option<Duration>,
}

impl RunEnd {
    fn failed(error: &Error) -> Self {
        Self {
            status: Status::Failed,
            exit_code: None,
            error: Some(with_causes(error)),
            ran: None,
        }
    }
}

/// Runs a sandbox until it ends.
pub(super) fn run(store: Store, lock: Lock, info: Info, launcher: UnixStream) -> Result<()> {
    let (listener, path) = socket::listen(&store, &info.spec.id)?;
    let monitor = Arc::<Monitor>::default();
    let mut life = Life {
        folder: store.sandbox(&info.spec.name),
        store,
        monitor: Arc::clone(&monitor),
        spec: info.spec,
        state: info.state,
        log: None,
        lock,
        secrets: Vec::new(),
        resume: None,
        warning: None,
        adopted: None,
        held: Vec::new(),
        saving: None,
    };
    life.state.status = Status::Starting;
    life.state.socket = Some(path.clone());
    life.state.monitor_pid = Some(std::process::id());
    life.state.restarts = 0;
    life.state.error = None;
    life.start_saving()?;

    watch_signals(&monitor);
    connection::serve(&monitor, launcher, true).map_err(Error::io(&path))?;
    let accepting = Arc::clone(&monitor);
    background::thread("accept", move || {
        while let Ok((socket, _)) = listener.accept() {
            connection::accept(&accepting, socket);
        }
    });

    let ended = life.live();
    life.end_saving();
    let removed = life.state.discard;
    let saved = if removed {
        events::note(&life.store, &life.spec, "remove", &[]);
        remove_tree(&life.folder).map_err(Error::from)
    } else {
        life.save()
    };
    // No client finds this monitor from here on, and the next one may start.
    let _ = fs::remove_file(&path);
    drop(life);
    monitor.report(&Ended { removed, ..ended });
    monitor.finish();
    saved
}

/// Stops the sandbox on a signal to the monitor itself, as at the end of a user's session or at the
/// host's shutdown.
fn watch_signals(monitor: &Arc<Monitor>) {
    use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM};

    let signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM]);
    let Ok(mut signals) = signals else { return };
    let monitor = Arc::clone(monitor);
    background::thread("signals", move || {
        for signal in &mut signals {
            // The monitor has no terminal to hang up.
            if signal != SIGHUP {
                monitor.stop(Stop {
                    signal: None,
                    timeout: None,
                });
            }
        }
    });
}

/// The state of the first thread.
pub(super) struct Life {
    pub(super) store: Store,
    pub(super) folder: PathBuf,
    pub(super) monitor: Arc<Monitor>,
    pub(super) spec: Spec,
    pub(super) state: State,
    pub(super) log: Option<Arc<Mutex<log::Writer>>>,
    pub(super) lock: Lock,
    /// The values of the sandbox's secrets, for every boot.
    secrets: Vec<Value>,
    /// The copied machine that the first boot resumes.
    resume: Option<Resume>,
    /// Why the first boot does not resume a copy.
    warning: Option<String>,
    /// The main command of a resumed machine.
    pub(super) adopted: Option<Exec>,
    /// Locks that are held while the machine runs.
    held: Vec<Held>,
    /// The thread that writes the first state.
    saving: Option<JoinHandle<()>>,
}

impl Life {
    /// Runs the machine until no policy restarts it.
    fn live(&mut self) -> Ended {
        let mut pause = FIRST_PAUSE;
        let mut first = true;
        loop {
            let end = self.run_once(first);
            first = false;
            let stopped = {
                let inner = self.monitor.lock();
                inner.stop.is_some() || inner.abandoned
            };
            let success = end.status == Status::Exited && end.exit_code == Some(0);
            let restarts = end.ran.is_some() || self.state.restarts > 0;
            let again =
                restarts && !stopped && self.spec.restart.applies(success, self.state.restarts);
            self.state.exit_code = end.exit_code.or(self.state.exit_code);
            self.state.error.clone_from(&end.error);
            let mut ended = Ended {
                status: end.status,
                exit_code: end.exit_code,
                error: end.error,
                removed: false,
                restarts: again,
            };
            if !again {
                self.state.leave(end.status);
                return ended;
            }
            self.state.status = Status::Starting;
            self.state.finished_ns = Some(now_ns());
            self.state.restarts += 1;
            if let Err(error) = self.save() {
                background::complain(with_causes(&error));
            }
            self.monitor.report(&ended);
            if end.ran.is_some_and(|ran| ran >= STABLE) {
                pause = FIRST_PAUSE;
            }
            if self.monitor.pause(pause) {
                ended.restarts = false;
                self.state.leave(end.status);
                return ended;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Boots, runs the main command, and switches off.
    fn run_once(&mut self, first: bool) -> RunEnd {
        let end = self.run_machine(first);
        // In any case, and before the next boot binds the ports.
        let gateway = self.monitor.lock().gateway.take();
        if let Some(gateway) = gateway {
            gateway.stop();
        }
        self.state.ports.clear();
        end
    }

    /// Releases the resources of a machine that has ended.
    fn let_go(&mut self) {
        mounts::clean(&self.folder);
        self.held.clear();
    }

    fn run_machine(&mut self, first: bool) -> RunEnd {
        let mut boot = None;
        if first {
            match self.monitor.wait_boot() {
                Some(request) => {
                    if let Some(spec) = request.spec {
                        self.spec = *spec;
                    }
                    self.secrets = request.secrets;
                    self.resume = request.resume;
                    boot = Some((request.client, request.id));
                }
                None => return self.never_ran(None),
            }
        }
        let booted = self.boot(boot.as_ref().map(|(client, _)| client));
        let (vm, session) = match booted {
            Ok(booted) => booted,
            Err(error) => {
                let (vm, full) = {
                    let mut inner = self.monitor.lock();
                    (inner.vm.take(), inner.disk_full.take())
                };
                if let Some(vm) = vm {
                    vm.kill();
                }
                self.let_go();
                let error = full.unwrap_or(error);
                let failure = if self.monitor.is_stopped() {
                    Failure::new(
                        FailureKind::Interrupted,
                        "the sandbox was stopped while it booted",
                    )
                } else {
                    Failure::other(&error)
                };
                if let Some((client, id)) = boot {
                    client.answer(id, &Err(failure));
                }
                return self.never_ran(Some(&error));
            }
        };
        if let Some((client, id)) = boot {
            let answer = match self.warning.take() {
                Some(warning) => Answer::Booted { warning },
                None => Answer::Done,
            };
            client.answer(id, &Ok(answer));
        }
        let end = self.run_main(first, &session);
        {
            let mut inner = self.monitor.lock();
            inner.session = None;
            inner.savable = None;
        }
        self.state.status = Status::Stopping;
        if let Err(error) = self.save() {
            background::complain(with_causes(&error));
        }
        let off = switch_off(&session, &vm);
        let (switched_off, full) = {
            let mut inner = self.monitor.lock();
            inner.vm = None;
            (
                std::mem::take(&mut inner.switched_off),
                inner.disk_full.take(),
            )
        };
        self.let_go();
        match (end, off) {
            (Ok(end), Ok(())) => end,
            // A user asked for this end.
            (Ok(end), Err(_)) if switched_off => end,
            (Ok(end), Err(error)) => RunEnd {
                error: end
                    .error
                    .or_else(|| Some(with_causes(&full.unwrap_or(error)))),
                ..end
            },
            (Err(error), _) => {
                let ran = self.monitor.lock().launched;
                RunEnd {
                    // As the event of its end says.
                    exit_code: ran.then_some(128 + 9),
                    ran: ran.then_some(Duration::ZERO),
                    ..RunEnd::failed(&full.unwrap_or(error))
                }
            }
        }
    }

    /// Ends a run without a main command. A sandbox that was made for one command is not kept.
    pub(super) fn never_ran(&mut self, error: Option<&Error>) -> RunEnd {
        if self.monitor.is_stopped() {
            let status = if self.state.started_ns.is_some() {
                Status::Exited
            } else {
                Status::Created
            };
            return RunEnd {
                status,
                exit_code: None,
                error: None,
                ran: None,
            };
        }
        match error {
            Some(error) => RunEnd::failed(error),
            None => RunEnd {
                status: Status::Created,
                exit_code: None,
                error: None,
                ran: None,
            },
        }
    }

    /// Boots the machine. Returns an error as soon as a client stops the sandbox.
    fn boot(&mut self, waiting: Option<&Arc<Client>>) -> Result<(Arc<Vm>, Arc<Session>)> {
        let notice = |text: &str| {
            if let Some(client) = waiting {
                client.notice(text);
            }
        };
        let root = Root::of(&self.store, &self.spec)?;
        if self.spec.process.is_none() {
            let config = root.config();
            self.spec.process = Some(process::resolve(config, process::Overrides::default())?);
        }
        let mut plan = self.interruptibly({
            let (store, folder, spec) =
                (self.store.clone(), self.folder.clone(), self.spec.clone());
            let notified = waiting.cloned();
            let secrets = self.secrets.clone();
            move || {
                Plan::new(&store, &folder, &spec, &root, secrets, &|text| {
                    if let Some(client) = &notified {
                        client.notice(text);
                    }
                })
            }
        })?;
        self.held = plan.take_held();
        self.state.vmm = Some(plan.vmm().to_string());
        self.state.confinement = None;
        self.state.gateway_confinement = None;
        let resume = self.resume.take();
        // A copy waits until it is resumed, so it starts while the gateway does.
        let copy = resume.map(|resume| (self.start_copy(&plan, &resume), resume));
        if let Some(gateway) = plan.gateway() {
            self.connect(gateway)?;
        }
        let resumed = copy.map(|(copy, resume)| self.go_on(&plan, copy?, &resume));
        let (vm, session) = match resumed {
            Some(Ok(resumed)) => resumed,
            Some(Err(error)) if self.monitor.is_stopped() => return Err(error),
            other => {
                self.warning = other
                    .and_then(Result::err)
                    .map(|error| format!("{}; it boots from its disk", with_causes(&error)));
                notice(&format!("booting the guest with {}", plan.vmm()));
                let vm = self.started(plan.start()?);
                let session = plan.connect(&vm)?;
                self.monitor.lock().savable = plan.memory().cloned().map(|memory| {
                    let spec = self.spec.clone();
                    Arc::new(Savable { memory, spec })
                });
                (vm, session)
            }
        };
        self.state.confinement = vm.confinement().map(|confinement| confinement.to_string());
        let session = Arc::new(session);
        self.monitor.lock().session = Some(Arc::clone(&session));
        Ok((vm, session))
    }

    /// Starts a copied machine.
    fn start_copy(&self, plan: &Plan, resume: &Resume) -> Result<(Saved, Arc<Vm>)> {
        let saved = Saved::read(&resume.folder)?;
        saved.check(&self.spec)?;
        let vm = self.started(plan.start_copy(resume.folder.join(MEMORY))?);
        Ok((saved, vm))
    }

    /// Resumes a copied machine, instead of a boot.
    fn go_on(
        &mut self,
        plan: &Plan,
        (saved, vm): (Saved, Arc<Vm>),
        resume: &Resume,
    ) -> Result<(Arc<Vm>, Session)> {
        let mut adoption = Adoption::default();
        adoption.last_id = saved.last_id;
        adoption.command = saved.command.filter(|_| resume.go_on);
        adoption.kernel.clone_from(&saved.kernel);
        let gone_on = vm
            .machine_identity()
            .map_err(Error::from)
            .and_then(|machine| saved.check_machine(&machine))
            .and_then(|()| plan.go_on(&vm, &resume.folder.join(MACHINE), adoption, &self.spec));
        let (session, command) = gone_on.inspect_err(|_| vm.kill())?;
        if resume.go_on {
            self.spec.process = saved.spec.process;
        }
        self.adopted = command;
        Ok((vm, session))
    }

    /// Sets the sandbox's machine, which is killed at once if a client has stopped the sandbox.
    fn started(&self, vm: Vm) -> Arc<Vm> {
        let vm = Arc::new(vm);
        let mut inner = self.monitor.lock();
        inner.vm = Some(Arc::clone(&vm));
        if inner.stop.is_some() || inner.abandoned {
            vm.kill();
        }
        drop(inner);
        self.monitor.watch_disks(&vm);
        vm
    }

    /// Sets the sandbox's gateway.
    fn connect(&mut self, gateway: &Arc<Gateway>) -> Result<()> {
        {
            let mut inner = self.monitor.lock();
            inner.gateway = Some(Arc::clone(gateway));
            inner.gateway_lost = false;
        }
        let (monitor, gateway) = (Arc::clone(&self.monitor), Arc::clone(gateway));
        let started = gateway.started()?;
        self.state.ports = started.bound.ports.clone();
        self.state.gateway_confinement = Some(started.confinement.clone());
        background::thread("gateway", move || {
            gateway.follow();
            monitor.gateway_ended(&gateway);
        });
        self.save()
    }

    /// Records that the gateway ended unexpectedly. The sandbox continues without a network, as a
    /// machine with an unplugged cable does.
    pub(super) fn note_lost_gateway(&mut self) {
        self.state.ports.clear();
        self.state.error = Some("the gateway of the sandbox's network ended".to_owned());
        background::complain("the gateway of the sandbox's network ended");
        if let Err(error) = self.save() {
            background::complain(with_causes(&error));
        }
        events::note(&self.store, &self.spec, "network-lost", &[]);
    }

    /// Runs work that may take long in another thread, and abandons it when a client stops the
    /// sandbox. Anything that the thread has started ends with this process.
    fn interruptibly<T: Send + 'static>(
        &self,
        run: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (done, result) = mpsc::channel();
        let monitor = Arc::clone(&self.monitor);
        // The work may need a larger stack than the monitor's threads have.
        thread::spawn(move || {
            // The receiver is gone if the wait was abandoned.
            let _ = done.send(run());
            monitor.wake();
        });
        let mut inner = self.monitor.lock();
        loop {
            match result.try_recv() {
                Ok(result) => return result,
                Err(mpsc::TryRecvError::Disconnected) => return Err(Error::Interrupted),
                Err(mpsc::TryRecvError::Empty) => {}
            }
            if inner.stop.is_some() || inner.abandoned {
                return Err(Error::Interrupted);
            }
            inner = self.monitor.wait(inner, Duration::from_secs(1));
        }
    }

    /// Writes the state.
    pub(super) fn save(&mut self) -> Result<()> {
        self.end_saving();
        self.monitor.lock().state = self.state.clone();
        Ok(self.state.write(&self.folder)?)
    }

    /// Writes the state as the machine is planned. The next state is written after it.
    fn start_saving(&mut self) -> Result<()> {
        self.monitor.lock().state = self.state.clone();
        let (state, folder) = (self.state.clone(), self.folder.clone());
        let write = move || {
            if let Err(error) = state.write(&folder) {
                background::complain(with_causes(&error));
            }
        };
        let thread = thread::Builder::new().name("state".to_owned());
        self.saving = Some(thread.spawn(write).map_err(Error::io("a thread"))?);
        Ok(())
    }

    fn end_saving(&mut self) {
        if let Some(saving) = self.saving.take() {
            // It has reported its error.
            let _ = saving.join();
        }
    }
}

/// Ends every process in the guest, unmounts its disk and waits for the machine's end. The machine
/// is killed if it does not end in time.
fn switch_off(session: &Arc<Session>, vm: &Arc<Vm>) -> Result<()> {
    let (done, result) = mpsc::channel();
    let (session, running) = (Arc::clone(session), Arc::clone(vm));
    background::thread("off", move || {
        let _ = done.send(session.shutdown(&running, GRACE));
    });
    let result = result.recv_timeout(GRACE + OFF_TIME);
    // Has no effect if the machine is off.
    vm.kill();
    let _ = vm.wait_timeout(Duration::from_secs(5));
    match result {
        Ok(result) => Ok(result?),
        Err(_) => Err(GuestError::NoAnswer {
            request: "shutdown",
            waited: GRACE + OFF_TIME,
        }
        .into()),
    }
}
