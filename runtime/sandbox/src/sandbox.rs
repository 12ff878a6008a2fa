//! Sandboxes: making, starting, using and stopping them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use blockbox_store::spec::{ImageSource, Signal, Spec};
use blockbox_store::state::{self, Info, State, Status};
use blockbox_store::{Listing, Lock, Store, remove as remove_tree};
use blockbox_vmm::guest::{Connection, GuestError};

use crate::child::Child;
use crate::error::{Error, Result};
use crate::exec::ExecOptions;
use crate::monitor::message::{self, Answer, Ask, Attach};
use crate::monitor::{Ended, socket};
use crate::name::{check_name, check_unused_name, claim};
use crate::question::{FOR_EVER, ask, encode, unexpected};
use crate::stats::{ProcessInfo, Stats};
use crate::{events, log};

/// How long to wait for a monitor that is starting or ending.
const TRANSITION: Duration = Duration::from_secs(10);

/// How long another process may hold a stopped sandbox, to read or repair it.
const GLANCE: Duration = Duration::from_secs(2);

/// The pause between two checks of a sandbox in transition.
const PAUSE: Duration = Duration::from_millis(5);

/// The longest wait for an answer that a working monitor gives at once.
const ANSWER: Duration = Duration::from_secs(30);

/// A sandbox in a store. This is a name, not a lock: any number of values, in any number of
/// processes, may refer to the same sandbox.
///
/// Every method blocks. From asynchronous code, call them where blocking is allowed
/// (`tokio::task::spawn_blocking`), and cancel from another thread:
/// [`Canceller`](crate::Canceller), [`Detacher`](crate::Detacher), [`Sandbox::kill`].
#[derive(Clone, Debug)]
pub struct Sandbox {
    store: Store,
    name: String,
}

impl Sandbox {
    pub(crate) fn new(store: Store, name: String) -> Self {
        Self { store, name }
    }

    /// Opens the sandbox with this name, or with an id that begins with `name` and is the only such
    /// id. A sandbox whose records are damaged is opened, too, so that it can be
    /// [removed](Self::remove); other methods return the error of reading the records.
    ///
    /// # Errors
    ///
    /// [`Error::NoSandbox`].
    pub fn open(store: &Store, name: &str) -> Result<Self> {
        let missing = || Error::NoSandbox(name.to_owned());
        if check_name(name).is_ok() {
            match state::reconcile(store, name) {
                Ok(None) => {}
                Err(error) if !error.is_record() => return Err(error.into()),
                Ok(Some(_)) | Err(_) => return Ok(Self::new(store.clone(), name.to_owned())),
            }
        }
        if name.is_empty() {
            return Err(missing());
        }
        let mut found = Spec::list(store)?
            .found
            .into_iter()
            .filter(|spec| spec.id.starts_with(name));
        match (found.next(), found.next()) {
            (Some(spec), None) => {
                state::reconcile(store, &spec.name)?.ok_or_else(missing)?;
                Ok(Self::new(store.clone(), spec.name))
            }
            _ => Err(missing()),
        }
    }

    /// Returns all sandboxes by name, with their current state. Remains of killed processes are
    /// repaired or removed first.
    ///
    /// # Errors
    ///
    /// If the folder of sandboxes cannot be read.
    pub fn list(store: &Store) -> Result<Listing<Info>> {
        Ok(state::list(store)?)
    }

    /// Returns the store that the sandbox is in.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the sandbox's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the sandbox's specification and its current state.
    ///
    /// # Errors
    ///
    /// [`Error::NoSandbox`] if it was removed.
    pub fn info(&self) -> Result<Info> {
        let missing = || Error::NoSandbox(self.name.clone());
        state::reconcile(&self.store, &self.name)?.ok_or_else(missing)
    }

    /// Returns the path of the writable disk.
    pub(crate) fn upper(&self) -> PathBuf {
        self.store.sandbox(&self.name).join(blockbox_store::UPPER)
    }

