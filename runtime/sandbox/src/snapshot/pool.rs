//! The pool: snapshots of machines that booted and warmed up, and whose main command has not
//! started. A new sandbox of the same image resumes a copy of one and starts its own command there.

use std::path::PathBuf;

use blockbox_store::snapshot::Snapshot as Record;
use blockbox_store::spec::{MountSource, Spec};
use blockbox_store::{Store, remove as remove_tree};
use blockbox_vmm::guest::WindowSize;

use super::memory::difference;
use super::{ForkOptions, Snapshot};
use crate::child::Child;
use crate::create::random_id;
use crate::error::{Error, Result};
use crate::launched::{Boot, Booted};
use crate::process;
use crate::root::Root;
use crate::sandbox::Sandbox;

/// The terminal size of a command whose client has no terminal.
const WINDOW_SIZE: WindowSize = WindowSize { rows: 24, cols: 80 };

/// Checks, before a machine of this specification boots, that it can be kept in the pool.
pub(crate) fn check(root: &Root, spec: &Spec, patched: bool) -> Result<()> {
    let in_memory = |source: &MountSource| matches!(source, MountSource::Tmpfs { .. });
    let reason = match root {
        Root::Disk(_) => "its root is a disk and not an image",
        _ if patched => "it has patches",
        _ if !spec.secrets.is_empty() => "its secrets would be on the disk of this host",
        _ if !spec.mounts.iter().all(|mount| in_memory(&mount.source)) => {
            "two machines cannot share what is mounted there"
        }
        Root::Image(_) => return Ok(()),
    };
    Err(Error::NotPooled {
        image: spec.image.asked.clone(),
        reason,
    })
}

/// Starts a sandbox of this specification as a copy of a machine in the pool, or returns why it
/// must boot.
pub(crate) fn launch(
    store: &Store,
    root: &Root,
    mut spec: Spec,
) -> Result<std::result::Result<(Sandbox, Boot), String>> {
    let snapshot = match find(store, root, &spec)? {
        Ok(snapshot) => snapshot,
        Err(reason) => return Ok(Err(reason)),
    };
    let asked = std::mem::take(&mut spec.image.asked);
    spec.image = snapshot.record.spec.image.clone();
    spec.image.asked = asked;
    let options = ForkOptions {
        name: Some(spec.name.clone()),
        remove_on_exit: spec.remove_on_exit,
        keep_ports: true,
        spec: Some(spec),
        ..ForkOptions::default()
    };
    match snapshot.launch(&options) {
        Err(Error::SnapshotDamaged(name)) => Ok(Err(format!("snapshot {name:?} is damaged"))),
        launched => launched.map(Ok),
    }
}

/// Returns the newest machine in the pool that a sandbox of this specification can resume, or why
/// there is none.
fn find(store: &Store, root: &Root, spec: &Spec) -> Result<std::result::Result<Snapshot, String>> {
    let asked = &spec.image.asked;
    let Root::Image(image) = root else {
        return Ok(Err("the root is a disk and not an image".to_owned()));
    };
    let mut pool = Record::list(store)?.found;
    pool.retain(|record| record.warm && record.memory.is_some());
    pool.sort_by_key(|record| std::cmp::Reverse(record.created_ns));
    let digest = image.digest().to_string();
    let mut reason = match pool.iter().any(|record| record.spec.image.asked == *asked) {
        true => format!("{asked} has changed since it was warmed up"),
        false => format!("no machine of {asked} is in the pool"),
    };
    let own = |record: &Record| record.spec.image.manifest_digest == digest;
    for (place, record) in pool.into_iter().filter(own).enumerate() {
        match difference(&record.spec, spec) {
            None => return Ok(Ok(Snapshot::new(store, record))),
            Some(what) if place == 0 => {
                let name = record.name;
                reason = format!("{name}, the machine of {asked} in the pool, has other {what}");
            }
            Some(_) => {}
        }
    }
    Ok(Err(reason))
}

/// Removes the machines of an image from the pool. Returns their names.
pub(crate) fn forget(store: &Store, manifest_digest: &str) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for record in Record::list(store)?.found {
        if record.warm && record.spec.image.manifest_digest == manifest_digest {
            remove_tree(&store.snapshot(&record.name))?;
            removed.push(record.name);
        }
    }
    Ok(removed)
}

impl Booted {
    /// Runs the main command before its actual start, to warm the machine up. If it has a terminal,
    /// `size` is its size.
    ///
    /// # Errors
    ///
    /// [`GuestError::SpawnFailed`](blockbox_vmm::guest::GuestError::SpawnFailed) if the command
    /// cannot be started.
    pub fn warm_up(&self, stdin: bool, size: Option<WindowSize>) -> Result<Child> {
        let process = self.sandbox.info()?.spec.process.unwrap_or_default();
        let tty = process.tty.then(|| size.unwrap_or(WINDOW_SIZE));
        let spec = process::exec_spec(&process, tty, stdin);
        let exec = self.connection.exec(&spec)?;
        Ok(Child::new(exec, self.connection.clone()))
    }

    /// Adds the machine in its current state to the pool, replacing machines there that the same
    /// sandboxes could use. This sandbox ends.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`]. Nothing is left behind, and the pool is unchanged.
    pub fn into_pool(self) -> Result<Snapshot> {
        let (sandbox, store) = (&self.sandbox, self.sandbox.store());
        let mut name = format!("warm-{}", random_id()?);
        name.truncate(17);
        let (kept, _) = sandbox.keep(&name, |folder, record| {
            record.warm = true;
            sandbox.copy_machine(folder, record)
        })?;
        let record = &kept.record;
        let replaced = |old: &Record| {
            let images = [old, record].map(|one| &one.spec.image.manifest_digest);
            old.warm
                && old.id != record.id
                && images[0] == images[1]
                && difference(&old.spec, &record.spec).is_none()
        };
        let old: Vec<PathBuf> = Record::list(store)?
            .found
            .iter()
            .filter(|old| replaced(old))
            .map(|old| store.snapshot(&old.name))
            .collect();
        for folder in old {
            remove_tree(&folder)?;
        }
        let sandbox = sandbox.clone();
        drop(self);
        // The sandbox is removed for the next caller. It may be gone already.
        let _ = sandbox.wait();
        Ok(kept)
    }
}
