//! Parsing of digests and platforms. It is separate from the types because [`Error`] contains both.

use std::str::FromStr;

use crate::{Digest, Error, Platform};

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text).ok_or_else(|| Error::InvalidDigest {
            text: text.chars().take(160).collect(),
        })
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text).ok_or_else(|| Error::InvalidPlatform {
            text: text.to_owned(),
        })
    }
}
