//! Starts monitors.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;

use crate::error::{Error, Result};
use blockbox_store::{Lock, Store};
use blockbox_vmm::guest::Connection;

/// The hidden subcommand.
pub(super) const SUBCOMMAND: &str = "__monitor";

/// The file with the monitor's own messages, in the folder of its sandbox: empty unless something
/// is badly wrong.
const LOG: &str = "monitor.log";

/// Starts the monitor of a sandbox, and passes the sandbox's lock to it. The sandbox is switched
/// off if the connection closes before the main command runs.
pub(crate) fn launch(store: &Store, name: &str, lock: Lock) -> Result<Connection> {
    let helper = blockbox_vmm::helper::locate(None)?;
    let failed = || Error::io(&helper);
    let (ours, theirs) = UnixStream::pair().map_err(failed())?;
    let log = store.sandbox(name).join(LOG);
    let log = File::create(&log).map_err(Error::io(&log))?;
    let mut child = blockbox_vmm::helper::command(&helper)
        .args([
            OsStr::new(SUBCOMMAND),
            store.root().as_os_str(),
            OsStr::new(name),
        ])
        .stdin(lock.into_file().map_err(failed())?)
        .stdout(OwnedFd::from(theirs))
        .stderr(log)
        .current_dir("/")
        .spawn()
        .map_err(failed())?;
    // A program that continues to run must not have to reap the monitor.
    thread::Builder::new()
        .name("monitor-reaper".to_owned())
        .spawn(move || child.wait())
        .map_err(failed())?;
    Ok(Connection::new(ours)?)
}
