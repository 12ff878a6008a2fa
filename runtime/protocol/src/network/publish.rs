//! Published ports: `[IP:]HOST:GUEST[/udp]`, ranges, and `0` for a free port.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and ICMPv6 echo; no port can be published for it.
    Icmp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        })
    }
}

/// One port, or a range of them, of the guest that is reachable at the host.
///
/// `HOST:GUEST` binds 127.0.0.1; `IP:HOST:GUEST` binds what is named. `GUEST` alone, or 0 as HOST,
/// binds a free port. IPv6 addresses stand in brackets. Ranges (`8000-8009:80-89`) have the same
/// length on both sides.
///
/// ```
/// use blockbox_protocol::network::Publish;
///
/// let publish: Publish = "8080:80".parse()?;
/// assert_eq!(publish.to_string(), "127.0.0.1:8080:80/tcp");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Publish {
    address: IpAddr,
    /// The first port on the host; 0 for free ones.
    host: u16,
    guest: u16,
    count: u16,
    protocol: Protocol,
}

/// Why a text is not a valid published port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// A port, or the end of a range, is not a valid port number.
    #[error("{publish:?}: {port:?} is not a port or a range of ports")]
    Port {
        /// The whole text.
        publish: String,
        /// The invalid port.
        port: String,
    },
    /// The two ranges have different lengths.
    #[error("{publish:?}: {host} ports at the host and {guest} in the guest")]
    Lengths {
        /// The whole text.
        publish: String,
        /// The number of ports on the host.
        host: usize,
        /// The number of ports in the guest.
        guest: usize,
    },
    /// The address is not an IP address.
    #[error("{publish:?}: {address:?} is not an IP address")]
    Address {
        /// The whole text.
        publish: String,
        /// The invalid address.
        address: String,
    },
    /// The protocol is not tcp or udp.
    #[error("{publish:?}: {protocol:?} is not tcp or udp")]
    Protocol {
        /// The whole text.
        publish: String,
        /// The invalid protocol.
        protocol: String,
    },
}

impl Publish {
    /// Publishes the same ports of the guest on free ports of the host.
    #[must_use]
    pub fn at_free_ports(mut self) -> Self {
        self.host = 0;
        self
    }

    /// Returns the address to bind.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Returns the protocol.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Returns each pair of a port on the host (0: a free one) and a port in the guest.
    pub fn pairs(&self) -> impl Iterator<Item = (u16, u16)> + use<> {
        let (host, guest) = (self.host, self.guest);
        (0..self.count).map(move |n| {
            let at_host = if host == 0 { 0 } else { host.saturating_add(n) };
            (at_host, guest.saturating_add(n))
        })
    }
}

/// A bound published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BoundPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The address and port on the host.
    pub host: SocketAddr,
    /// The guest's port.
    pub guest: u16,
}

impl BoundPort {
    /// Returns the port of the guest that is bound at `host`.
    pub fn new(protocol: Protocol, host: SocketAddr, guest: u16) -> Self {
        Self {
            protocol,
            host,
            guest,
        }
    }
}

/// Parses a range: returns its first port and its length.
fn range(publish: &str, text: &str, zero: bool) -> Result<(u16, u16), PublishError> {
    let bad = || PublishError::Port {
        publish: publish.to_owned(),
        port: text.to_owned(),
    };
    let port = |text: &str| {
        text.parse::<u16>()
            .ok()
            .filter(|port| *port != 0 || zero)
            .ok_or_else(bad)
    };
    match text.split_once('-') {
        None => Ok((port(text)?, 1)),
        Some((first, last)) => {
            let (first, last) = (port(first)?, port(last)?);
            let count = last
                .checked_sub(first)
                .and_then(|more| more.checked_add(1))
                .filter(|_| first != 0)
                .ok_or_else(bad)?;
            Ok((first, count))
        }
    }
}

impl FromStr for Publish {
    type Err = PublishError;

