//! The control channel: one reader, many writers, and the pending requests.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use blockbox_protocol::frame::MAX_PAYLOAD;
use blockbox_protocol::{
    Boot, Decoder, Envelope, PROTOCOL_VERSION, Process, Reply, Request, Stats,
};

use super::error::GuestError;
use super::inbox::{End, Inbox};
use crate::{Console, Vm};

/// How long the answer to a sync, a freeze or a thaw may take: a slow disk may have much to write.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// How long the answer to a request that needs no waiting may take.
const SOON: Duration = Duration::from_secs(20);

/// How long the guest may take to read a request, which its init normally does at once.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// The bytes of entropy that a guest starts with.
const ENTROPY: usize = 64;

/// How long the VM's process may take to end after the channel's end, for a complete report.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// The most unread notices of a monitor.
const NOTICES: usize = 16;

#[derive(Debug)]
pub(super) struct Link {
    writer: Mutex<UnixStream>,
    state: Mutex<State>,
    changed: Condvar,
    peer: Peer,
}

/// The other end of the channel.
#[derive(Debug)]
pub(super) enum Peer {
    /// A guest's init; its console shows the cause of its end.
    Guest(Console),
    /// A sandbox's monitor.
    Monitor,
}

#[derive(Debug, Default)]
struct State {
    hello: Option<Hello>,
    bye: Option<u32>,
    answers: HashMap<u32, Option<Answer>>,
    /// The answers of a monitor to pending questions.
    replies: HashMap<u32, Option<Vec<u8>>>,
    /// Unread notices of a monitor about what it is doing.
    notices: VecDeque<Vec<u8>>,
    inboxes: HashMap<u32, Arc<Inbox>>,
    next_id: u32,
    end: Option<End>,
}

/// A message of a monitor.
#[derive(Debug)]
pub(super) enum Said {
    /// The awaited answer.
    Answer(Vec<u8>),
    /// A notice about what the monitor is doing.
    Notice(Vec<u8>),
}

/// The report of init.
#[derive(Debug, Clone)]
pub(super) struct Hello {
    pub(super) version: u32,
    pub(super) uptime_ns: u64,
    pub(super) kernel: String,
    pub(super) warnings: Vec<String>,
}

/// An answer of init.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// 0, or the guest's `errno`.
    Done(u32),
    Stats(Stats),
    Processes(Vec<Process>),
    /// Init does not know the request.
    Rejected,
}

impl Link {
    pub(super) fn new(writer: UnixStream, peer: Peer) -> Self {
        Link {
            writer: Mutex::new(writer),
            state: Mutex::default(),
            changed: Condvar::new(),
            peer,
        }
    }

