//! A sandbox's life, from the first boot to the last: the state machine of [`state`](blockbox_store::state).
//!
//! One thread, the process's first, boots, waits and switches off; it alone changes the state on disk. Clients' threads
//! leave what they want in [`Wishes`] and wake it up.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use blockbox_protocol::{ExecSpec, ExitStatus, WindowSize};

use super::client::Client;
use super::hub::{Feed, Hub, Log, Options};
use super::message::{self, Answer, Ask, Attach, Ended, Failure, FailureKind};
use super::socket;
use crate::boot::Plan;
use crate::error::{Error, Result};
use crate::log;
use crate::process;
use crate::{events, sandbox};
use blockbox_convert::image::Image;
use blockbox_store::spec::{Signal, Spec};
use blockbox_store::state::{Info, State, Status, now_ns};
use blockbox_store::{Lock, Store, remove as remove_tree};
use blockbox_vmm::Vm;
use blockbox_vmm::guest::{GuestError, Session};

/// How long the processes that the main command leaves behind have to end.
const GRACE: Duration = Duration::from_secs(1);

/// How long a killed main command may take to be gone before the machine is switched off under it.
const KILL_TIME: Duration = Duration::from_secs(10);

/// How long a machine may take to shut down cleanly, beyond [`GRACE`].
const OFF_TIME: Duration = Duration::from_secs(45);

/// The pause before the first restart; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause before a restart.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A main command that ran this long starts over with [`FIRST_PAUSE`].
const STABLE: Duration = Duration::from_secs(10);

/// How often the host's clock is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// How often the guest's clock is set at least.
const SET_CLOCK: Duration = Duration::from_secs(60);

/// How far the host's clock goes wrong before it has jumped.
const JUMP: Duration = Duration::from_secs(1);

/// How many clients may be connected at a time.
const CLIENTS: usize = 256;

/// How many commands may run at a time besides the main one.
const COMMANDS: usize = 512;

/// The terminal of a main command whose client has none.
const WINDOW_SIZE: WindowSize = WindowSize { rows: 24, cols: 80 };

/// What the threads of a monitor share.
#[derive(Debug)]
pub(super) struct Monitor {
    wishes: Mutex<Wishes>,
    changed: Condvar,
}

/// What clients want, and what they need to know for it.
#[derive(Debug, Default)]
struct Wishes {
    /// The state as it is on disk.
    state: State,
    clients: Vec<Arc<Client>>,
    /// Who waits for the end of the sandbox.
    waiting: Vec<(Arc<Client>, u32)>,
    /// The launcher asked to boot.
    boot: Option<(Arc<Client>, u32, Option<Box<Spec>>)>,
    /// The launcher asked to start the main command.
    start: Option<Start>,
    /// The main command has run: the sandbox is no longer the launcher's.
    launched: bool,
    /// The launcher left before the main command ran.
    abandoned: bool,
    stop: Option<Stop>,
    vm: Option<Arc<Vm>>,
    session: Option<Arc<Session>>,
    main: Option<Arc<Hub>>,
    main_input: bool,
    /// How the main command ended.
    main_over: Option<std::result::Result<ExitStatus, GuestError>>,
    /// Threads that copy commands' output.
    copying: usize,
    /// Threads that ask the guest something.
    looking: usize,
    /// A client wants the sandbox to have another name.
    rename: Option<(Arc<Client>, u32, String)>,
}

#[derive(Debug)]
struct Start {
    client: Arc<Client>,
    id: u32,
    attach: Option<Attach>,
}

#[derive(Clone, Copy, Debug)]
struct Stop {
    signal: Option<Signal>,
    timeout: Option<Duration>,
}

/// How a run of the machine ended.
struct RunEnd {
    status: Status,
    exit_code: Option<u8>,
    error: Option<String>,
    /// How long the main command ran; `None` where it never did.
    ran: Option<Duration>,
}

impl RunEnd {
    fn failed(error: &Error) -> Self {
        Self {
            status: Status::Failed,
            exit_code: None,
            error: Some(message::chain(error)),
            ran: None,
        }
    }
}