    /// Returns the bytes that the sandbox's writable disk takes on the host; 0 if it has no such
    /// disk.
    ///
    /// # Errors
    ///
    /// If the disk is gone.
    pub fn allocated_bytes(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;

        let folder = self.store.sandbox(&self.name);
        let path = folder.join(blockbox_store::UPPER);
        let meta = match std::fs::metadata(&path) {
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound
                    && Spec::read(&folder)?.is_some_and(|spec| spec.diskless) =>
            {
                return Ok(0);
            }
            found => found.map_err(Error::io(&path))?,
        };
        Ok(meta.blocks() * 512)
    }

    /// Returns whether the guest accepts requests.
    pub(crate) fn is_up(&self) -> Result<bool> {
        Ok(self.connect()?.is_some())
    }

    /// Locks the sandbox.
    pub(crate) fn take(&self) -> Result<(Lock, Info)> {
        let folder = self.store.sandbox(&self.name);
        let missing = || Error::NoSandbox(self.name.clone());
        let started = Instant::now();
        loop {
            if let Some(lock) = self.store.lock_sandbox(&self.name)? {
                let info = state::repair(&folder, &lock)?.ok_or_else(missing)?;
                return Ok((lock, info));
            }
            // The state of a running sandbox may be damaged.
            let active = State::read(&folder).map_or(true, |state| state.status.is_active());
            let patience = if active { GLANCE / 10 } else { GLANCE };
            if started.elapsed() >= patience {
                return Err(Error::SandboxRunning(self.name.clone()));
            }
            sleep(PAUSE);
        }
    }

    /// Runs a command in the running sandbox. Any number of commands may run at a time.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`]; [`GuestError::SpawnFailed`], with docker's exit code, if the command
    /// cannot be started.
    pub fn exec(&self, options: &ExecOptions) -> Result<Child> {
        let main = self.info()?.spec.process.unwrap_or_default();
        let connection = Arc::new(self.running()?);
        if let Some(folder) = options.own_workdir() {
            self.check_workdir(folder)?;
        }
        let exec = connection.exec(&options.spec(&main))?;
        Ok(Child::new(exec, connection))
    }

    /// Checks that the working directory of a command exists in the guest. Otherwise init would
    /// create it, as it does for the main command.
    fn check_workdir(&self, path: &OsStr) -> Result<()> {
        let reason = match self.stat(path.as_bytes(), true)? {
            Some(stat) if stat.is_directory() => return Ok(()),
            Some(_) => "not a directory",
            None => "no such file or directory",
        };
        let message = format!("working directory {}: {reason}", path.display());
        Err(GuestError::SpawnFailed { code: 126, message }.into())
    }

    /// Attaches to the streams of the running sandbox's main command.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`].
    pub fn attach(&self, stdin: bool) -> Result<Child> {
        let connection = Arc::new(self.running()?);
        let ask = Ask::Attach(Attach { stdin, size: None });
        let exec = connection.open(stdin, encode(&ask))?;
        Ok(Child::new(exec, connection))
    }

    /// Returns a reader of the main command's output, beginning with the oldest that is kept.
    ///
    /// # Errors
    ///
    /// If the log cannot be read.
    pub fn logs(&self) -> Result<log::Reader> {
        let folder = self.store.sandbox(&self.name);
        log::Reader::open(&folder).map_err(Error::io(&folder))
    }