    fn from_str(text: &str) -> Result<Self, PublishError> {
        let (ports, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, name)) if name.eq_ignore_ascii_case("tcp") => (ports, Protocol::Tcp),
            Some((ports, name)) if name.eq_ignore_ascii_case("udp") => (ports, Protocol::Udp),
            Some((_, protocol)) => {
                return Err(PublishError::Protocol {
                    publish: text.to_owned(),
                    protocol: protocol.to_owned(),
                });
            }
        };
        let (rest, guest) = match ports.rsplit_once(':') {
            Some((rest, guest)) => (Some(rest), guest),
            None => (None, ports),
        };
        let (guest, guests) = range(text, guest, false)?;
        let (address, host) = match rest {
            None => (None, ""),
            Some(rest) => match rest.rsplit_once(':') {
                Some((address, host)) => (Some(address), host),
                None => (None, rest),
            },
        };
        let (host, hosts) = match host {
            "" => (0, guests),
            host => range(text, host, true)?,
        };
        if hosts != guests && host != 0 {
            return Err(PublishError::Lengths {
                publish: text.to_owned(),
                host: hosts.into(),
                guest: guests.into(),
            });
        }
        let address = match address {
            None => Ipv4Addr::LOCALHOST.into(),
            Some(address) => {
                let plain = address
                    .strip_prefix('[')
                    .and_then(|rest| rest.strip_suffix(']'))
                    .unwrap_or(address);
                plain.parse().map_err(|_| PublishError::Address {
                    publish: text.to_owned(),
                    address: address.to_owned(),
                })?
            }
        };
        Ok(Self {
            address,
            host,
            guest,
            count: guests,
            protocol,
        })
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(address) => write!(f, "{address}:")?,
            IpAddr::V6(address) => write!(f, "[{address}]:")?,
        }
        let range = |f: &mut fmt::Formatter<'_>, first: u16| match self.count.saturating_sub(1) {
            more if more > 0 && first != 0 => write!(f, "{first}-{}", first.saturating_add(more)),
            _ => write!(f, "{first}"),
        };
        range(f, self.host)?;
        f.write_str(":")?;
        range(f, self.guest)?;
        write!(f, "/{}", self.protocol)
    }
}

impl TryFrom<String> for Publish {
    type Error = PublishError;

    fn try_from(text: String) -> Result<Self, PublishError> {
        text.parse()
    }
}

impl From<Publish> for String {
    fn from(publish: Publish) -> Self {
        publish.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ports_bind_the_loopback_unless_an_address_is_named() {
        for (text, whole) in [
            ("8080:80", "127.0.0.1:8080:80/tcp"),
            ("80", "127.0.0.1:0:80/tcp"),
            ("80/TCP", "127.0.0.1:0:80/tcp"),
            ("0:80/udp", "127.0.0.1:0:80/udp"),
            ("0.0.0.0:8080:80/tcp", "0.0.0.0:8080:80/tcp"),
            ("[::1]:8080:80", "[::1]:8080:80/tcp"),
            ("127.0.0.1::80", "127.0.0.1:0:80/tcp"),
            ("8000-8002:80-82", "127.0.0.1:8000-8002:80-82/tcp"),
            ("0:80-82", "127.0.0.1:0:80-82/tcp"),
        ] {
            let publish: Publish = text.parse().unwrap();
            assert_eq!(publish.to_string(), whole);
            assert_eq!(whole.parse::<Publish>().unwrap(), publish);
        }
        let publish: Publish = "8000-8002:80-82".parse().unwrap();
        let pairs: Vec<_> = publish.pairs().collect();
        assert_eq!(pairs, [(8000, 80), (8001, 81), (8002, 82)]);
    }

    #[test]
    fn invalid_published_ports_are_rejected_with_the_reason() {
        let kind = |text: &str| text.parse::<Publish>().unwrap_err();
        for text in [
            "",
            "x",
            "80:0",
            "80:65536",
            "82-80:82-80",
            "0-1:80-81",
            ":",
            "80:",
        ] {
            assert!(matches!(kind(text), PublishError::Port { .. }), "{text}");
        }
        assert!(matches!(kind("80-81:80"), PublishError::Lengths { .. }));
        assert!(matches!(
            kind("localhost:80:80"),
            PublishError::Address { .. }
        ));
        assert!(matches!(kind("80:80/sctp"), PublishError::Protocol { .. }));
    }

    proptest! {
        #[test]
        fn any_text_is_an_error_or_published_ports_that_print_back(text in "[0-9.:/\\[\\]a-z-]{0,30}") {
            if let Ok(publish) = text.parse::<Publish>() {
                prop_assert_eq!(publish.to_string().parse::<Publish>().unwrap(), publish);
            }
        }
    }
}
