//! Digests and platforms from text. Apart from these types, since [`Error`] contains both of them.

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
