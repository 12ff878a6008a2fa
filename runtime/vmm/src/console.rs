//! Captures the guest's console, whose last output is shown when the guest fails.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How many bytes of console output are kept in memory.
const KEPT: usize = 64 * 1024;

/// The largest size of a log file, in bytes: the guest decides how much it prints, the host how
/// much it stores.
const LOG_LIMIT: u64 = 4 * 1024 * 1024;

/// The console of a running or ended VM. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Console {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    tail: VecDeque<u8>,
    closed: bool,
}

impl Console {
    /// Reads `source` to its end in a thread.
    pub(crate) fn capture(mut source: impl Read + Send + 'static, mut log: Option<File>) -> Self {
        let shared = Arc::<Shared>::default();
        let console = Console {
            shared: Arc::clone(&shared),
        };
        thread::spawn(move || {
            let mut logged = 0;
            let mut chunk = [0; 4096];
            loop {
                let count = match source.read(&mut chunk) {
                    Ok(0) => break,
                    Ok(count) => count,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(_) => break,
                };
                let bytes = chunk.get(..count).unwrap_or_default();
                logged += count as u64;
                if logged > LOG_LIMIT {
                    log = None;
                }
                // A log that cannot be written must not stop the guest.
                if log
                    .as_mut()
                    .is_some_and(|file| file.write_all(bytes).is_err())
                {
                    log = None;
                }
                let mut state = lock(&shared.state);
                state.tail.extend(bytes);
                let surplus = state.tail.len().saturating_sub(KEPT);
                state.tail.drain(..surplus);
            }
            lock(&shared.state).closed = true;
            shared.changed.notify_all();
        });
        console
    }

    /// Returns the last output.
    pub(crate) fn tail(&self) -> String {
        text(&lock(&self.shared.state))
    }

    /// Waits until the console is closed, which happens when the VM has ended, or until the
    /// timeout.
    pub(crate) fn wait_closed(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let mut state = lock(&self.shared.state);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                return;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn text(state: &State) -> String {
    let (front, back) = state.tail.as_slices();
    String::from_utf8_lossy(&[front, back].concat()).into_owned()
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
