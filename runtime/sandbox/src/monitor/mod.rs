//! The process that a running sandbox lives in.
//!
//! A monitor is started by the process that starts the sandbox, through the
//! [helper](blockbox_vmm::helper) executable, and outlives it: in a session of its own, without a
//! terminal, in no folder that anybody might want to unmount. It holds the sandbox's lock, which it
//! inherits, so the sandbox has an owner at every moment. It owns
//!
//! - the virtual machine, and the [gateway](crate::network) of its network: children that end when
//!   the monitor does, however it ends;
//! - the [state](blockbox_store::state) on disk, and the [log](crate::log) of the main command;
//! - a socket, over which any number of clients run commands, attach, wait and stop. Frames are
//!   those of the guest's protocol ([`blockbox_protocol`]); whatever init does not know is a
//!   [question](message).
//!
//! The first client is the process that started it, on a socket that it inherits. Where that client
//! leaves before the main command runs, the monitor switches the machine off again and ends.

mod client;
mod clock;
mod connection;
mod disk_full;
mod disk_watch;
mod failure;
mod hold;
mod hub;
pub(crate) mod launch;
mod lifecycle;
mod main_command;
pub(crate) mod message;
mod on_fork;
mod save;
mod shared;
pub(crate) mod socket;

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

pub use message::Ended;

use blockbox_protocol::{Decoder, Envelope};
use blockbox_vmm::with_causes;

use message::{Failure, Outcome};

use crate::background::complain;
use crate::error::{Error, Result};
use blockbox_store::state;
use blockbox_store::{Lock, Store};

/// How long the client of a monitor that cannot run may take to ask.
const REFUSAL: Duration = Duration::from_secs(5);

/// If this process was started as a sandbox's monitor, runs it as that; otherwise returns `None` at
/// once. Call it first in `main`, as
/// [`vmm::helper::run_if_asked`](blockbox_vmm::helper::run_if_asked).
pub(crate) fn run_if_asked() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != launch::SUBCOMMAND {
        return None;
    }
    Some(match run(args.next(), args.next()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(with_causes(&error));
            ExitCode::FAILURE
        }
    })
}

fn run(root: Option<OsString>, name: Option<OsString>) -> Result<()> {
    let root = PathBuf::from(root.unwrap_or_default());
    let name = name.unwrap_or_default().to_string_lossy().into_owned();
    // From now on, this process gets no signals that are sent to its parent's process group or
    // terminal.
    let _ = rustix::process::setsid();
    let (lock, launcher) = inherited().map_err(Error::io(&root))?;
    let refusing = launcher.try_clone();
    let live = move || {
        let store = Store::open(root)?;
        let held = || Error::SandboxRunning(name.clone());
        let lock = Lock::from_file(lock, store.sandbox_lock(&name))?.ok_or_else(held)?;
        let missing = || Error::NoSandbox(name.clone());
        let info = state::read(&store.sandbox(&name))?.ok_or_else(missing)?;
        lifecycle::run(store, lock, info, launcher)
    };
    live().inspect_err(|error| {
        if let Ok(socket) = refusing {
            refuse(socket, &Failure::other(error));
        }
    })
}

/// Answers the first client's questions with the reason why there is no sandbox to ask: the
/// monitor's log may be on a full disk.
fn refuse(mut socket: UnixStream, failure: &Failure) {
    let payload = serde_json::to_vec(&Outcome::Err(failure.clone())).unwrap_or_default();
    let mut decoder = Decoder::default();
    let mut chunk = vec![0; 64 << 10];
    // The client asks at once, and leaves after the answer.
    let _ = socket.set_read_timeout(Some(REFUSAL));
    while let Ok(count @ 1..) = socket.read(&mut chunk) {
        decoder.push(chunk.get(..count).unwrap_or_default());
        while let Ok(Some(frame)) = decoder.next_frame() {
            if let Some(Envelope::Ask { id, .. }) = Envelope::decode(frame) {
                let mut answer = Vec::new();
                let payload = payload.clone();
                Envelope::Answer { id, payload }.encode(&mut answer);
                let _ = socket.write_all(&answer);
            }
        }
    }
}

/// Takes the sandbox's lock from standard input and the first client from standard output, and
/// leaves both closed.
fn inherited() -> std::io::Result<(File, UnixStream)> {
    let lock = std::io::stdin().as_fd().try_clone_to_owned()?;
    let launcher = std::io::stdout().as_fd().try_clone_to_owned()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok((File::from(lock), UnixStream::from(launcher)))
}