    /// Handles all messages of the guest until the channel ends.
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
                // Any error means that the other end is gone.
                Err(_) => return Ok(()),
            };
            decoder.push(chunk.get(..count).unwrap_or_default());
            while let Some(frame) = decoder.next_frame().map_err(End::Protocol)? {
                match Envelope::decode(frame) {
                    Some(envelope) if matches!(self.peer, Peer::Monitor) => self.open(envelope),
                    _ => self.take(Reply::decode(frame).map_err(End::Protocol)?)?,
                }
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
                warnings,
            } => {
                state.hello = Some(Hello {
                    version,
                    uptime_ns,
                    kernel,
                    warnings,
                });
            }
            Reply::Fatal { message } => return Err(End::Fatal(message)),
            Reply::Bye { errno } => state.bye = Some(errno),
            Reply::Done { id, errno } => state.answer(id, Answer::Done(errno)),
            Reply::Stats { id, stats } => state.answer(id, Answer::Stats(stats)),
            Reply::Processes { id, processes } => {
                state.answer(id, Answer::Processes(processes));
            }
            Reply::Rejected { id, .. } => {
                if let Some(inbox) = state.inboxes.remove(&id) {
                    inbox.spawn_failed(125, "the guest does not know the request".to_owned());
                }
                state.answer(id, Answer::Rejected);
            }
            // The remaining messages of a command that is over are dropped.
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

    fn open(&self, envelope: Envelope) {
        let mut state = self.lock();
        match envelope {
            Envelope::Answer { id, payload } => {
                if let Some(reply) = state.replies.get_mut(&id) {
                    *reply = Some(payload);
                }
            }
            Envelope::Notice { payload } => {
                // Only the latest notices matter.
                if state.notices.len() >= NOTICES {
                    state.notices.pop_front();
                }
                state.notices.push_back(payload);
            }
            // A monitor sends no questions.
            Envelope::Ask { .. } => {}
        }
        self.changed.notify_all();
    }

    /// Sends a question to a monitor, and returns the question's id.
    pub(super) fn question(&self, payload: Vec<u8>) -> Result<u32, GuestError> {
        let id = {
            let mut state = self.lock();
            let id = fresh_id(&mut state);
            state.replies.insert(id, None);
            id
        };
        self.question_as(id, payload)?;
        Ok(id)
    }

    /// Sends a question to a monitor about the stream `id`.
    pub(super) fn question_as(&self, id: u32, payload: Vec<u8>) -> Result<(), GuestError> {
        let mut bytes = Vec::new();
        Envelope::Ask { id, payload }.encode(&mut bytes);
        self.write(&bytes, SEND_TIMEOUT)
    }

    /// Waits for an answer or a notice; `None` after the timeout.
    pub(super) fn reply(&self, id: u32, timeout: Duration) -> Result<Option<Said>, GuestError> {
        let deadline = Instant::now().checked_add(timeout);
        let mut state = self.lock();
        loop {
            if let Some(notice) = state.notices.pop_front() {
                return Ok(Some(Said::Notice(notice)));
            }
            if let Some(Some(answer)) = state.replies.get(&id) {
                let answer = answer.clone();
                state.replies.remove(&id);
                return Ok(Some(Said::Answer(answer)));
            }
            if let Some(end) = state.end.clone() {
                drop(state);
                return Err(self.error(end));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            let left = left.unwrap_or(Duration::from_secs(3600));
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Sends a request; waits at most [`SEND_TIMEOUT`] for the other side to read it.
    pub(super) fn send(&self, request: &Request) -> Result<(), GuestError> {
        self.send_within(request, SEND_TIMEOUT)
    }

    /// Sets the guest's clock to the host's, without waiting for the answer.
    pub(super) fn set_clock_soon(&self, step: bool) -> Result<(), GuestError> {
        self.send(&Request::SetClock {
            id: 0,
            realtime_ns: realtime_ns(),
            step,
        })
    }

    /// Sends the boot message, which the guest reads once it has booted.
    pub(super) fn send_boot(&self, boot: &Boot, timeout: Duration) -> Result<(), GuestError> {
        let mut boot = boot.clone();
        if boot.entropy.is_empty() {
            boot.entropy = random_bytes().map_err(GuestError::io("random bytes"))?;
        }
        if boot.realtime_ns == 0 {
            boot.realtime_ns = realtime_ns();
        }
        if boot.encoded_len() > MAX_PAYLOAD - 4 {
            return Err(GuestError::BootTooLarge);
        }
        let version = PROTOCOL_VERSION;
        match self.send_within(&Request::Boot { version, boot }, timeout) {
            // The wait for init's report finds out why the VM ended.
            Err(GuestError::Lost { .. }) => Ok(()),
            sent => sent,
        }
    }

    fn send_within(&self, request: &Request, timeout: Duration) -> Result<(), GuestError> {
        let mut bytes = Vec::new();
        request.encode(&mut bytes);
        self.write(&bytes, timeout)
    }

    fn write(&self, bytes: &[u8], timeout: Duration) -> Result<(), GuestError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.write_to(&mut writer, bytes, timeout)
    }

    fn write_to(
        &self,
        writer: &mut UnixStream,
        bytes: &[u8],
        timeout: Duration,
    ) -> Result<(), GuestError> {
        let sent = writer
            .set_write_timeout(Some(timeout.max(Duration::from_millis(1))))
            .and_then(|()| writer.write_all(bytes));
        sent.map_err(|_| {
            // A part of a message may have been sent, so no other message can follow.
            let _ = writer.shutdown(Shutdown::Both);
            self.lost()
        })
    }

    /// Sends a request that is answered by `Done`, and waits for the answer.
    pub(super) fn request(
        &self,
        name: &'static str,
        request: impl FnOnce(u32) -> Request,
    ) -> Result<(), GuestError> {
        done(name, &self.ask(name, request)?)
    }

    /// As [`request`](Self::request), for requests that are answered quickly.
    pub(super) fn request_soon(
        &self,
        name: &'static str,
        request: impl FnOnce(u32) -> Request,
    ) -> Result<(), GuestError> {
        let id = self.expect_answer();
        let sent = self.send(&request(id));
        done(name, &self.answer_to(id, name, sent, SOON)?)
    }

    /// As [`request_soon`](Self::request_soon), and blocks all other messages until the guard is
    /// dropped. Also returns the last id that was assigned.
    pub(super) fn request_last(
        &self,
        name: &'static str,
        request: impl FnOnce(u32) -> Request,
    ) -> Result<(MutexGuard<'_, UnixStream>, u32), GuestError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let id = self.expect_answer();
        let mut bytes = Vec::new();
        request(id).encode(&mut bytes);
        let sent = self.write_to(&mut writer, &bytes, SEND_TIMEOUT);
        done(name, &self.answer_to(id, name, sent, SOON)?)?;
        Ok((writer, id))
    }

    /// Sends a request and waits for the answer.
    pub(super) fn ask(
        &self,
        name: &'static str,
        request: impl FnOnce(u32) -> Request,
    ) -> Result<Answer, GuestError> {
        let id = self.expect_answer();
        let sent = self.send(&request(id));
        self.answer_to(id, name, sent, ANSWER_TIMEOUT)
    }

    /// Assigns an id to a request that will be answered.
    fn expect_answer(&self) -> u32 {
        let mut state = self.lock();
        let id = fresh_id(&mut state);
        state.answers.insert(id, None);
        id
    }

    /// Waits for the answer to a request, unless sending it failed.
    fn answer_to(
        &self,
        id: u32,
        name: &'static str,
        sent: Result<(), GuestError>,
        timeout: Duration,
    ) -> Result<Answer, GuestError> {
        let answer = sent
            .and_then(|()| self.wait(timeout, |state| state.answers.get(&id).cloned().flatten()))
            .and_then(|answer| {
                answer.ok_or(GuestError::NoAnswer {
                    request: name,
                    waited: timeout,
                })
            });
        self.lock().answers.remove(&id);
        match answer? {
            Answer::Rejected => Err(GuestError::Unknown { request: name }),
            answer => Ok(answer),
        }
    }

    /// Registers a command that already runs in the guest under `id`.
    pub(super) fn register_running(&self, id: u32, inbox: Arc<Inbox>) {
        self.lock().inboxes.insert(id, inbox);
    }

    /// Assigns only ids after this one to requests and commands.
    pub(super) fn count_from(&self, id: u32) {
        self.lock().next_id = id;
    }

    /// Registers a command and assigns an id to it.
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
        let console = vm.console();
        let never = |vm_status| GuestError::NeverReported {
            waited: started.elapsed(),
            vm: vm_status,
            console: console.tail(),
        };
        match self.wait(timeout, |state| state.hello.clone()) {
            Ok(Some(hello)) => Ok(hello),
            Ok(None) => Err(never(None)),
            Err(GuestError::Lost { .. }) => {
                console.wait_closed(END_TIMEOUT);
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

    /// Waits until `found` returns a value; `None` after the timeout.
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
        match &self.peer {
            Peer::Guest(console) => GuestError::Lost {
                console: console.tail(),
            },
            Peer::Monitor => GuestError::MonitorLost,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Stores an answer. An answer to an unknown or abandoned request is dropped.
    fn answer(&mut self, id: u32, answer: Answer) {
        if let Some(waiting) = self.answers.get_mut(&id) {
            *waiting = Some(answer);
        }
    }
}

/// Returns the host's time in nanoseconds since 1970.
pub(super) fn realtime_ns() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn random_bytes() -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; ENTROPY];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Converts the answer to a request that is answered by `Done`.
fn done(request: &'static str, answer: &Answer) -> Result<(), GuestError> {
    match *answer {
        Answer::Done(0) => Ok(()),
        Answer::Done(errno) => Err(GuestError::Refused { request, errno }),
        _ => Err(GuestError::WrongAnswer { request }),
    }
}

fn fresh_id(state: &mut State) -> u32 {
    // After the counter wraps around, long-running commands may still use some ids.
    loop {
        state.next_id = state.next_id.wrapping_add(1);
        let id = state.next_id;
        if !state.inboxes.contains_key(&id)
            && !state.answers.contains_key(&id)
            && !state.replies.contains_key(&id)
        {
            return id;
        }
    }
}
