//! Layers that must not be distributed: fetched from the source if it has them, otherwise from the
//! URLs in their descriptors.

use std::io::{self, Read};
use std::sync::Arc;

use super::download::FileReader;
use crate::source::Source;
use crate::{Error, Layer, Options};

/// The bytes of a foreign layer, not verified.
pub(crate) struct ForeignReader {
    source: Arc<dyn Source>,
    layer: Layer,
    options: Options,
    /// Whether the source was asked, and the number of the URL to ask next.
    asked: bool,
    next: usize,
    current: Option<Box<dyn Read + Send>>,
    /// Bytes that came.
    offset: u64,
}

impl ForeignReader {
    pub(crate) fn new(source: Arc<dyn Source>, layer: Layer, options: Options) -> Self {
        Self {
            source,
            layer,
            options,
            asked: false,
            next: 0,
            current: None,
            offset: 0,
        }
    }

    /// Opens the next place that may have the layer; `None` after the last one.
    fn open(&mut self) -> Result<Option<Box<dyn Read + Send>>, Error> {
        let Layer { digest, size, .. } = &self.layer;
        if !std::mem::replace(&mut self.asked, true) && self.source.has(digest)? {
            return self.source.blob(digest, *size).map(Some);
        }
        let Some(url) = self.layer.urls.get(self.next) else {
            return Ok(None);
        };
        self.next += 1;
        // The image chooses this address, so it must lead to a public server only.
        if !url.starts_with("https://") && !self.options.plain_http {
            let problem = "a layer's URL has to begin with https://";
            return Err(Error::Address { problem });
        }
        tracing::debug!(digest = %digest, "fetching a foreign layer from its URL");
        let file = FileReader::new(url, &self.options)?.at(self.offset);
        Ok(Some(Box::new(file)))
    }

    fn last(&self) -> Error {
        Error::ForeignLayer {
            digest: self.layer.digest.clone(),
            media_type: self.layer.media_type.clone(),
        }
    }
}

impl Read for ForeignReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let failure = match &mut self.current {
                Some(current) => match current.read(buffer) {
                    Ok(bytes) => {
                        self.offset += bytes as u64;
                        return Ok(bytes);
                    }
                    Err(error) => error,
                },
                None => match self.open() {
                    Ok(Some(current)) => {
                        self.current = Some(current);
                        continue;
                    }
                    Ok(None) => return Err(self.last().into()),
                    Err(error) => error.into(),
                },
            };
            self.current = None;
            if self.next >= self.layer.urls.len() {
                return Err(failure);
            }
            tracing::debug!(error = %failure, "asking the next URL of a foreign layer");
        }
    }
}
