//! Progress bars on the terminal, plain lines elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::Mutex;

use blockbox::progress::Progress;
use blockbox::vmm::with_causes;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar per layer.
pub(super) struct Bars {
    all: MultiProgress,
    layers: Mutex<HashMap<usize, ProgressBar>>,
    terminal: bool,
    /// Whether it is worth a line that nothing is missing.
    complete: bool,
}

impl Bars {
    pub(super) fn new() -> Self {
        Self {
            complete: true,
            all: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            layers: Mutex::default(),
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// For a command whose output is another program's: it says nothing where there is nothing to do.
    pub(super) fn unless_complete() -> Self {
        Self {
            complete: false,
            ..Self::new()
        }
    }

    /// What tells of the waits of a transfer.
    pub(super) fn events(&self) -> ocipull::Events {
        let (all, terminal) = (self.all.clone(), self.terminal);
        ocipull::Events::new(move |event| {
            let line = match event {
                ocipull::Event::Waiting {
                    host,
                    error,
                    delay,
                    attempt,
                    attempts,
                } => format!(
                    "{host}: {}: trying again in {:.1} s ({attempt} of {attempts})",
                    with_causes(error),
                    delay.as_secs_f32()
                ),
                ocipull::Event::NextMirror { host, error } => {
                    format!("{}: asking {host}", with_causes(error))
                }
                _ => return,
            };
            say(&all, terminal, &line);
        })
    }

    /// A bar for a file of unknown size, on a terminal.
    pub(super) fn download(&self) -> ocipull::Progress {
        let style = ProgressStyle::with_template("{spinner} {bytes} {bytes_per_sec}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::no_length().with_style(style);
        let bar = self.terminal.then(|| self.all.add(bar));
        ocipull::Progress::new(move |bytes| {
            if let Some(bar) = &bar {
                bar.inc(bytes);
            }
        })
    }

    fn say(&self, line: &str) {
        say(&self.all, self.terminal, line);
    }

    fn with(&self, layer: usize, act: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = self
            .layers
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .get(&layer)
        {
            act(bar);
        }
    }
}

fn say(all: &MultiProgress, terminal: bool, line: &str) {
    if terminal {
        // Above the bars, which would overwrite a line printed past them.
        let _ = all.println(line);
    } else {
        eprintln!("{line}");
    }
}

impl Progress for Bars {
    fn resolved(&self, manifest_digest: &str, layers: usize, missing: usize) {
        if missing == 0 && !self.complete {
            return;
        }
        let have = layers - missing;
        self.say(&format!(
            "{manifest_digest}: {layers} layers, {have} in the store"
        ));
    }

    fn layer_started(&self, layer: usize, digest: &str, size: u64) {
        if !self.terminal {
            return self.say(&format!("layer {layer}: {digest}, {size} bytes"));
        }
        let style = ProgressStyle::with_template(
            "{prefix} {bar:30} {bytes:>10} / {total_bytes:10} {bytes_per_sec}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar());
        let short = digest
            .rsplit(':')
            .next()
            .unwrap_or(digest)
            .chars()
            .take(12)
            .collect::<String>();
        let bar = self
            .all
            .add(ProgressBar::new(size).with_style(style).with_prefix(short));
        self.layers
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .insert(layer, bar);
    }

    fn layer_read(&self, layer: usize, bytes: u64) {
        self.with(layer, |bar| bar.inc(bytes));
    }

    fn layer_finished(&self, layer: usize) {
        self.with(layer, ProgressBar::finish);
    }

    fn warning(&self, text: &str) {
        self.say(&format!("warning: {text}"));
    }
}