    /// Sends a signal to the main command of the running sandbox. After SIGKILL no restart policy
    /// restarts it.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`].
    pub fn kill(&self, signal: Signal) -> Result<()> {
        let connection = self.running()?;
        match ask(&connection, &Ask::Kill { signal }, ANSWER)? {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Stops the sandbox: its main command gets its stop signal (or `signal`), and after its stop
    /// timeout (or `timeout`) SIGKILL; then the machine shuts down. Returns when the sandbox is
    /// down, or at once if it is not up.
    ///
    /// # Errors
    ///
    /// [`Error::NoSandbox`].
    pub fn stop(&self, signal: Option<Signal>, timeout: Option<Duration>) -> Result<Ended> {
        let timeout_ms = timeout.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
        self.until_ended(&Ask::Stop { signal, timeout_ms })
    }

    /// Waits until the main command has ended and its machine is off; returns at once if the
    /// sandbox is not up.
    ///
    /// # Errors
    ///
    /// [`Error::NoSandbox`].
    pub fn wait(&self) -> Result<Ended> {
        self.until_ended(&Ask::Wait)
    }

    fn until_ended(&self, question: &Ask) -> Result<Ended> {
        loop {
            let Some(connection) = self.connect()? else {
                let State {
                    status,
                    exit_code,
                    error,
                    ..
                } = self.info()?.state;
                return Ok(Ended {
                    status,
                    exit_code,
                    error,
                    removed: false,
                    restarts: false,
                });
            };
            match ask(&connection, question, FOR_EVER) {
                Ok(Answer::Ended(ended)) => return Ok(ended),
                Ok(other) => return Err(unexpected(&other)),
                // The monitor was killed, or has just ended: the records hold the sandbox's state.
                Err(Error::Guest(GuestError::MonitorLost)) => sleep(PAUSE),
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes the sandbox and its files. With `force`, a running sandbox is killed first, and one
    /// whose records are damaged is removed.
    ///
    /// # Errors
    ///
    /// [`Error::SandboxRunning`], [`Error::NoSandbox`]; without `force`, the error of reading a
    /// damaged record.
    pub fn remove(&self, force: bool) -> Result<()> {
        let missing = || Error::NoSandbox(self.name.clone());
        let started = Instant::now();
        loop {
            match self.take() {
                Ok((_lock, info)) => {
                    remove_tree(&self.store.sandbox(&self.name))?;
                    events::note(&self.store, &info.spec, "remove", &[]);
                    return Ok(());
                }
                Err(Error::SandboxRunning(_)) if force && started.elapsed() < TRANSITION * 6 => {
                    let ended = self.stop(Some(Signal::KILL), Some(Duration::ZERO));
                    match ended {
                        // It was made to be removed at its end.
                        Ok(Ended { removed: true, .. }) => return Ok(()),
                        Err(Error::NoSandbox(_)) => return Err(missing()),
                        ended => ended?,
                    };
                }
                Err(Error::Store(error)) if force && error.is_record() => {
                    return self.remove_damaged();
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes a sandbox whose records cannot be read.
    fn remove_damaged(&self) -> Result<()> {
        let running = || Error::SandboxRunning(self.name.clone());
        let _lock = self.store.lock_sandbox(&self.name)?.ok_or_else(running)?;
        remove_tree(&self.store.sandbox(&self.name))?;
        let spec = Spec::new(self.name.clone(), ImageSource::new("", String::new()));
        events::note(&self.store, &spec, "remove", &[]);
        Ok(())
    }

    /// Returns the resources that the running sandbox uses.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`].
    pub fn stats(&self) -> Result<Stats> {
        match ask(&self.running()?, &Ask::Stats, ANSWER)? {
            Answer::Stats(stats) => Ok(stats),
            other => Err(unexpected(&other)),
        }
    }

    /// Returns the processes of the running sandbox, without the kernel's and init.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`].
    pub fn processes(&self) -> Result<Vec<ProcessInfo>> {
        match ask(&self.running()?, &Ask::Processes, ANSWER)? {
            Answer::Processes { processes } => Ok(processes),
            other => Err(unexpected(&other)),
        }
    }

    /// Returns the network activity of the running sandbox.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`]; if it has no network.
    pub fn network(&self) -> Result<blockbox_net::Status> {
        match ask(&self.running()?, &Ask::Network, ANSWER)? {
            Answer::Network(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    /// Renames the sandbox, running or not. This value then has the new name.
    ///
    /// # Errors
    ///
    /// [`Error::SandboxName`], [`Error::SandboxExists`].
    pub fn rename(&mut self, name: &str) -> Result<()> {
        check_unused_name(name)?;
        match self.take() {
            Ok((_lock, info)) => {
                let old = info.spec.name.clone();
                let _new_lock = rename(&self.store, &info.spec, name)?;
                let mut spec = info.spec;
                spec.name = name.to_owned();
                events::note(&self.store, &spec, "rename", &[("old_name", old)]);
            }
            Err(Error::SandboxRunning(_)) => {
                let name = name.to_owned();
                match ask(&self.running()?, &Ask::Rename { name }, ANSWER)? {
                    Answer::Done => {}
                    other => return Err(unexpected(&other)),
                }
            }
            Err(error) => return Err(error),
        }
        self.name = name.to_owned();
        Ok(())
    }

    /// Connects to the monitor of a sandbox that is up.
    pub(crate) fn running(&self) -> Result<Connection> {
        let not_running = || Error::NotRunning(self.name.clone());
        self.connect()?.ok_or_else(not_running)
    }

    /// Connects to the sandbox's monitor; `None` if the sandbox is not up.
    pub(crate) fn connect(&self) -> Result<Option<Connection>> {
        let started = Instant::now();
        loop {
            let state = self.state()?;
            if !state.status.is_active() {
                return Ok(None);
            }
            if let Some(path) = &state.socket
                && let Some(socket) = socket::connect(path)?
            {
                let connection = Connection::new(socket)?;
                match self.greet(&connection) {
                    Err(Error::Guest(GuestError::MonitorLost)) => {}
                    greeted => return greeted.map(|()| Some(connection)),
                }
            }
            // A monitor releases its lock shortly after it removes its socket.
            if started.elapsed() >= TRANSITION {
                return Err(Error::SandboxRunning(self.name.clone()));
            }
            sleep(PAUSE);
        }
    }

    /// Returns the sandbox's state. If a record was damaged while the sandbox runs, the other one
    /// leads to the monitor.
    fn state(&self) -> Result<State> {
        let damage = match self.info() {
            Err(Error::Store(damage)) if damage.is_record() => damage,
            info => return Ok(info?.state),
        };
        if self.store.lock_sandbox(&self.name)?.is_some() {
            return Err(damage.into());
        }
        let folder = self.store.sandbox(&self.name);
        match (State::read(&folder), Spec::read(&folder)) {
            (Ok(state), _) => Ok(state),
            (Err(_), Ok(Some(spec))) => {
                let mut state = State::created(false);
                state.status = Status::Running;
                state.socket = Some(socket::path(&self.store, &spec.id)?);
                Ok(state)
            }
            _ => Err(damage.into()),
        }
    }

    fn greet(&self, connection: &Connection) -> Result<()> {
        let ours = message::VERSION;
        match ask(connection, &Ask::Hello { version: ours }, ANSWER)? {
            Answer::Hello { version } if version == ours => Ok(()),
            Answer::Hello { version: theirs } => Err(Error::MonitorVersion {
                name: self.name.clone(),
                theirs,
                ours,
            }),
            other => Err(unexpected(&other)),
        }
    }
}

/// Renames a sandbox, whose lock the caller holds, and returns the lock of the new name.
pub(crate) fn rename(store: &Store, spec: &Spec, name: &str) -> Result<Lock> {
    check_name(name)?;
    // A sandbox that was to be removed already does not keep the name.
    state::reconcile(store, name)?;
    let lock = claim(store, name)?;
    let folder = store.sandbox(name);
    // The folder's name is the sandbox's name, so this rename is atomic.
    let old = store.sandbox(&spec.name);
    std::fs::rename(&old, &folder).map_err(Error::io(&old))?;
    let mut spec = spec.clone();
    spec.name = name.to_owned();
    // The record's own name is only for people who read it. If it cannot be written, as on a full
    // disk, the sandbox keeps its name.
    if let Err(error) = spec.write(&folder)
        && std::fs::rename(&folder, &old).is_ok()
    {
        return Err(error.into());
    }
    Ok(lock)
}
