//! Denials of the policy, and the option that would allow each.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use blockbox_protocol::network::{Mode, Protocol, Rule};
use serde::{Deserialize, Serialize};

use crate::scope::Scope;

/// The reason of a denial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
#[non_exhaustive]
pub enum Reason {
    /// A deny rule matches.
    Denied {
        /// The rule.
        rule: Rule,
    },
    /// The mode is [`Mode::None`] and no allow rule matches.
    NotAllowed,
    /// The mode does not allow addresses of this scope.
    Scope {
        /// A description of the scope.
        scope: String,
    },
    /// The address is one of the host's own.
    HostAddress,
    /// The port of the host's loopback is not open to the guest.
    HostPort,
    /// The name's addresses are not public: a rebinding attack, or a name of a private network.
    Rebinding {
        /// The first address that is not public.
        address: IpAddr,
    },
    /// The TLS or HTTP name of the connection is not that of the allowed host.
    OtherName {
        /// The name in the connection.
        name: String,
    },
    /// The connection begins as TLS or HTTP, but has no name within 16 KiB and five seconds.
    NameNotFound,
    /// A limit is reached.
    Limit {
        /// The limited resource.
        what: String,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied { rule } => write!(f, "a rule denies {rule}"),
            Self::NotAllowed => f.write_str("no rule allows it"),
            Self::Scope { scope } => write!(f, "it is {scope}"),
            Self::HostAddress => f.write_str("it is an address of the host"),
            Self::HostPort => f.write_str("the host's port is not open to the guest"),
            Self::Rebinding { address } => {
                write!(f, "the name resolves to {address}, which is not public")
            }
            Self::OtherName { name } => write!(f, "the connection asks for {name}"),
            Self::NameNotFound => f.write_str("the connection hides the name it asks for"),
            Self::Limit { what } => write!(f, "too many {what}"),
        }
    }
}

/// The change that would allow what was denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Remedy {
    /// A rule in the allow list.
    Allow(Rule),
    /// A port of the host's loopback.
    HostPort(u16),
    /// Removing the rule from the deny list.
    RemoveDeny(Rule),
    /// Another mode.
    Mode(Mode),
}

/// A denial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Denial {
    /// When it last occurred, in seconds since 1970.
    pub time: u64,
    /// How often it occurred in a row.
    pub count: u64,
    /// The protocol; `None` for a name lookup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// The destination, except for a name lookup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<SocketAddr>,
    /// The name, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The reason.
    pub reason: Reason,
    /// The change that would allow it; `None` if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<Remedy>,
}

impl Denial {
    /// Returns the denial of a packet or connection.
    pub(crate) fn to(protocol: Protocol, destination: SocketAddr, reason: Reason) -> Box<Self> {
        Box::new(Self {
            time: 0,
            count: 1,
            protocol: Some(protocol),
            destination: Some(destination),
            name: None,
            reason,
            remedy: None,
        })
    }

    /// Returns the denial of a name lookup.
    pub(crate) fn of_name(name: &str, reason: Reason) -> Box<Self> {
        Box::new(Self {
            time: 0,
            count: 1,
            protocol: None,
            destination: None,
            name: Some(name.to_owned()),
            reason,
            remedy: None,
        })
    }

    pub(crate) fn name(mut self: Box<Self>, name: Option<String>) -> Box<Self> {
        self.name = name;
        self
    }

    pub(crate) fn remedy(mut self: Box<Self>, remedy: Option<Remedy>) -> Box<Self> {
        self.remedy = remedy;
        self
    }
}

impl From<Scope> for Reason {
    fn from(scope: Scope) -> Self {
        Self::Scope {
            scope: scope.to_string(),
        }
    }
}

/// The last denials.
#[derive(Debug, Default)]
pub(crate) struct Denials {
    ring: VecDeque<Denial>,
    /// The total number of denials.
    pub(crate) total: u64,
}

impl Denials {
    const KEPT: usize = 256;

    /// Records a denial; if a similar one is kept, only its count is increased.
    pub(crate) fn record(&mut self, mut denial: Denial) {
        self.total = self.total.saturating_add(1);
        denial.time = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let same = |old: &Denial| {
            old.protocol == denial.protocol
                && old.destination == denial.destination
                && old.name == denial.name
                && old.reason == denial.reason
        };
        // Repeated attempts of a program are among the last denials.
        if let Some(old) = self.ring.iter_mut().rev().take(16).find(|old| same(old)) {
            old.count = old.count.saturating_add(1);
            old.time = denial.time;
            return;
        }
        if self.ring.len() >= Self::KEPT {
            self.ring.pop_front();
        }
        self.ring.push_back(denial);
    }

    pub(crate) fn list(&self) -> Vec<Denial> {
        self.ring.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials_are_counted_and_the_last_are_kept() {
        let mut denials = Denials::default();
        let to = |port| SocketAddr::from(([10, 0, 0, 1], port));
        for port in 1..=1000u16 {
            for _ in 0..2 {
                denials.record(*Denial::to(Protocol::Tcp, to(port), Reason::NotAllowed));
            }
        }
        let list = denials.list();
        assert_eq!(denials.total, 2000);
        assert_eq!(list.len(), Denials::KEPT);
        assert_eq!(list[255].destination, Some(to(1000)));
        assert!(list.iter().all(|denial| denial.count == 2));
    }
}
