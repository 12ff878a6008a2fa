//! Progress of the blobs that are pushed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use indicatif::{MultiProgress, ProgressBar};
use ocipull::{Digest, Pushed};
use serde_json::json;

use super::{JSON_EVERY, LINE_EVERY, Output, digest_bar, print_event, say};
use crate::output::bytes;

/// A bar per blob.
pub(super) struct Blobs {
    all: MultiProgress,
    output: Output,
    under_way: Mutex<HashMap<Digest, Blob>>,
}

struct Blob {
    /// Only on a terminal.
    bar: Option<ProgressBar>,
    /// When progress was last reported.
    reported: Instant,
}

impl Blobs {
    pub(super) fn new(all: MultiProgress, output: Output) -> Self {
        Self {
            all,
            output,
            under_way: Mutex::default(),
        }
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Digest, Blob>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports that `sent` of the blob's `size` bytes were sent.
    pub(super) fn pushing(&self, digest: &Digest, size: u64, sent: u64) {
        let mut under_way = self.under_way();
        let Some(blob) = under_way.get_mut(digest) else {
            let bar = || self.all.add(digest_bar(digest.as_str(), size));
            let blob = Blob {
                bar: (self.output == Output::Bars).then(bar),
                reported: Instant::now(),
            };
            under_way.insert(digest.clone(), blob);
            if self.output == Output::Json {
                print_event(&json!({
                    "event": "blob-started", "digest": digest.as_str(), "total": size,
                }));
            }
            return;
        };
        let due = |every| blob.reported.elapsed() >= every;
        match self.output {
            Output::Bars => {
                if let Some(bar) = &blob.bar {
                    bar.set_position(sent);
                }
                return;
            }
            Output::Json if due(JSON_EVERY) => print_event(&json!({
                "event": "blob", "digest": digest.as_str(), "bytes": sent, "total": size,
            })),
            Output::Lines if due(LINE_EVERY) => {
                eprintln!("{digest}: {} of {}", bytes(sent), bytes(size));
            }
            _ => return,
        }
        blob.reported = Instant::now();
    }

    /// Reports that the target has the blob.
    pub(super) fn pushed(&self, digest: &Digest, size: u64, pushed: Pushed) {
        let blob = self.under_way().remove(digest);
        let (result, text) = match pushed {
            Pushed::Existed => ("existed", "is there already"),
            Pushed::Mounted => ("mounted", "is mounted from the source's repository"),
            _ => ("uploaded", "copied"),
        };
        if self.output == Output::Json {
            return print_event(&json!({
                "event": "blob-finished", "digest": digest.as_str(), "bytes": size,
                "result": result,
            }));
        }
        match blob.and_then(|blob| blob.bar) {
            Some(bar) => {
                bar.set_position(size);
                bar.finish();
            }
            None => say(
                &self.all,
                self.output,
                &format!("{digest}: {}: {text}", bytes(size)),
            ),
        }
    }
}
