//! A guest that is copied while it runs, and one that is the copy.

use std::time::Duration;

use blockbox_protocol::Identity;
use rustix::io::Errno;

use super::Server;
use crate::identity;
use crate::worker::{Kind, Outcome};

impl Server {
    pub(super) fn suspend(&mut self, suspended: bool) {
        let commands = self.commands.values();
        let cgroups = commands.filter_map(|command| command.cgroup.as_ref());
        self.cgroups.freeze(cgroups, suspended);
        self.suspended = suspended;
    }

    /// Handles that this guest is a copy; `keep` is the only command whose streams its host uses.
    pub(super) fn adopt(&mut self, id: u32, keep: u32, identity: &Identity) -> Vec<Outcome> {
        let failed = |errno: Errno| {
            vec![Outcome {
                request: Some(id),
                kind: Kind::Other,
                errno: errno.raw_os_error() as u32,
            }]
        };
        if !self.suspended {
            return failed(Errno::INVAL);
        }
        self.control.forget_outgoing();
        for command in self.commands.values_mut() {
            match command.id == keep {
                true => command.adopted(),
                false => command.abandoned(),
            }
        }
        if let Err(error) = self.disk.thaw_now(&self.roots) {
            eprintln!("blockbox-init: thawing the disk: {error}");
            return failed(Errno::IO);
        }
        let outcomes = self.become_clone(id, identity);
        self.suspend(false);
        outcomes
    }

    pub(super) fn become_clone(&mut self, id: u32, identity: &Identity) -> Vec<Outcome> {
        let answer = |errno| {
            vec![Outcome {
                request: Some(id),
                kind: Kind::Other,
                errno,
            }]
        };
        if self.disk.is_frozen() {
            return answer(Errno::BUSY.raw_os_error() as u32);
        }
        let before = self.network.as_ref();
        let changed = identity::change(identity, &mut self.names, before, &self.roots);
        if let Err(failure) = changed {
            eprintln!("blockbox-init: {failure}");
            return answer(Errno::IO.raw_os_error() as u32);
        }
        if identity.network.is_some() {
            self.network.clone_from(&identity.network);
        }
        if identity.hook_timeout_ms == 0 {
            return answer(0);
        }
        let timeout = Duration::from_millis(u64::from(identity.hook_timeout_ms));
        self.disk
            .add(Some(id), Kind::Other, move || identity::run_hook(timeout))
    }
}
