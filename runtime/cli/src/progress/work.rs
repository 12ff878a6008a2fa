//! Progress of one piece of work that moves bytes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use blockbox::store::Meter;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;

use super::{Bars, JSON_EVERY, LINE_EVERY, Mode, Output, print_event};
use crate::output::bytes;

/// Shorter work gets no bar.
const BAR_AFTER: Duration = Duration::from_millis(300);

/// A piece of work. It ends when dropped.
pub(crate) struct Work(Arc<Shared>);

struct Shared {
    what: String,
    total: Option<u64>,
    all: MultiProgress,
    output: Output,
    /// Whether to print a line at its beginning and its end.
    every_line: bool,
    state: Mutex<State>,
}

struct State {
    bytes: u64,
    started: Instant,
    reported: Instant,
    bar: Option<ProgressBar>,
    finished: bool,
}

impl Work {
    pub(super) fn new(what: String, total: Option<u64>, bars: &Bars) -> Self {
        let now = Instant::now();
        let (output, every_line) = (bars.output, bars.mode == Mode::Plain);
        match output {
            Output::Json => {
                print_event(&json!({ "event": "started", "work": what, "total": total }))
            }
            Output::Lines if every_line => eprintln!("{what}"),
            _ => {}
        }
        Self(Arc::new(Shared {
            what,
            total,
            all: bars.all.clone(),
            output,
            every_line,
            state: Mutex::new(State {
                bytes: 0,
                started: now,
                reported: now,
                bar: None,
                finished: false,
            }),
        }))
    }

    /// Returns the meter that counts the bytes.
    pub(crate) fn meter(&self) -> Meter {
        let shared = Arc::clone(&self.0);
        Meter::new(move |count| shared.add(count))
    }

    /// Marks the work as successful.
    pub(crate) fn finish(self) {
        let Shared { what, output, .. } = &*self.0;
        let mut state = self.0.lock();
        state.finished = true;
        match output {
            Output::Json => print_event(&json!({
                "event": "finished", "work": what, "bytes": state.bytes,
            })),
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
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, count: u64) {
        let mut state = self.lock();
        state.bytes += count;
        let due = match self.output {
            Output::Bars => BAR_AFTER,
            Output::Lines => LINE_EVERY,
            Output::Json => JSON_EVERY,
            Output::Nowhere => return,
        };
        if let Some(bar) = &state.bar {
            return bar.set_position(state.bytes);
        }
        if state.finished || state.reported.elapsed() < due {
            return;
        }
        state.reported = Instant::now();
        // Some bytes may be read twice.
        let count = state.bytes.min(self.total.unwrap_or(u64::MAX));
        let what = &self.what;
        match self.output {
            Output::Bars => {
                let bar = self.bar(state.started);
                bar.set_position(count);
                state.bar = Some(bar);
            }
            Output::Json => print_event(&json!({
                "event": "progress", "work": what, "bytes": count, "total": self.total,
            })),
            _ => eprintln!("{what}: {}", bytes(count)),
        }
    }

    fn bar(&self, started: Instant) -> ProgressBar {
        let (bar, template) = match self.total {
            Some(total) => (
                ProgressBar::new(total),
                "{prefix} {bar:30} {bytes:>10} / {total_bytes:10} {bytes_per_sec:>12} {eta:>4}",
            ),
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
            .with_elapsed(started.elapsed());
        self.all.add(bar)
    }
}
