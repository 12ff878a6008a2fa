//! Gives a copy of a running guest its own identity.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use blockbox_protocol::{Identity, Network};
use rustix::io::Errno;

use super::boot::Roots;
use super::etc::{self, Names};
use super::failure::{Failure, Step};
use super::{clock, network, sys};

/// The image's hook for copies.
const HOOK: &str = "/etc/blockbox/on-fork";

/// How often the hook's end is checked.
const HOOK_POLL: Duration = Duration::from_millis(5);

/// Changes everything except what the image's hook changes. Random numbers come first, because
/// later steps may use some.
pub(crate) fn change(
    identity: &Identity,
    names: &mut Names,
    before: Option<&Network>,
    roots: &Roots,
) -> Result<(), Failure> {
    if !identity.entropy.is_empty() {
        sys::add_entropy(&identity.entropy).step("adding entropy")?;
    }
    if identity.realtime_ns > 0 {
        clock::set(identity.realtime_ns).step("setting the clock")?;
    }
    if let Some(after) = &identity.network {
        network::change(before, after)?;
    }
    if identity.close_connections {
        // After the change, because the gateway accepts only the copy's own hardware address.
        network::close_outgoing().step("closing connections")?;
    }
    if !identity.hostname.is_empty() {
        let set = rustix::system::sethostname(identity.hostname.as_bytes());
        set.step("setting the hostname")?;
    }
    names.change(identity);
    etc::change(names, &roots.memory)
}

/// Runs the image's hook, if there is one, until it ends or for at most `timeout`.
pub(crate) fn run_hook(timeout: Duration) -> io::Result<()> {
    let hook = Path::new(HOOK);
    if !hook.is_file() {
        return Ok(());
    }
    let mut command = Command::new(hook);
    // Its output is written to the console, as init's is.
    command.stdin(Stdio::null()).process_group(0);
    sys::before_exec(&mut command, sys::unblock_signals);
    let mut child = command.spawn()?;
    let deadline = Instant::now() + timeout;
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(_) => return Err(Errno::CANCELED.into()),
            None if Instant::now() >= deadline => {
                child.kill()?;
                child.wait()?;
                return Err(Errno::TIMEDOUT.into());
            }
            None => std::thread::sleep(HOOK_POLL),
        }
    }
}
