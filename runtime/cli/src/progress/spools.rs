//! Progress of images that are copied to a temporary file before they can be read.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::{Bars, Maker, Work};

/// A piece of work per source.
pub(super) struct Spools {
    maker: Maker,
    under_way: Mutex<HashMap<String, (Work, u64)>>,
}

impl Spools {
    pub(super) fn new(bars: &Bars) -> Self {
        Self {
            maker: bars.maker(),
            under_way: Mutex::default(),
        }
    }

    /// Reports that `bytes` of the image from `source` were read.
    pub(super) fn report(&self, source: &str, bytes: u64, complete: bool) {
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (work, counted) = under_way
            .entry(source.to_owned())
            .or_insert_with(|| (Work::new(format!("reading {source}"), None, &self.maker), 0));
        work.meter().add(bytes.saturating_sub(*counted));
        *counted = bytes;
        if complete && let Some((work, _)) = under_way.remove(source) {
            work.finish();
        }
    }
}
