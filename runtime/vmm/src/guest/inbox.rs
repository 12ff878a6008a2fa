//! What has arrived for a command and was not read yet.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use blockbox_protocol::{ExitStatus, Stream, WINDOW};

/// An event of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The command wrote output.
    Output {
        /// The output stream; with a terminal always stdout.
        stream: Stream,
        /// The bytes.
        data: Vec<u8>,
    },
    /// The command ended, after all its output. This is the last event.
    Exited(ExitStatus),
}

/// Why no more messages come from the guest.
#[derive(Debug, Clone)]
pub(super) enum End {
    Closed,
    Fatal(String),
    Protocol(blockbox_protocol::ProtocolError),
    WindowExceeded,
}

/// Unread messages for a command.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    pid: Option<u32>,
    output: VecDeque<(Stream, Vec<u8>)>,
    /// How many bytes of each output the guest may still send.
    window: [usize; 2],
    /// How many bytes of input may be sent to the guest.
    credit: usize,
    over: Option<Over>,
}

impl Default for State {
    fn default() -> Self {
        State {
            pid: None,
            output: VecDeque::new(),
            window: [WINDOW; 2],
            credit: WINDOW,
            over: None,
        }
    }
}

#[derive(Debug, Clone)]
enum Over {
    Exited(ExitStatus),
    SpawnFailed { code: u8, message: String },
    End(End),
}

pub(super) enum Failure {
    Spawn { code: u8, message: String },
    End(End),
}

fn index(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

impl Inbox {
    pub(super) fn started(&self, pid: u32) {
        self.change(|state| state.pid = Some(pid));
    }

    pub(super) fn spawn_failed(&self, code: u8, message: String) {
        self.change(|state| state.over = Some(Over::SpawnFailed { code, message }));
    }

    pub(super) fn exited(&self, status: ExitStatus) {
        self.change(|state| state.over = Some(Over::Exited(status)));
    }

    pub(super) fn close(&self, end: &End) {
        self.change(|state| state.over = Some(Over::End(end.clone())));
    }

    pub(super) fn credit(&self, bytes: u32) {
        // A guest that returns too much credit gains nothing: the window limits what the guest must
        // buffer.
        self.change(|state| state.credit = state.credit.saturating_add(bytes as usize).min(WINDOW));
    }

    pub(super) fn output(&self, stream: Stream, data: Vec<u8>) -> Result<(), ()> {
        let mut state = self.lock();
        let window = &mut state.window[index(stream)];
        *window = window.checked_sub(data.len()).ok_or(())?;
        if !data.is_empty() {
            state.output.push_back((stream, data));
        }
        self.changed.notify_all();
        Ok(())
    }

    pub(super) fn repaid(&self, stream: Stream, bytes: usize) {
        self.change(|state| state.window[index(stream)] += bytes);
    }

    pub(super) fn is_over(&self) -> bool {
        self.lock().over.is_some()
    }

    pub(super) fn wait_started(&self) -> Result<u32, Failure> {
        self.wait(|state| match (&state.over, state.pid) {
            (Some(Over::SpawnFailed { code, message }), _) => Some(Err(Failure::Spawn {
                code: *code,
                message: message.clone(),
            })),
            (_, Some(pid)) => Some(Ok(pid)),
            (Some(Over::End(end)), None) => Some(Err(Failure::End(end.clone()))),
            (Some(Over::Exited(_)), None) => Some(Err(Failure::End(End::Closed))),
            (None, None) => None,
        })
    }

    pub(super) fn next_event(&self) -> Result<Event, End> {
        self.wait(|state| {
            if let Some((stream, data)) = state.output.pop_front() {
                return Some(Ok(Event::Output { stream, data }));
            }
            match state.over.clone()? {
                Over::Exited(status) => Some(Ok(Event::Exited(status))),
                Over::SpawnFailed { .. } => Some(Err(End::Closed)),
                Over::End(end) => Some(Err(end)),
            }
        })
    }

    /// Waits for credit and takes at most `wanted` bytes of it; `None` once the command is over.
    pub(super) fn take_credit(&self, wanted: usize) -> Option<usize> {
        self.wait(|state| {
            if state.over.is_some() {
                return Some(None);
            }
            let taken = wanted.min(state.credit);
            state.credit -= taken;
            (taken > 0).then_some(Some(taken))
        })
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn wait<T>(&self, mut found: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut state = self.lock();
        loop {
            if let Some(value) = found(&mut state) {
                return value;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
