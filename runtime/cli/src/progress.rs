//! Progress: bars on a terminal, plain lines elsewhere, JSON for programs. [`Bars`] shows the
//! layers of an image, the blobs that are pushed, and what is done between them; [`Work`] shows one
//! piece of work.

mod blobs;
mod spools;
mod work;

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use blockbox::progress::{Phase, Progress};
use blockbox::store::Meter;
use blockbox::vmm::with_causes;
use clap::{Args, ValueEnum};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use blobs::Blobs;
use spools::Spools;
pub(super) use work::Work;

/// How often JSON progress reports a layer.
const JSON_EVERY: Duration = Duration::from_millis(200);

/// How often a line reports progress.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// How progress is shown, on standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// Bars on a terminal, else lines
    #[default]
    Auto,
    /// Lines
    Plain,
    /// A JSON document per line
    Json,
    /// Nothing
    None,
}

/// Options of commands that report progress.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct Shown {
    /// How to show progress, on standard error
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    progress: Mode,
    /// Show no progress: `--progress none`
    #[arg(short, long, conflicts_with = "progress")]
    quiet: bool,
}

impl Shown {
    pub(super) fn bars(self) -> Bars {
        Bars::with(self.mode())
    }

    /// Returns bars that print nothing if nothing is missing, for commands whose output is another
    /// program's.
    pub(super) fn bars_unless_complete(self) -> Bars {
        Bars {
            complete: false,
            ..self.bars()
        }
    }

    /// Begins a piece of work; `total` is the number of bytes that it moves, if known.
    pub(super) fn work(self, what: impl Into<String>, total: Option<u64>) -> Work {
        self.bars().work(what, total)
    }

    fn mode(self) -> Mode {
        match self.quiet {
            true => Mode::None,
            false => self.progress,
        }
    }
}

impl Mode {
    fn output(self) -> Output {
        match self {
            Self::Auto if std::io::stderr().is_terminal() => Output::Bars,
            Self::Auto | Self::Plain => Output::Lines,
            Self::Json => Output::Json,
            Self::None => Output::Nowhere,
        }
    }
}

/// Where progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Bars,
    Lines,
    Json,
    Nowhere,
}

/// What shows pieces of work.
#[derive(Clone)]
struct Maker {
    all: MultiProgress,
    mode: Mode,
    output: Output,
}

/// How much of a layer is done, in JSON.
struct Layer {
    bytes: u64,
    total: u64,
    reported: Instant,
}

/// A bar per layer, and per blob that is pushed.
pub(super) struct Bars {
    all: MultiProgress,
    layers: Mutex<HashMap<usize, ProgressBar>>,
    for_programs: Mutex<HashMap<usize, Layer>>,
    blobs: Arc<Blobs>,
    mode: Mode,
    output: Output,
    /// Whether to report that nothing is missing.
    complete: bool,
}

