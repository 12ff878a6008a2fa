//! `blockbox logs`

use std::collections::VecDeque;
use std::io::{self, Write};
use std::time::Duration;

use anyhow::Context;
use blockbox::Sandbox;
use blockbox::guest::Stream;
use blockbox::log::Entry;
use blockbox::store::{CONSOLE, Store};
use clap::Args;

use super::time;

/// How often to check a followed log.
const LOOK: Duration = Duration::from_millis(50);

/// Show what the command of a sandbox wrote.
#[derive(Debug, Args)]
pub(super) struct Logs {
    /// The sandbox's name or id
    #[arg(value_name = "NAME")]
    name: String,
    /// Also show new output, until the sandbox ends
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "N", value_parser = tail)]
    tail: Option<Tail>,
    /// Only output since a time (2026-01-31T12:00:00Z), or since a duration ago (10m)
    #[arg(long, value_parser = time::since, value_name = "TIME")]
    since: Option<u64>,
    /// Show when each line was written
    #[arg(short, long)]
    timestamps: bool,
    /// Show what the guest's kernel and init printed when the sandbox last booted
    #[arg(long, conflicts_with_all = ["follow", "tail", "since", "timestamps"])]
    boot: bool,
}

/// How many lines.
#[derive(Clone, Copy, Debug)]
enum Tail {
    All,
    Last(usize),
}

fn tail(text: &str) -> Result<Tail, String> {
    if text == "all" {
        return Ok(Tail::All);
    }
    text.parse()
        .map(Tail::Last)
        .map_err(|_| format!("{text:?} is neither a number of lines nor all"))
}

impl Logs {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        let sandbox = Sandbox::open(store, &self.name)?;
        if self.boot {
            let path = store.sandbox(sandbox.name()).join(CONSOLE);
            let console = match std::fs::read(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
                console => console.with_context(|| path.display().to_string())?,
            };
            return Ok(io::stdout().lock().write_all(&console)?);
        }
        let mut log = sandbox.logs()?;
        let mut lines = [Lines::default(), Lines::default()];
        let mut last = VecDeque::new();
        let keep = match self.tail {
            Some(Tail::Last(lines)) => Some(lines),
            _ => None,
        };
        while let Some(entry) = log.next_entry()? {
            if self.since.is_some_and(|since| entry.time_ns < since) {
                continue;
            }
            match keep {
                None => self.print(&mut lines, &entry)?,
                Some(keep) => {
                    // A line may span many entries, so entries are split into lines first.
                    split(&mut lines, &entry, |line| {
                        last.push_back(line);
                        if last.len() > keep {
                            last.pop_front();
                        }
                    });
                }
            }
        }
        if keep.is_some() {
            // An unfinished line counts as a line too.
            let open = lines.iter().any(|lines| !lines.rest.is_empty());
            if open && keep == Some(last.len()) {
                last.pop_front();
            }
            for line in &last {
                self.write(line)?;
            }
        }
        self.flush(&mut lines)?;
        if self.follow {
            loop {
                // Read the state before the log: once the state says that the sandbox ended, its
                // last output is in the log.
                let over = match sandbox.info() {
                    Ok(info) => !info.state.status.is_active(),
                    Err(blockbox::Error::NoSandbox(_)) => true,
                    Err(error) => return Err(error.into()),
                };
                while let Some(entry) = log.next_entry()? {
                    self.print(&mut lines, &entry)?;
                }
                self.flush(&mut lines)?;
                if over {
                    break;
                }
                std::thread::sleep(LOOK);
            }
        }
        Ok(())
    }

    /// Prints an entry as it is, or line by line with times.
    fn print(&self, lines: &mut [Lines; 2], entry: &Entry) -> anyhow::Result<()> {
        if !self.timestamps {
            return self.write(&Line {
                time_ns: entry.time_ns,
                stream: entry.stream,
                text: entry.data.clone(),
            });
        }
        let mut whole = Vec::new();
        split(lines, entry, |line| whole.push(line));
        for line in &whole {
            self.write(line)?;
        }
        Ok(())
    }

    /// Prints the rest of unfinished lines.
    fn flush(&self, lines: &mut [Lines; 2]) -> anyhow::Result<()> {
        if self.timestamps && self.follow {
            return Ok(());
        }
        for (stream, lines) in [Stream::Stdout, Stream::Stderr].into_iter().zip(lines) {
            let text = std::mem::take(&mut lines.rest);
            if !text.is_empty() {
                self.write(&Line {
                    time_ns: lines.time_ns,
                    stream,
                    text,
                })?;
            }
        }
        Ok(())
    }

    fn write(&self, line: &Line) -> anyhow::Result<()> {
        let mut text = Vec::new();
        if self.timestamps {
            text.extend(time::rfc3339(line.time_ns).into_bytes());
            text.push(b' ');
        }
        text.extend(&line.text);
        match line.stream {
            Stream::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(&text)?;
                out.flush()?;
            }
            Stream::Stderr => io::stderr().lock().write_all(&text)?,
        }
        Ok(())
    }
}

/// A line, with its line end if it has one.
struct Line {
    time_ns: u64,
    stream: Stream,
    text: Vec<u8>,
}

/// The beginning of an unfinished line.
#[derive(Default)]
struct Lines {
    time_ns: u64,
    rest: Vec<u8>,
}

/// The most bytes of an unfinished line that are held back.
const LONGEST: usize = 1 << 20;

/// Splits an entry into lines; each has the time of its first byte.
fn split(lines: &mut [Lines; 2], entry: &Entry, mut line: impl FnMut(Line)) {
    let lines = match entry.stream {
        Stream::Stdout => &mut lines[0],
        Stream::Stderr => &mut lines[1],
    };
    for piece in entry.data.split_inclusive(|&byte| byte == b'\n') {
        if lines.rest.is_empty() {
            lines.time_ns = entry.time_ns;
        }
        lines.rest.extend(piece);
        if piece.ends_with(b"\n") || lines.rest.len() > LONGEST {
            line(Line {
                time_ns: lines.time_ns,
                stream: entry.stream,
                text: std::mem::take(&mut lines.rest),
            });
        }
    }
}
