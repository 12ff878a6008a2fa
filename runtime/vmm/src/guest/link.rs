//! The control channel: one reader, many writers, and who waits for what.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use blockbox_protocol::{Decoder, Reply, Request};

use super::error::GuestError;
use super::exec::Inbox;
use crate::{Console, Vm};

/// How long the answer to a sync, a freeze or a thaw may take: a slow disk has much to write.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// How long after the channel's end the VM's process may take to be gone, for a complete report.
const END_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct Link {
    writer: Mutex<UnixStream>,
    state: Mutex<State>,
    changed: Condvar,
    console: Console,
}

#[derive(Debug, Default)]
struct State {
    hello: Option<Hello>,
    bye: Option<u32>,
    answers: HashMap<u32, Option<u32>>,
    inboxes: HashMap<u32, Arc<Inbox>>,
    next_id: u32,
    end: Option<End>,
}

/// What init reported.
#[derive(Debug, Clone)]
pub(super) struct Hello {
    pub(super) version: u32,
    pub(super) uptime_ns: u64,
    pub(super) kernel: String,
}

/// Why nothing more will come from the guest.
#[derive(Debug, Clone)]
pub(super) enum End {
    Closed,
    Fatal(String),
    Protocol(blockbox_protocol::ProtocolError),
    WindowExceeded,
}

impl Link {
    pub(super) fn new(writer: UnixStream, console: Console) -> Self {
        Link {
            writer: Mutex::new(writer),
            state: Mutex::default(),
            changed: Condvar::new(),
            console,
        }
    }

    /// Takes in everything the guest says, until it says no more.
    pub(super) fn read_from(&self, mut reader: UnixStream) {
        let end = self.read_all(&mut reader).err().unwrap_or(End::Closed);
        let mut state = self.lock();
        for inbox in state.inboxes.values() {
            inbox.close(&end);
        }
        state.inboxes.clear();
        state.end = Some(end);
        self.changed.notify_all();
    }

