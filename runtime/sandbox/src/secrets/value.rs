//! A secret with its value, as the program that starts a sandbox sends it to the monitor.

use std::fmt;

use blockbox_store::spec::Bytes;
use serde::{Deserialize, Serialize};

/// The mode of a secret's file, as docker's and podman's.
const MODE: u32 = 0o444;

/// A secret and its value.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Value {
    pub(super) name: String,
    pub(super) data: Bytes,
}

/// Omits the value, which must not be logged.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Value").field(&self.name).finish()
    }
}

impl Value {
    pub(crate) fn new(name: &str, data: Vec<u8>) -> Self {
        Self {
            name: name.to_owned(),
            data: data.into(),
        }
    }

    /// Returns the secret in the form of the guest's protocol.
    pub(crate) fn into_file(self) -> blockbox_protocol::Secret {
        blockbox_protocol::Secret {
            name: self.name.into_bytes(),
            data: self.data.0,
            mode: MODE,
            uid: 0,
            gid: 0,
        }
    }
}
