//! The network of a sandbox as its record describes it and its gateway provides it: what the guest
//! can reach, what can reach the guest, and its address.

mod mac;
mod publish;
mod rule;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use mac::{MacAddress, MacAddressError};
pub use publish::{BoundPort, Protocol, Publish, PublishError};
pub use rule::{Rule, RuleError, host_name};

/// What a guest can reach if no rule matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Only what the allow list contains.
    None,
    /// The internet: public addresses, except the host's own.
    #[default]
    Public,
    /// Everything that the host can reach, including private networks, link-local and metadata
    /// addresses, but not its loopback.
    All,
}

/// A name with a fixed address: a line of `/etc/hosts`, or an extra host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HostEntry {
    /// The name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
}

impl HostEntry {
    /// Returns an entry for a name and its address.
    pub fn new(name: impl Into<String>, address: IpAddr) -> Self {
        Self {
            name: name.into(),
            address,
        }
    }
}