    fn read_all(&self, reader: &mut UnixStream) -> Result<(), End> {
        let mut decoder = Decoder::default();
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let count = match reader.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                // The other end is gone, whatever it is called.
                Err(_) => return Ok(()),
            };
            decoder.push(chunk.get(..count).unwrap_or_default());
            while let Some(frame) = decoder.next_frame().map_err(End::Protocol)? {
                self.take(Reply::decode(frame).map_err(End::Protocol)?)?;
            }
        }
    }

    fn take(&self, reply: Reply) -> Result<(), End> {
        let mut state = self.lock();
        match reply {
            Reply::Hello {
                version,
                uptime_ns,
                kernel,
            } => {
                state.hello = Some(Hello {
                    version,
                    uptime_ns,
                    kernel,
                });
            }
            Reply::Fatal { message } => return Err(End::Fatal(message)),
            Reply::Bye { errno } => state.bye = Some(errno),
            Reply::Done { id, errno } => {
                if let Some(answer) = state.answers.get_mut(&id) {
                    *answer = Some(errno);
                }
            }
            // Nobody waits for a command that is over: what is still on its way is of no use.
            Reply::Started { id, pid } => {
                if let Some(inbox) = state.inboxes.get(&id) {
                    inbox.started(pid);
                }
            }
            Reply::SpawnFailed { id, code, message } => {
                if let Some(inbox) = state.inboxes.remove(&id) {
                    inbox.spawn_failed(code, message);
                }
            }
            Reply::Output { id, stream, data } => {
                if let Some(inbox) = state.inboxes.get(&id) {
                    inbox
                        .output(stream, data)
                        .map_err(|()| End::WindowExceeded)?;
                }
            }
            Reply::StdinCredit { id, bytes } => {
                if let Some(inbox) = state.inboxes.get(&id) {
                    inbox.credit(bytes);
                }
            }
            Reply::Exited { id, status } => {
                if let Some(inbox) = state.inboxes.remove(&id) {
                    inbox.exited(status);
                }
            }
        }
        self.changed.notify_all();
        Ok(())
    }

    /// Sends a request; may wait for the guest to take it.
    pub(super) fn send(&self, request: &Request) -> Result<(), GuestError> {
        let mut bytes = Vec::new();
        request.encode(&mut bytes);
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.write_all(&bytes).map_err(|_| self.lost())
    }

    /// Sends a request that is answered by `Done`, and waits for the answer.
    pub(super) fn request(
        &self,
        name: &'static str,
        request: impl FnOnce(u32) -> Request,
    ) -> Result<(), GuestError> {
        let id = {
            let mut state = self.lock();
            let id = fresh_id(&mut state);
            state.answers.insert(id, None);
            id
        };
        let answer = self
            .send(&request(id))
            .and_then(|()| {
                self.wait(ANSWER_TIMEOUT, |state| {
                    state.answers.get(&id).copied().flatten()
                })
            })
            .and_then(|answer| {
                answer.ok_or(GuestError::NoAnswer {
                    request: name,
                    waited: ANSWER_TIMEOUT,
                })
            });
        self.lock().answers.remove(&id);
        match answer? {
            0 => Ok(()),
            errno => Err(GuestError::Refused {
                request: name,
                errno,
            }),
        }
    }

    /// Registers a command and gives it an id.
    pub(super) fn register(&self, inbox: Arc<Inbox>) -> Result<u32, GuestError> {
        let mut state = self.lock();
        if let Some(end) = state.end.clone() {
            drop(state);
            return Err(self.error(end));
        }
        let id = fresh_id(&mut state);
        state.inboxes.insert(id, inbox);
        Ok(id)
    }

    pub(super) fn wait_hello(&self, timeout: Duration, vm: &Vm) -> Result<Hello, GuestError> {
        let started = Instant::now();
        let never = |vm_status| GuestError::NeverReported {
            waited: started.elapsed(),
            vm: vm_status,
            console: self.console.tail(),
        };
        match self.wait(timeout, |state| state.hello.clone()) {
            Ok(Some(hello)) => Ok(hello),
            Ok(None) => Err(never(None)),
            Err(GuestError::Lost { .. }) => {
                self.console.wait_closed(END_TIMEOUT);
                let exit = vm.wait_timeout(END_TIMEOUT).ok().flatten();
                Err(never(exit.map(|exit| exit.status)))
            }
            Err(other) => Err(other),
        }
    }

    pub(super) fn wait_bye(&self, timeout: Duration) -> Result<u32, GuestError> {
        self.wait(timeout, |state| state.bye)?
            .ok_or(GuestError::NoAnswer {
                request: "shutdown",
                waited: timeout,
            })
    }

    /// Waits until `found` gives something; `None` when time is up.
    fn wait<T>(
        &self,
        timeout: Duration,
        found: impl Fn(&State) -> Option<T>,
    ) -> Result<Option<T>, GuestError> {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if let Some(value) = found(&state) {
                return Ok(Some(value));
            }
            if let Some(end) = state.end.clone() {
                drop(state);
                return Err(self.error(end));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn error(&self, end: End) -> GuestError {
        match end {
            End::Closed => self.lost(),
            End::Fatal(message) => GuestError::SetupFailed { message },
            End::Protocol(error) => GuestError::Protocol(error),
            End::WindowExceeded => GuestError::WindowExceeded,
        }
    }

    fn lost(&self) -> GuestError {
        GuestError::Lost {
            console: self.console.tail(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fresh_id(state: &mut State) -> u32 {
    // Ids of long-running commands may still be taken when the counter comes round.
    loop {
        state.next_id = state.next_id.wrapping_add(1);
        let id = state.next_id;
        if !state.inboxes.contains_key(&id) && !state.answers.contains_key(&id) {
            return id;
        }
    }
}
