//! Listings that a damaged record does not stop.

use std::path::Path;

use crate::error::{Error, Result};

/// The objects of one kind in a store, by name.
#[derive(Debug)]
#[non_exhaustive]
pub struct Listing<T> {
    /// The objects whose records could be read.
    pub found: Vec<T>,
    /// The objects whose records could not be read.
    pub damaged: Vec<Damaged>,
}

/// An object whose record cannot be read: it is damaged, or of a later version.
#[derive(Debug)]
#[non_exhaustive]
pub struct Damaged {
    /// The object's name.
    pub name: String,
    /// The error of reading its record.
    pub error: Error,
}

impl Damaged {
    /// Returns a damaged object.
    pub fn new(name: String, error: Error) -> Self {
        Self { name, error }
    }
}

impl<T> Listing<T> {
    /// Returns a listing.
    pub fn new(found: Vec<T>, damaged: Vec<Damaged>) -> Self {
        Self { found, damaged }
    }

    /// Converts the objects.
    pub fn map<U>(self, convert: impl FnMut(T) -> U) -> Listing<U> {
        Listing {
            found: self.found.into_iter().map(convert).collect(),
            damaged: self.damaged,
        }
    }

    /// Reads an object from each folder in `parent`; `None` is not an object.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if `parent` cannot be read.
    pub(crate) fn read(parent: &Path, read: impl Fn(&Path) -> Result<Option<T>>) -> Result<Self> {
        let mut names = crate::names(parent)?;
        // Folders whose name begins with a dot are being made or removed.
        names.retain(|name| !name.as_encoded_bytes().starts_with(b"."));
        names.sort();
        let (mut found, mut damaged) = (Vec::new(), Vec::new());
        for name in names {
            match read(&parent.join(&name)) {
                Ok(object) => found.extend(object),
                Err(error) => {
                    damaged.push(Damaged::new(name.to_string_lossy().into_owned(), error));
                }
            }
        }
        Ok(Self { found, damaged })
    }
}
