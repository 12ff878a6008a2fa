//! Names of sandboxes and volumes.

use std::thread::sleep;
use std::time::{Duration, Instant};

use blockbox_store::{Lock, Store, state};

use crate::error::{Error, Result};

/// How long another process may hold a name before it counts as taken.
const CLAIM: Duration = Duration::from_secs(2);

/// Checks that a new sandbox can be called `name`: the name is valid and free.
///
/// # Errors
///
/// [`Error::SandboxName`], [`Error::SandboxExists`].
pub fn check_new_name(store: &Store, name: &str) -> Result<()> {
    check_unused_name(name)?;
    match state::reconcile(store, name)? {
        Some(_) => Err(Error::SandboxExists(name.to_owned())),
        None => Ok(()),
    }
}

/// Locks a name that no sandbox has.
pub(crate) fn claim(store: &Store, name: &str) -> Result<Lock> {
    check_name(name)?;
    let folder = store.sandbox(name);
    let started = Instant::now();
    loop {
        let lock = store.lock_sandbox(name)?;
        if folder.exists() {
            return Err(Error::SandboxExists(name.to_owned()));
        }
        match lock {
            Some(lock) => return Ok(lock),
            // Another process makes a sandbox of this name, or only looks for remains of a crash.
            None if started.elapsed() < CLAIM => sleep(Duration::from_millis(5)),
            None => return Err(Error::SandboxExists(name.to_owned())),
        }
    }
}

pub(crate) fn check_name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    // Names with a leading dot are reserved for the store; a name is also the guest's host name.
    if name.is_empty() || name.len() > 63 || name.starts_with('.') || !name.chars().all(allowed) {
        return Err(Error::SandboxName(name.to_owned()));
    }
    Ok(())
}

/// Checks a name that is to be given. It is not taken for an option where a command line has it;
/// what was called so before is still found.
pub(crate) fn check_unused_name(name: &str) -> Result<()> {
    match name.starts_with('-') {
        true => Err(Error::SandboxName(name.to_owned())),
        false => check_name(name),
    }
}

pub(crate) fn check_unused_volume_name(name: &str) -> Result<()> {
    check_unused_name(name).map_err(|_| Error::VolumeName(name.to_owned()))
}

pub(crate) fn check_volume_name(name: &str) -> Result<()> {
    check_name(name).map_err(|_| Error::VolumeName(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_single_path_component() {
        for name in ["a", "web-1", "a.b_c", "0123456789ab"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", ".tmp-x", "a/b", "ä", "a b", &"x".repeat(64)] {
            assert!(
                matches!(check_name(name), Err(Error::SandboxName(_))),
                "{name}"
            );
        }
        for name in ["-", "-x", "--rm", ""] {
            assert!(check_unused_name(name).is_err(), "{name}");
        }
    }
}