/// Runs a sandbox to its end.
pub(super) fn run(store: Store, lock: Lock, info: Info, launcher: UnixStream) -> Result<()> {
    let (listener, path) = socket::listen(&store, &info.spec.id)?;
    let monitor = Arc::new(Monitor {
        wishes: Mutex::default(),
        changed: Condvar::new(),
    });
    let mut life = Life {
        folder: store.sandbox(&info.spec.name),
        store,
        monitor: Arc::clone(&monitor),
        spec: info.spec,
        state: info.state,
        log: None,
        lock,
    };
    life.state.status = Status::Starting;
    life.state.socket = Some(path.clone());
    life.state.monitor_pid = Some(std::process::id());
    life.state.restarts = 0;
    life.state.error = None;
    life.save()?;

    watch_signals(&monitor);
    Client::serve(&monitor, launcher, true).map_err(Error::io(&path))?;
    let accepting = Arc::clone(&monitor);
    super::thread("accept", move || {
        while let Ok((socket, _)) = listener.accept() {
            accepting.accept(socket);
        }
    });

    let ended = life.live();
    let removed = life.state.discard;
    let saved = if removed {
        events::note(&life.store, &life.spec, "remove", &[]);
        remove_tree(&life.folder).map_err(Error::from)
    } else {
        life.save()
    };
    // Nobody finds this monitor from here on; then the next may come.
    let _ = fs::remove_file(&path);
    drop(life);
    monitor.report(&Ended { removed, ..ended });
    monitor.finish();
    saved
}

/// A signal to the monitor itself, at the end of a user's session or of the host's day, stops the sandbox.
fn watch_signals(monitor: &Arc<Monitor>) {
    use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM};

    let signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM]);
    let Ok(mut signals) = signals else { return };
    let monitor = Arc::clone(monitor);
    super::thread("signals", move || {
        for signal in &mut signals {
            // There is no terminal to hang up.
            if signal != SIGHUP {
                monitor.stop(Stop {
                    signal: None,
                    timeout: None,
                });
            }
        }
    });
}

/// What only the first thread has.
struct Life {
    store: Store,
    folder: PathBuf,
    monitor: Arc<Monitor>,
    spec: Spec,
    state: State,
    log: Option<Arc<Mutex<log::Writer>>>,
    lock: Lock,
}

