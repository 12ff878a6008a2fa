//! Guests that are suspended for a copy, and copies that are resumed.

use std::os::unix::net::UnixStream;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use blockbox_protocol::{Identity, Request};
use serde::{Deserialize, Serialize};

use super::error::GuestError;
use super::exec::Exec;
use super::{BootTimes, Session, link, open};
use crate::Vm;

/// A guest whose commands are frozen and whose control channel is silent in both directions. It
/// resumes with the first message after this is dropped.
#[derive(Debug)]
pub struct Suspended<'a> {
    /// Keeps others from sending messages.
    _writer: MutexGuard<'a, UnixStream>,
    last_id: u32,
}

impl Suspended<'_> {
    /// Returns the last id that the guest has seen, for [`Adoption::last_id`].
    pub fn last_id(&self) -> u32 {
        self.last_id
    }
}

/// How the host takes over a copy.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Adoption {
    /// [`Suspended::last_id`] of the guest that was copied.
    pub last_id: u32,
    /// The command that the host continues with.
    pub command: Option<RunningCommand>,
    /// The identity of the copy. If it sets no time or no entropy, the host's are used.
    pub identity: Identity,
    /// The guest kernel's release.
    pub kernel: String,
}

/// A command that runs in a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningCommand {
    /// Its id on the control channel.
    pub id: u32,
    /// Its process id in the guest.
    pub pid: u32,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its input is open.
    pub stdin: bool,
}

impl Session {
    /// Suspends the guest for a copy.
    ///
    /// # Errors
    ///
    /// If the guest is gone.
    pub fn suspend(&self) -> Result<Suspended<'_>, GuestError> {
        let (writer, last_id) = self
            .link
            .request_last("suspend", |id| Request::Suspend { id })?;
        Ok(Suspended {
            _writer: writer,
            last_id,
        })
    }

    /// Takes over the guest of a copy of a suspended machine. Also returns the command that
    /// continues.
    ///
    /// # Errors
    ///
    /// [`GuestError::Refused`] if a part of the identity could not be changed, or the image's hook
    /// failed or took too long; if the guest is gone.
    pub fn adopt(vm: &Vm, adoption: &Adoption) -> Result<(Self, Option<Exec>), GuestError> {
        let started = Instant::now();
        let link = open(vm)?;
        link.count_from(adoption.last_id);
        let exec = adoption.command.map(|command| {
            let has_input = command.stdin || command.tty;
            Exec::running(&link, command.id, command.pid, has_input)
        });
        let mut identity = adoption.identity.clone();
        if identity.entropy.is_empty() {
            let random = link::random_bytes();
            identity.entropy = random.map_err(GuestError::io("random bytes"))?;
        }
        if identity.realtime_ns == 0 {
            identity.realtime_ns = link::realtime_ns();
        }
        let command = adoption.command.map_or(0, |command| command.id);
        link.request_soon("be taken over", |id| Request::Adopt {
            id,
            command,
            identity,
        })?;
        let session = Session {
            link,
            boot: BootTimes {
                connect: started.elapsed(),
                guest: Duration::ZERO,
            },
            kernel: adoption.kernel.clone(),
            warnings: Vec::new(),
        };
        Ok((session, exec))
    }
}
