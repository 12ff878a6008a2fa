//! Progress of one piece of work, which may move bytes.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use blockbox::store::Meter;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{JSON_EVERY, LINE_EVERY, Maker, Mode, Output, print_event};
use crate::output::bytes;

/// Shorter work gets no bar.
const BAR_AFTER: Duration = Duration::from_millis(300);

/// How often the bar of work that moves no bytes shows that it goes on.
const TICK: Duration = Duration::from_millis(120);

/// A piece of work. It ends when dropped.
pub(crate) struct Work(Arc<Shared>);

struct Shared {
    what: String,
    total: Option<u64>,
    maker: Maker,
    /// Whether to print a line at its beginning and its end.
    every_line: bool,
    state: Mutex<State>,
    /// Signalled when the work ends.
    ended: Condvar,
}

struct State {
    bytes: u64,
    started: Instant,
    reported: Instant,
    bar: Option<ProgressBar>,
    finished: bool,
}

impl Work {
    pub(super) fn new(what: String, total: Option<u64>, maker: &Maker) -> Self {
        let now = Instant::now();
        let every_line = maker.mode == Mode::Plain;
        match maker.output {
            Output::Json => {
                print_event(&json!({ "event": "started", "work": what, "total": total }))
            }
            Output::Lines if every_line => eprintln!("{what}"),
            _ => {}
        }
        let shared = Arc::new(Shared {
            what,
            total,
            maker: maker.clone(),
            every_line,
            state: Mutex::new(State {
                bytes: 0,
                started: now,
                reported: now,
                bar: None,
                finished: false,
            }),
            ended: Condvar::new(),
        });
        if matches!(maker.output, Output::Bars | Output::Lines) {
            let watched = Arc::clone(&shared);
            // Without this thread, only work that moves bytes is shown.
            let _ = thread::Builder::new()
                .name("progress".to_owned())
                .spawn(move || watched.watch());
        }
        Self(shared)
    }

    /// Returns the meter that counts the bytes.
    pub(crate) fn meter(&self) -> Meter {
        let shared = Arc::clone(&self.0);
        Meter::new(move |count| shared.add(count))
    }

    /// Marks the work as successful.
    pub(crate) fn finish(self) {
        let Shared { what, maker, .. } = &*self.0;
        let mut state = self.0.lock();
        state.finished = true;
        match maker.output {
            Output::Json => print_event(&json!({
                "event": "finished", "work": what, "bytes": state.bytes,
            })),
            Output::Lines if self.0.every_line && state.bytes == 0 => eprintln!("{what}: done"),
            Output::Lines if self.0.every_line => eprintln!("{what}: {}", bytes(state.bytes)),
            _ => {}
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        // Later counts do not create another bar.
        state.finished = true;
        if let Some(bar) = state.bar.take() {
            bar.finish_and_clear();
        }
        drop(state);
        self.0.ended.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long after the last report the next one is due; `None` if nothing is reported.
    fn due(&self) -> Option<Duration> {
        match self.maker.output {
            Output::Bars => Some(BAR_AFTER),
            Output::Lines => Some(LINE_EVERY),
            Output::Json => Some(JSON_EVERY),
            Output::Nowhere => None,
        }
    }

    /// Reports the work when it is due, until it ends or its bar moves by itself.
    fn watch(&self) {
        let mut state = self.lock();
        while !state.finished && state.bar.is_none() {
            let Some(left) = self
                .due()
                .map(|due| due.saturating_sub(state.reported.elapsed()))
            else {
                return;
            };
            if left.is_zero() {
                self.report(&mut state);
                continue;
            }
            let waited = self.ended.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn add(&self, count: u64) {
        let mut state = self.lock();
        state.bytes += count;
        if let Some(bar) = &state.bar {
            return bar.set_position(state.bytes);
        }
        match self.due() {
            Some(due) if !state.finished && state.reported.elapsed() >= due => {
                self.report(&mut state);
            }
            _ => {}
        }
    }

    fn report(&self, state: &mut State) {
        state.reported = Instant::now();
        // Some bytes may be read twice.
        let count = state.bytes.min(self.total.unwrap_or(u64::MAX));
        let what = &self.what;
        match self.maker.output {
            Output::Bars => {
                let bar = self.bar(state);
                bar.set_position(count);
                state.bar = Some(bar);
            }
            Output::Json => print_event(&json!({
                "event": "progress", "work": what, "bytes": count, "total": self.total,
            })),
            Output::Lines if count == 0 => eprintln!("{what}"),
            _ => eprintln!("{what}: {}", bytes(count)),
        }
    }

    fn bar(&self, state: &State) -> ProgressBar {
        let (bar, template) = match self.total {
            Some(total) => (
                ProgressBar::new(total),
                "{prefix} {bar:30} {bytes:>10} / {total_bytes:10} {bytes_per_sec:>12} {eta:>4}",
            ),
            None if state.bytes == 0 => (ProgressBar::no_length(), "{prefix} {spinner} {elapsed}"),
            None => (
                ProgressBar::no_length(),
                "{prefix} {spinner} {bytes:>10} {bytes_per_sec:>12}",
            ),
        };
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = bar
            .with_style(style)
            .with_prefix(self.what.clone())
            .with_elapsed(state.started.elapsed());
        let bar = self.maker.all.add(bar);
        bar.enable_steady_tick(TICK);
        bar
    }
}