impl Life {
    /// Runs the machine until no policy starts it again.
    fn live(&mut self) -> Ended {
        let mut pause = FIRST_PAUSE;
        let mut first = true;
        loop {
            let end = self.run_once(first);
            first = false;
            let stopped = {
                let wishes = self.monitor.lock();
                wishes.stop.is_some() || wishes.abandoned
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
                eprintln!("blockbox: {error}");
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
        let mut boot = None;
        if first {
            match self.monitor.wait_boot() {
                Some((client, id, spec)) => {
                    if let Some(spec) = spec {
                        self.spec = *spec;
                    }
                    boot = Some((client, id));
                }
                None => return self.never_ran(None),
            }
        }
        let booted = self.boot(boot.as_ref().map(|(client, _)| client));
        let (vm, session) = match booted {
            Ok(booted) => booted,
            Err(error) => {
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
            client.answer(id, &Ok(Answer::Done));
        }
        let end = self.run_main(first, &session);
        self.monitor.lock().session = None;
        self.state.status = Status::Stopping;
        if let Err(error) = self.save() {
            eprintln!("blockbox: {error}");
        }
        let off = switch_off(&session, &vm);
        self.monitor.lock().vm = None;
        match (end, off) {
            (Ok(end), Ok(())) => end,
            (Ok(end), Err(error)) => RunEnd {
                error: end.error.or(Some(message::chain(&error))),
                ..end
            },
            (Err(error), _) => {
                let ran = self.monitor.lock().launched;
                RunEnd {
                    ran: ran.then_some(Duration::ZERO),
                    ..RunEnd::failed(&error)
                }
            }
        }
    }

    /// The end of a run without a main command. A sandbox that was made for one is not kept.
    fn never_ran(&mut self, error: Option<&Error>) -> RunEnd {
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

    /// Boots the machine. Ends with an error as soon as a client stops the sandbox.
    fn boot(&mut self, waiting: Option<&Arc<Client>>) -> Result<(Arc<Vm>, Arc<Session>)> {
        let notice = |text: &str| {
            if let Some(client) = waiting {
                client.notice(text);
            }
        };
        let digest = self.spec.image.manifest_digest.parse();
        let digest = digest.map_err(blockbox_convert::Error::from)?;
        let image = Image::open(&self.store, &digest)?
            .ok_or_else(|| blockbox_convert::Error::NoImage(self.spec.image.asked.clone()))?;
        if self.spec.process.is_none() {
            let config = image.config().config().as_ref();
            self.spec.process = Some(process::resolve(config, process::Overrides::default())?);
        }
        let plan = self.interruptibly({
            let (store, folder, spec) =
                (self.store.clone(), self.folder.clone(), self.spec.clone());
            let notified = waiting.cloned();
            move || {
                Plan::new(&store, &folder, &spec, &image, &|text| {
                    if let Some(client) = &notified {
                        client.notice(text);
                    }
                })
            }
        })?;
        notice(&format!("booting the guest with {}", plan.vmm()));
        let vm = Arc::new(plan.start()?);
        self.state.vmm = Some(plan.vmm().to_string());
        {
            let mut wishes = self.monitor.lock();
            wishes.vm = Some(Arc::clone(&vm));
            if wishes.stop.is_some() || wishes.abandoned {
                vm.kill();
            }
        }
        let session = Arc::new(plan.connect(&vm)?);
        self.monitor.lock().session = Some(Arc::clone(&session));
        Ok((vm, session))
    }

    /// Runs what may take long in another thread, and gives up on it when a client stops the sandbox. What the thread has
    /// started then ends with this process.
    fn interruptibly<T: Send + 'static>(
        &self,
        run: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (done, result) = mpsc::channel();
        let monitor = Arc::clone(&self.monitor);
        // What it does may need more room than a monitor's threads have.
        thread::spawn(move || {
            // The receiver has gone when nobody waits any more.
            let _ = done.send(run());
            monitor.wake();
        });
        let mut wishes = self.monitor.lock();
        loop {
            match result.try_recv() {
                Ok(result) => return result,
                Err(mpsc::TryRecvError::Disconnected) => return Err(Error::Interrupted),
                Err(mpsc::TryRecvError::Empty) => {}
            }
            if wishes.stop.is_some() || wishes.abandoned {
                return Err(Error::Interrupted);
            }
            wishes = self.monitor.wait(wishes, Duration::from_secs(1));
        }
    }

    /// Starts the main command when the launcher asks for it, and waits for its end.
    fn run_main(&mut self, first: bool, session: &Arc<Session>) -> Result<RunEnd> {
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
        let input = process.stdin || attach.is_some_and(|attach| attach.stdin);
        let (hub, feed) = Hub::new(Options {
            tty: process.tty,
            owned: attach.is_some(),
        });
        if let Some(Start { client, id, .. }) =
            start.as_ref().filter(|start| start.attach.is_some())
            && let Some(refusal) = client.attach(&hub, *id, input)
        {
            client.answer(*id, &Err(Failure::new(FailureKind::Other, refusal)));
        }
        let spec = process::exec_spec(&process, tty, input);
        let exec = match session.exec(&spec) {
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
                hub.failed(125, &error.to_string());
                if let Some(Start {
                    client,
                    id,
                    attach: None,
                }) = &start
                {
                    client.answer(*id, &Err(Failure::other(&error)));
                }
                return Err(error.into());
            }
        };
        let started = Instant::now();
        self.state.status = Status::Running;
        self.state.started_ns = Some(now_ns());
        self.state.finished_ns = None;
        self.state.exit_code = None;
        self.state.discard = self.spec.remove_on_exit;
        let log = self.open_log();
        {
            let mut wishes = self.monitor.lock();
            wishes.main = Some(Arc::clone(&hub));
            wishes.main_input = input;
            wishes.main_over = None;
            wishes.launched = true;
            wishes.copying += 1;
        }
        self.save()?;
        events::note(&self.store, &self.spec, "start", &[]);
        let monitor = Arc::clone(&self.monitor);
        let running = Arc::clone(&hub);
        super::thread("main", move || {
            let result = running.run(exec, feed, log);
            let mut wishes = monitor.lock();
            wishes.main_over = Some(result);
            wishes.copying -= 1;
            monitor.changed.notify_all();
        });
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
            // The machine was switched off under a command that did not end.
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

    /// Waits for the end of the main command, and helps it along when a client stops the sandbox or time is up.
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
        let mut wishes = self.monitor.lock();
        loop {
            if let Some(over) = wishes.main_over.take() {
                return over;
            }
            if let Some((client, id, name)) = wishes.rename.take() {
                drop(wishes);
                let renamed = self.rename(&name).map(|()| Answer::Done);
                client.answer(id, &renamed.map_err(|error| failure(&error)));
                wishes = self.monitor.lock();
                continue;
            }
            clock.look(session);
            let now = Instant::now();
            if ends.is_some_and(|ends| now >= ends) && wishes.stop.is_none() {
                wishes.stop = Some(Stop {
                    signal: None,
                    timeout: None,
                });
            }
            escalation = match (escalation, wishes.stop) {
                (Escalation::Running, Some(stop)) => {
                    let signal = stop.signal.unwrap_or(process.stop_signal());
                    send(hub, signal);
                    let timeout = stop.timeout.unwrap_or(process.stop_timeout());
                    wishes.state.status = Status::Stopping;
                    Escalation::Asked(now.checked_add(timeout))
                }
                // A later stop may be less patient.
                (Escalation::Asked(until), Some(stop)) => {
                    let limit = stop.timeout.and_then(|timeout| now.checked_add(timeout));
                    let until = match (until, limit) {
                        (Some(until), Some(limit)) => Some(until.min(limit)),
                        (until, limit) => until.or(limit),
                    };
                    if until.is_some_and(|until| now >= until) {
                        send(hub, Signal::KILL);
                        Escalation::Killed(now + KILL_TIME)
                    } else {
                        Escalation::Asked(until)
                    }
                }
                (Escalation::Killed(until), _) if now >= until => {
                    if let Some(vm) = &wishes.vm {
                        vm.kill();
                    }
                    // Whoever copies its output may be held up by a client.
                    return wishes.main_over.take().unwrap_or(Ok(ExitStatus::Signal(9)));
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
            wishes = self.monitor.wait(wishes, wait);
        }
    }

    /// Gives the sandbox another name.
    fn rename(&mut self, name: &str) -> Result<()> {
        let lock = sandbox::rename(&self.store, &self.spec, name)?;
        self.folder = self.store.sandbox(name);
        // The name is free from here on.
        self.lock = lock;
        let old = std::mem::replace(&mut self.spec.name, name.to_owned());
        if let Some(log) = &self.log {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.moved(&self.folder);
        }
        events::note(&self.store, &self.spec, "rename", &[("old_name", old)]);
        Ok(())
    }

    /// The log of the main command. A disk that has no room for one is no reason not to run.
    fn open_log(&mut self) -> Option<Log> {
        if self.log.is_none() {
            match log::Writer::open(&self.folder) {
                Ok(writer) => self.log = Some(Arc::new(Mutex::new(writer))),
                Err(error) => eprintln!("blockbox: the sandbox's log cannot be opened: {error}"),
            }
        }
        self.log.clone().map(Log::new)
    }

    /// Writes the state.
    fn save(&self) -> Result<()> {
        self.monitor.lock().state = self.state.clone();
        Ok(self.state.write(&self.folder)?)
    }
}

/// Keeps the guest's clock with the host's.
struct Clock {
    set: Instant,
    /// The host's two clocks when they were last looked at: only one goes on while the host sleeps.
    looked: (Instant, SystemTime),
}

impl Clock {
    fn new() -> Self {
        Self {
            set: Instant::now(),
            looked: (Instant::now(), SystemTime::now()),
        }
    }

    /// Sets the guest's clock where a minute has passed, or the host's clock jumped.
    fn look(&mut self, session: &Arc<Session>) {
        let now = (Instant::now(), SystemTime::now());
        let passed = now.0.saturating_duration_since(self.looked.0);
        let jumped = match now.1.duration_since(self.looked.1) {
            Ok(shown) => shown.abs_diff(passed) > JUMP,
            // Backwards.
            Err(_) => true,
        };
        self.looked = now;
        if !jumped && now.0.saturating_duration_since(self.set) < SET_CLOCK {
            return;
        }
        self.set = now.0;
        let session = Arc::clone(session);
        super::thread("clock", move || {
            if let Err(error) = session.set_clock() {
                tracing::debug!("the guest's clock cannot be set: {error}");
            }
        });
    }
}

/// What a client makes of an error.
fn failure(error: &Error) -> Failure {
    match error {
        Error::SandboxExists(_) => Failure::new(FailureKind::Exists, error.to_string()),
        _ => Failure::other(error),
    }
}

/// How far the end of the main command has been pressed for.
#[derive(Clone, Copy)]
enum Escalation {
    Running,
    /// The stop signal was sent; SIGKILL follows then, if ever.
    Asked(Option<Instant>),
    /// SIGKILL was sent; the machine is switched off then.
    Killed(Instant),
}

/// Sends a signal without waiting for the guest to take it, which may be never.
fn send(hub: &Arc<Hub>, signal: Signal) {
    if let Some(control) = hub.control() {
        super::thread("signal", move || {
            // A guest that is gone has nobody to signal.
            let _ = control.signal(signal.number());
        });
    }
}

/// Ends every process in the guest, unmounts its disk and waits for the machine's end, which comes in any case.
fn switch_off(session: &Arc<Session>, vm: &Arc<Vm>) -> Result<()> {
    let (done, result) = mpsc::channel();
    let (session, running) = (Arc::clone(session), Arc::clone(vm));
    super::thread("off", move || {
        let _ = done.send(session.shutdown(&running, GRACE));
    });
    let result = result.recv_timeout(GRACE + OFF_TIME);
    // No more than a formality where it is off.
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

impl Monitor {
    fn accept(self: &Arc<Self>, socket: UnixStream) {
        if !socket::is_allowed(&socket) || self.lock().clients.len() >= CLIENTS {
            return;
        }
        if let Err(error) = Client::serve(self, socket, false) {
            eprintln!("blockbox: a client cannot be served: {error}");
        }
    }

    /// A client has connected.
    pub(super) fn client_came(&self, client: &Arc<Client>) {
        self.lock().clients.push(Arc::clone(client));
    }

    /// A client's connection has ended.
    pub(super) fn client_left(&self, client: &Arc<Client>) {
        let mut wishes = self.lock();
        wishes.clients.retain(|other| !Arc::ptr_eq(other, client));
        wishes
            .waiting
            .retain(|(other, _)| !Arc::ptr_eq(other, client));
        if client.launcher && !wishes.launched {
            wishes.abandoned = true;
            if let Some(vm) = &wishes.vm {
                vm.kill();
            }
        }
        self.changed.notify_all();
    }

    /// Answers a question, or sees to it that it is answered.
    pub(super) fn asked(self: &Arc<Self>, client: &Arc<Client>, id: u32, ask: Ask) {
        let fail = |kind, text: &str| client.answer(id, &Err(Failure::new(kind, text)));
        match ask {
            Ask::Hello { .. } => {
                let version = message::VERSION;
                client.answer(id, &Ok(Answer::Hello { version }));
            }
            Ask::Boot { spec } if client.launcher => {
                self.lock().boot = Some((Arc::clone(client), id, spec));
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
                "only the process that starts a sandbox asks for that",
            ),
            Ask::Attach(attach) => {
                let (main, input) = {
                    let wishes = self.lock();
                    (wishes.main.clone(), wishes.main_input && attach.stdin)
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
                            // Its end is wanted: no policy starts it again.
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
            Ask::Rename { name } => {
                let mut wishes = self.lock();
                if wishes.main.is_none() || wishes.rename.is_some() {
                    drop(wishes);
                    return fail(
                        FailureKind::NotRunning,
                        "a sandbox cannot be renamed while it starts or stops",
                    );
                }
                wishes.rename = Some((Arc::clone(client), id, name));
                self.changed.notify_all();
            }
            Ask::State => {
                let state = self.lock().state.clone();
                client.answer(id, &Ok(Answer::State(state)));
            }
        }
    }

    /// Asks the guest something in a thread of its own, for a client.
    fn look(
        self: &Arc<Self>,
        client: &Arc<Client>,
        id: u32,
        ask: impl FnOnce(&Session) -> std::result::Result<Answer, GuestError> + Send + 'static,
    ) {
        let session = {
            let mut wishes = self.lock();
            let busy = wishes.looking >= COMMANDS;
            let session = wishes.session.clone().filter(|_| !busy);
            wishes.looking += usize::from(session.is_some());
            session
        };
        let Some(session) = session else {
            let failure = Failure::new(FailureKind::NotRunning, "the sandbox is not running");
            return client.answer(id, &Err(failure));
        };
        let (monitor, client) = (Arc::clone(self), Arc::clone(client));
        super::thread("look", move || {
            let outcome = ask(&session).map_err(|error| Failure::other(&error));
            client.answer(id, &outcome);
            monitor.lock().looking -= 1;
        });
    }

    /// Runs a command of a client's.
    pub(super) fn exec(self: &Arc<Self>, hub: Arc<Hub>, feed: Feed, spec: ExecSpec) {
        let session = {
            let mut wishes = self.lock();
            let running = wishes.main.is_some();
            match wishes.session.clone().filter(|_| running) {
                None => {
                    drop(wishes);
                    return hub.failed(125, "the sandbox is not running");
                }
                Some(_) if wishes.copying > COMMANDS => {
                    drop(wishes);
                    return hub.failed(126, "too many commands run in the sandbox");
                }
                Some(session) => {
                    wishes.copying += 1;
                    session
                }
            }
        };
        let monitor = Arc::clone(self);
        super::thread("command", move || {
            match session.exec(&spec) {
                // A machine that is lost is the main command's to report.
                Ok(exec) => drop(hub.run(exec, feed, None)),
                Err(GuestError::SpawnFailed { code, message }) => hub.failed(code, &message),
                Err(error) => hub.failed(125, &error.to_string()),
            }
            monitor.lock().copying -= 1;
            monitor.changed.notify_all();
        });
    }

    /// The sandbox is to end.
    fn stop(&self, stop: Stop) {
        let mut wishes = self.lock();
        let impatient = |old: Stop| Stop {
            signal: old.signal,
            timeout: match (old.timeout, stop.timeout) {
                (Some(old), Some(new)) => Some(old.min(new)),
                (old, new) => new.or(old),
            },
        };
        wishes.stop = Some(wishes.stop.map_or(stop, impatient));
        // Nothing in a guest that boots is worth waiting for.
        if wishes.main.is_none()
            && wishes.state.status == Status::Starting
            && let Some(vm) = &wishes.vm
        {
            vm.kill();
        }
        self.changed.notify_all();
    }

    fn is_stopped(&self) -> bool {
        let wishes = self.lock();
        wishes.stop.is_some() || wishes.abandoned
    }

    /// Waits until the launcher asks to boot; `None` when it left or the sandbox was stopped.
    fn wait_boot(&self) -> Option<(Arc<Client>, u32, Option<Box<Spec>>)> {
        let mut wishes = self.lock();
        loop {
            if wishes.stop.is_some() || wishes.abandoned {
                return None;
            }
            if let Some(boot) = wishes.boot.take() {
                return Some(boot);
            }
            wishes = self.wait(wishes, Duration::from_secs(60));
        }
    }

    /// Waits until the launcher starts the main command; `None` when it left or the sandbox was stopped.
    fn wait_start(&self) -> Result<Option<Start>> {
        let mut wishes = self.lock();
        loop {
            if wishes.stop.is_some() || wishes.abandoned {
                return Ok(None);
            }
            if let Some(start) = wishes.start.take() {
                return Ok(Some(start));
            }
            wishes = self.wait(wishes, Duration::from_secs(60));
        }
    }

    /// Pauses before a restart. True when the sandbox was stopped meanwhile.
    fn pause(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        let mut wishes = self.lock();
        loop {
            if wishes.stop.is_some() {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            wishes = self.wait(wishes, left);
        }
    }

    /// Answers everyone who waits for the end of the sandbox.
    fn report(&self, ended: &Ended) {
        let waiting = std::mem::take(&mut self.lock().waiting);
        for (client, id) in waiting {
            client.answer(id, &Ok(Answer::Ended(ended.clone())));
        }
    }

    /// Waits until every client has taken what is left for it, or has gone.
    fn finish(&self) {
        let mut wishes = self.lock();
        while wishes.copying > 0 {
            wishes = self.wait(wishes, Duration::from_secs(60));
        }
        let clients = std::mem::take(&mut wishes.clients);
        drop(wishes);
        for client in &clients {
            client.close();
        }
        for client in &clients {
            client.wait_closed();
        }
    }

    fn wake(&self) {
        // Under the lock, so that nobody misses it between looking and waiting.
        let _wishes = self.lock();
        self.changed.notify_all();
    }

    fn wait<'a>(
        &self,
        wishes: MutexGuard<'a, Wishes>,
        timeout: Duration,
    ) -> MutexGuard<'a, Wishes> {
        self.changed
            .wait_timeout(wishes, timeout)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    fn lock(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
