//! The control channel: one reader, many writers, and who waits for what.

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
use super::exec::Inbox;
use crate::{Console, Vm};

/// How long the answer to a sync, a freeze or a thaw may take: a slow disk has much to write.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// How long the answer may take to a request that waits for nothing.
const SOON: Duration = Duration::from_secs(20);

/// How long the guest may take to take a request: its init always does so soon.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of entropy that a guest starts with.
const ENTROPY: usize = 64;

/// How long after the channel's end the VM's process may take to be gone, for a complete report.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// Notices of a monitor that are kept for a reader.
const NOTICES: usize = 16;

#[derive(Debug)]
pub(super) struct Link {
    writer: Mutex<UnixStream>,
    state: Mutex<State>,
    changed: Condvar,
    peer: Peer,
}

/// Who is on the other side.
#[derive(Debug)]
pub(super) enum Peer {
    /// A guest's init; its console tells what it died of.
    Guest(Console),
    /// A sandbox's monitor.
    Monitor,
}

#[derive(Debug, Default)]
struct State {
    hello: Option<Hello>,
    bye: Option<u32>,
    answers: HashMap<u32, Option<Answer>>,
    /// What a monitor answered to questions.
    replies: HashMap<u32, Option<Vec<u8>>>,
    /// What a monitor is doing, and nobody has read yet.
    notices: VecDeque<Vec<u8>>,
    inboxes: HashMap<u32, Arc<Inbox>>,
    next_id: u32,
    end: Option<End>,
}

/// What a monitor said.
#[derive(Debug)]
pub(super) enum Said {
    /// The answer that was waited for.
    Answer(Vec<u8>),
    /// What it is doing.
    Notice(Vec<u8>),
}

/// What init reported.
#[derive(Debug, Clone)]
pub(super) struct Hello {
    pub(super) version: u32,
    pub(super) uptime_ns: u64,
    pub(super) kernel: String,
    pub(super) warnings: Vec<String>,
}

/// What init answered.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// 0, or the guest's `errno`.
    Done(u32),
    Stats(Stats),
    Processes(Vec<Process>),
    /// Init does not know the request.
    Rejected,
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
    pub(super) fn new(writer: UnixStream, peer: Peer) -> Self {
        Link {
            writer: Mutex::new(writer),
            state: Mutex::default(),
            changed: Condvar::new(),
            peer,
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

    fn open(&self, envelope: Envelope) {
        let mut state = self.lock();
        match envelope {
            Envelope::Answer { id, payload } => {
                if let Some(reply) = state.replies.get_mut(&id) {
                    *reply = Some(payload);
                }
            }
            Envelope::Notice { payload } => {
                // Only the latest matter to a person.
                if state.notices.len() >= NOTICES {
                    state.notices.pop_front();
                }
                state.notices.push_back(payload);
            }
            // A monitor does not ask.
            Envelope::Ask { .. } => {}
        }
        self.changed.notify_all();
    }

    /// Asks a monitor something, and returns the question's id.
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

    /// Asks a monitor something that concerns the stream `id`.
    pub(super) fn question_as(&self, id: u32, payload: Vec<u8>) -> Result<(), GuestError> {
        let mut bytes = Vec::new();
        Envelope::Ask { id, payload }.encode(&mut bytes);
        self.write(&bytes, SEND_TIMEOUT)
    }

    /// Waits for an answer or a notice; `None` when time is up.
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

    /// Sends a request; may wait for the other side to take it, for [`SEND_TIMEOUT`] at most.
    pub(super) fn send(&self, request: &Request) -> Result<(), GuestError> {
        self.send_within(request, SEND_TIMEOUT)
    }

    /// Sends how the guest is to be set up, which the guest takes once it has booted.
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
            // Why the VM ended is found out by who waits for init's report.
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
            // A part of a message may have been sent: nothing can follow it.
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

    /// As [`request`](Self::request), for something that never takes long.
    pub(super) fn request_soon(
        &self,
        name: &'static str,
        request: impl FnOnce(u32) -> Request,
    ) -> Result<(), GuestError> {
        let id = self.expect_answer();
        let sent = self.send(&request(id));
        done(name, &self.answer_to(id, name, sent, SOON)?)
    }

    /// As [`request_soon`](Self::request_soon), and lets nobody send anything until the guard is
    /// dropped. Returns with it the last id that was given to anything.
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

    /// Gives an id to a request that is to be answered.
    fn expect_answer(&self) -> u32 {
        let mut state = self.lock();
        let id = fresh_id(&mut state);
        state.answers.insert(id, None);
        id
    }

    /// Waits for the answer to a request that was sent, or not.
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

    /// Registers a command that runs in the guest already under `id`.
    pub(super) fn register_running(&self, id: u32, inbox: Arc<Inbox>) {
        self.lock().inboxes.insert(id, inbox);
    }

    /// Gives only ids after this one to requests and commands.
    pub(super) fn count_from(&self, id: u32) {
        self.lock().next_id = id;
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
    /// Nobody waits for what was not asked, or was given up.
    fn answer(&mut self, id: u32, answer: Answer) {
        if let Some(waiting) = self.answers.get_mut(&id) {
            *waiting = Some(answer);
        }
    }
}

/// The host's time in nanoseconds since 1970.
pub(super) fn realtime_ns() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn random_bytes() -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; ENTROPY];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// What an answer to a request says that is answered by `Done`.
fn done(request: &'static str, answer: &Answer) -> Result<(), GuestError> {
    match *answer {
        Answer::Done(0) => Ok(()),
        Answer::Done(errno) => Err(GuestError::Refused { request, errno }),
        _ => Err(GuestError::WrongAnswer { request }),
    }
}

fn fresh_id(state: &mut State) -> u32 {
    // Ids of long-running commands may still be taken when the counter comes round.
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
