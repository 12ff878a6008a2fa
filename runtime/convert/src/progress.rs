//! Progress of a pull.

/// Receives the progress of a pull. Every method may be called from several threads.
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
}

/// Ignores all progress.
impl Progress for () {}
