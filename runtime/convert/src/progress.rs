//! Progress of a pull, a conversion and other long work on images.

use std::fmt;

use blockbox_store::Meter;

/// Receives the progress of long work. Every method may be called from several threads.
pub trait Progress: Sync {
    /// The image is resolved: it has `layers` layers, of which the store lacks `missing`.
    fn resolved(&self, _manifest_digest: &str, _layers: usize, _missing: usize) {}
    /// Fetching and converting a layer of `size` compressed bytes has begun.
    fn layer_started(&self, _layer: usize, _digest: &str, _size: u64) {}
    /// `bytes` more compressed bytes of the layer were read.
    fn layer_read(&self, _layer: usize, _bytes: u64) {}
    /// The layer is in the store.
    fn layer_finished(&self, _layer: usize) {}
    /// Reports a problem that is not an error.
    fn warning(&self, _text: &str) {}
    /// Work that is not a layer's download begins, such as "merging 3 layers". `total` is how many
    /// bytes it moves, if known. It ends when the returned value is dropped.
    fn phase(&self, _what: &str, _total: Option<u64>) -> Phase {
        Phase::default()
    }
}

/// Ignores all progress.
impl Progress for () {}

/// Work that [`Progress::phase`] announced.
#[derive(Default)]
pub struct Phase {
    meter: Meter,
    finish: Option<Box<dyn FnOnce() + Send>>,
}

impl Phase {
    /// Returns a phase whose bytes `meter` counts. `finish` is called if the work succeeds, and
    /// dropped in any case.
    pub fn new(meter: Meter, finish: impl FnOnce() + Send + 'static) -> Self {
        Self {
            meter,
            finish: Some(Box::new(finish)),
        }
    }
}

impl fmt::Debug for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Phase(…)")
    }
}

/// Returns `1 layer`, or `COUNT layers`.
pub(crate) fn layers(count: usize) -> String {
    match count {
        1 => "1 layer".to_owned(),
        _ => format!("{count} layers"),
    }
}

/// Does `work` as a phase called `what`, which moves `total` bytes, if known; the meter counts
/// them.
pub(crate) fn phase<T, E>(
    progress: &dyn Progress,
    what: impl AsRef<str>,
    total: Option<u64>,
    work: impl FnOnce(&Meter) -> Result<T, E>,
) -> Result<T, E> {
    let Phase { meter, finish } = progress.phase(what.as_ref(), total);
    let done = work(&meter)?;
    if let Some(finish) = finish {
        finish();
    }
    Ok(done)
}
