//! Events of the sandboxes in a store.
//!
//! `events.jsonl` in the store's folder has a line of JSON for each event, written by the process
//! that caused it; at 4 MiB it is renamed to `events.jsonl.1`. Events are only reported, and no
//! decision depends on them, so a line that cannot be written is lost without an error.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use blockbox_store::{Spec, Store, state};
use blockbox_vmm::with_causes;
use serde::{Deserialize, Serialize};

/// The largest size of the event file before it is rotated, in bytes.
const LIMIT: u64 = 4 << 20;

const NAME: &str = "events.jsonl";

/// An event of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Event {
    /// Its time, in nanoseconds since the epoch.
    pub time_ns: u64,
    /// `create`, `start`, `exec`, `kill`, `pause`, `unpause`, `die`, `network-lost`, `rename` or
    /// `remove`.
    pub action: String,
    /// The sandbox's id.
    pub id: String,
    /// The sandbox's name.
    pub name: String,
    /// Its image's name, as the user gave it.
    pub image: String,
    /// More fields, such as `exit_code`, `signal` or `old_name`.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

/// Records an event of a sandbox.
pub(crate) fn note(store: &Store, spec: &Spec, action: &str, attributes: &[(&str, String)]) {
    let event = Event {
        time_ns: state::now_ns(),
        action: action.to_owned(),
        id: spec.id.clone(),
        name: spec.name.clone(),
        image: spec.image.asked.clone(),
        attributes: attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
    };
    if let Err(error) = append(store, &event) {
        tracing::debug!("an event cannot be written: {}", with_causes(&error));
    }
}

fn append(store: &Store, event: &Event) -> io::Result<()> {
    let path = store.root().join(NAME);
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    let mut options = File::options();
    options.create(true).append(true).mode(0o600);
    let mut file = options.open(&path)?;
    if file.metadata()?.len() >= LIMIT {
        // If two processes do this at once, the second one rotates a nearly empty file: only events
        // are lost.
        fs::rename(&path, store.root().join(format!("{NAME}.1")))?;
        file = options.open(&path)?;
    }
    // A single write, so that lines of several processes do not mix.
    file.write_all(&line)
}

/// Reads events in the order in which they happened.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    file: Option<BufReader<File>>,
    line: Vec<u8>,
}

impl Events {
    /// Returns a reader of all recorded events, beginning with the oldest.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn all(store: &Store) -> io::Result<Self> {
        let path = store.root().join(NAME);
        let older = open(&path.with_extension("jsonl.1"))?;
        let file = match older {
            Some(older) => Some(older),
            None => open(&path)?,
        };
        Ok(Self {
            path,
            file,
            line: Vec::new(),
        })
    }

    /// Returns a reader of events that happen from now on.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn new(store: &Store) -> io::Result<Self> {
        let path = store.root().join(NAME);
        let mut file = open(&path)?;
        if let Some(file) = &mut file {
            file.seek(SeekFrom::End(0))?;
        }
        Ok(Self {
            path,
            file,
            line: Vec::new(),
        })
    }

    /// Returns the next event; `None` if there is none yet.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn next_event(&mut self) -> io::Result<Option<Event>> {
        loop {
            if let Some(file) = &mut self.file {
                // The beginning of an unfinished line stays in `line`.
                while file.read_until(b'\n', &mut self.line)? > 0 {
                    if self.line.last() != Some(&b'\n') {
                        break;
                    }
                    let event = serde_json::from_slice(&self.line);
                    self.line.clear();
                    // A line that a crash truncated, or that a later version wrote, is skipped.
                    if let Ok(event) = event {
                        return Ok(Some(event));
                    }
                }
            }
            let Some(latest) = open(&self.path)? else {
                return Ok(None);
            };
            if let Some(file) = &self.file {
                let (one, other) = (file.get_ref().metadata()?, latest.get_ref().metadata()?);
                if (one.dev(), one.ino()) == (other.dev(), other.ino()) {
                    return Ok(None);
                }
            }
            self.file = Some(latest);
            self.line.clear();
        }
    }
}

fn open(path: &std::path::Path) -> io::Result<Option<BufReader<File>>> {
    match blockbox_files::open_regular(path) {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blockbox_store::spec::ImageSource;

    fn spec() -> Spec {
        Spec::new("box".to_owned(), ImageSource::new("debian", String::new()))
    }

    fn actions(events: &mut Events) -> Vec<String> {
        std::iter::from_fn(|| events.next_event().unwrap())
            .map(|event| event.action)
            .collect()
    }

    #[test]
    fn events_are_read_in_order_and_as_they_happen() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut from_the_start = Events::new(&store).unwrap();
        note(&store, &spec(), "create", &[]);
        note(&store, &spec(), "die", &[("exit_code", "3".to_owned())]);
        let mut later = Events::new(&store).unwrap();
        assert_eq!(actions(&mut from_the_start), ["create", "die"]);
        assert_eq!(actions(&mut later), [""; 0]);
        // An unfinished line, and one that is not an event.
        let path = dir.path().join(NAME);
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"garbage\n{\"time_ns\": 1, \"action\": \"start\",")
            .unwrap();
        assert_eq!(actions(&mut later), [""; 0]);
        file.write_all(b" \"id\": \"a\", \"name\": \"b\", \"image\": \"c\"}\n")
            .unwrap();
        assert_eq!(actions(&mut later), ["start"]);
        // The same after the file was rotated.
        fs::rename(&path, dir.path().join(format!("{NAME}.1"))).unwrap();
        note(&store, &spec(), "remove", &[]);
        assert_eq!(actions(&mut later), ["remove"]);
        let all = actions(&mut Events::all(&store).unwrap());
        assert_eq!(all, ["create", "die", "start", "remove"]);
    }
}
