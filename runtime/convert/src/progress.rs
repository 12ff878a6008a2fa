//! How long work tells how far it is, without knowing who listens.

/// Listens to the progress of a pull. Every method may be called from several threads.
pub trait Progress: Sync {
    /// The image is known: it has `layers` layers, of which the store lacks `missing`.
    fn resolved(&self, _manifest_digest: &str, _layers: usize, _missing: usize) {}
    /// Fetching and converting a layer of `size` compressed bytes has begun.
    fn layer_started(&self, _layer: usize, _digest: &str, _size: u64) {}
    /// `bytes` more compressed bytes of the layer have been read.
    fn layer_read(&self, _layer: usize, _bytes: u64) {}
    /// The layer is in the store.
    fn layer_finished(&self, _layer: usize) {}
    /// Something worth telling that is no error.
    fn warning(&self, _text: &str) {}
}

/// Listens to nothing.
impl Progress for () {}