impl Bars {
    fn with(mode: Mode) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let output = mode.output();
        Self {
            complete: true,
            layers: Mutex::default(),
            for_programs: Mutex::default(),
            blobs: Arc::new(Blobs::new(all.clone(), output)),
            all,
            mode,
            output,
        }
    }

    /// Begins a piece of work, whose bar is among these; `total` is the number of bytes that it
    /// moves, if known.
    pub(super) fn work(&self, what: impl Into<String>, total: Option<u64>) -> Work {
        Work::new(what.into(), total, &self.maker())
    }

    fn maker(&self) -> Maker {
        Maker {
            all: self.all.clone(),
            mode: self.mode,
            output: self.output,
        }
    }

    /// Returns the events to report of a transfer: its waits, and the blobs pushed.
    pub(super) fn events(&self) -> ocipull::Events {
        let (all, output) = (self.all.clone(), self.output);
        let blobs = Arc::clone(&self.blobs);
        let spools = Spools::new(self);
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
                ocipull::Event::Pushing { digest, size, sent } => {
                    return blobs.pushing(digest, *size, *sent);
                }
                ocipull::Event::Pushed {
                    digest,
                    size,
                    pushed,
                } => return blobs.pushed(digest, *size, *pushed),
                ocipull::Event::Spooling {
                    source,
                    bytes,
                    complete,
                } => return spools.report(source, *bytes, *complete),
                ocipull::Event::NextMirror { host, error } => {
                    format!("{}: asking {host}", with_causes(error))
                }
                ocipull::Event::WaitingForHelper { program, left } => {
                    format!("waiting for {program}, {} s at most", left.as_secs())
                }
                _ => return,
            };
            say(&all, output, &line);
        })
    }

    /// Reports something, with the bars.
    pub(super) fn say(&self, line: &str) {
        say(&self.all, self.output, line);
    }

    fn on_bar(&self, layer: usize, act: impl FnOnce(&ProgressBar)) {
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

fn say(all: &MultiProgress, output: Output, line: &str) {
    match output {
        // Printed above the bars; they would overwrite a line printed directly.
        Output::Bars => drop(all.println(line)),
        Output::Lines => eprintln!("{line}"),
        Output::Json => print_event(&json!({ "event": "message", "text": line })),
        Output::Nowhere => {}
    }
}

/// Returns a bar for the bytes of a layer or blob.
fn digest_bar(digest: &str, size: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{prefix} {bar:30} {bytes:>10} / {total_bytes:10} {bytes_per_sec:>12} {eta:>4}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar());
    let hex = digest.rsplit(':').next().unwrap_or(digest);
    let short: String = hex.chars().take(12).collect();
    ProgressBar::new(size).with_style(style).with_prefix(short)
}

/// Returns a callback of ocipull's that counts what was fetched with `meter`.
pub(super) fn counted(meter: Meter) -> ocipull::Progress {
    let counted = AtomicU64::new(0);
    ocipull::Progress::new(move |done| {
        let before = counted.fetch_max(done.bytes, Ordering::Relaxed);
        meter.add(done.bytes.saturating_sub(before));
    })
}

fn print_event(event: &Value) {
    eprintln!("{event}");
}

impl Progress for Bars {
    fn resolved(&self, manifest_digest: &str, layers: usize, missing: usize) {
        if missing == 0 && !self.complete {
            return;
        }
        if self.output == Output::Json {
            return print_event(&json!({
                "event": "resolved", "digest": manifest_digest, "layers": layers, "missing": missing,
            }));
        }
        let have = layers - missing;
        self.say(&format!(
            "{manifest_digest}: {layers} layers, {have} in the store"
        ));
    }

    fn layer_started(&self, layer: usize, digest: &str, size: u64) {
        if self.output == Output::Json {
            let (bytes, reported) = (0, Instant::now());
            let state = Layer {
                bytes,
                total: size,
                reported,
            };
            let mut layers = self.for_programs.lock().unwrap_or_else(|e| e.into_inner());
            layers.insert(layer, state);
            return print_event(&json!({
                "event": "layer-started", "layer": layer, "digest": digest, "total": size,
            }));
        }
        if self.output != Output::Bars {
            return self.say(&format!("layer {layer}: {digest}, {size} bytes"));
        }
        let bar = self.all.add(digest_bar(digest, size));
        self.layers
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .insert(layer, bar);
    }

    fn layer_read(&self, layer: usize, bytes: u64) {
        let mut layers = self.for_programs.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(state) = layers.get_mut(&layer) {
            state.bytes += bytes;
            if state.reported.elapsed() >= JSON_EVERY {
                state.reported = Instant::now();
                print_event(&json!({
                    "event": "layer", "layer": layer, "bytes": state.bytes, "total": state.total,
                }));
            }
        }
        drop(layers);
        self.on_bar(layer, |bar| bar.inc(bytes));
    }

    fn layer_finished(&self, layer: usize) {
        if self.output == Output::Json {
            print_event(&json!({ "event": "layer-finished", "layer": layer }));
        }
        self.on_bar(layer, ProgressBar::finish);
    }

    fn phase(&self, what: &str, total: Option<u64>) -> Phase {
        let work = self.work(what, total);
        Phase::new(work.meter(), move || work.finish())
    }

    fn warning(&self, text: &str) {
        match self.output {
            Output::Json => print_event(&json!({ "event": "warning", "text": text })),
            _ => self.say(&format!("warning: {text}")),
        }
    }
}
