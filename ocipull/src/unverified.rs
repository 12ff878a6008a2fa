//! The layers of an image that were read in part and are not verified.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{Digest, Error};

/// The digests of layers whose readers were dropped before their end. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unverified(Arc<Mutex<Vec<Digest>>>);

impl Unverified {
    fn with<T>(&self, f: impl FnOnce(&mut Vec<Digest>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes that a reader of `layer` was dropped.
    pub(crate) fn add(&self, layer: &Digest) {
        tracing::warn!(
            layer = layer.as_str(),
            "a layer was not read to its end, so its contents are not verified"
        );
        self.with(|layers| layers.push(layer.clone()));
    }

    /// Notes that all of `layer` was verified after all.
    pub(crate) fn remove(&self, layer: &Digest) {
        self.with(|layers| layers.retain(|unverified| unverified != layer));
    }

    /// Fails if there is a layer but `except`.
    pub(crate) fn check(&self, except: Option<&Digest>) -> Result<(), Error> {
        let mut found = self.with(|layers| layers.clone()).into_iter();
        match found.find(|layer| Some(layer) != except) {
            Some(layer) => Err(Error::Unverified { layer }),
            None => Ok(()),
        }
    }
}
