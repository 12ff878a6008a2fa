//! Rules of the allow and deny lists: `HOST[:PORT]`, `ADDRESS[:PORT]`, `NETWORK/PREFIX[:PORT]`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a rule applies to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Target {
    /// A host name, lower case, without a final dot.
    Name(String),
    /// Every name below this domain: `*.example.org`.
    Below(String),
    /// An address, or a network by its first address and prefix length.
    Network(IpAddr, u8),
}

/// One rule of an allow or a deny list.
///
/// A name is exact (`example.org`), or `*.example.org` for every name below it. IPv6 addresses
/// stand in brackets where a port follows. Without a port the rule is about every port.
///
/// ```
/// use blockbox_protocol::network::Rule;
///
/// let rule: Rule = "10.0.0.0/8:443".parse()?;
/// assert!(rule.matches_address("10.1.2.3".parse()?, 443));
/// assert!(!rule.matches_address("10.1.2.3".parse()?, 80));
/// assert!("*.example.org".parse::<Rule>()?.matches_name("a.b.example.org", 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    target: Target,
    port: Option<u16>,
}

/// Why a text is not a valid rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// The port is not a number from 1 to 65535.
    #[error("{rule:?}: the port {port:?} is not a number from 1 to 65535")]
    Port {
        /// The whole rule.
        rule: String,
        /// The invalid port.
        port: String,
    },
    /// The text after the slash is not a valid prefix length.
    #[error("{rule:?}: {prefix:?} is not the length of an address prefix")]
    Prefix {
        /// The whole rule.
        rule: String,
        /// The invalid prefix length.
        prefix: String,
    },
    /// The address has bits set after its prefix.
    #[error("{rule:?}: the address has bits set after its prefix; the network is {network}")]
    HostBits {
        /// The whole rule.
        rule: String,
        /// The network that contains the address.
        network: String,
    },
    /// The text is neither an address nor a host name.
    #[error("{rule:?} is not an address, a network or a host name")]
    Host {
        /// The whole rule.
        rule: String,
    },
}

impl Rule {
    /// Returns a rule for one address.
    pub fn address(address: IpAddr, port: Option<u16>) -> Self {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        Self {
            target: Target::Network(address, bits),
            port,
        }
    }

    /// Returns a rule for one name; `None` if it is not a host name.
    pub fn name(name: &str, port: Option<u16>) -> Option<Self> {
        host_name(name).map(|name| Self {
            target: Target::Name(name),
            port,
        })
    }

    /// Returns whether the rule applies to names.
    pub fn is_name(&self) -> bool {
        !matches!(self.target, Target::Network(..))
    }

    /// Returns the network of a rule on addresses: its first address and its prefix length in bits.
    pub fn network(&self) -> Option<(IpAddr, u8)> {
        match self.target {
            Target::Network(address, prefix) => Some((address, prefix)),
            _ => None,
        }
    }

    /// Returns whether the rule matches this address and port; `false` for rules on names.
    pub fn matches_address(&self, address: IpAddr, port: u16) -> bool {
        self.port.is_none_or(|own| own == port)
            && self.network().is_some_and(|(network, prefix)| {
                masked(address, prefix) == Some(network) && address.is_ipv4() == network.is_ipv4()
            })
    }

    /// Returns whether the rule matches this name on any port; `false` for rules on addresses.
    pub fn matches_host(&self, name: &str) -> bool {
        match &self.target {
            Target::Name(own) => own == name,
            Target::Below(parent) => name
                .strip_suffix(parent.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            Target::Network(..) => false,
        }
    }

    /// Returns whether the rule matches this name (lower case, without a final dot) and port.
    pub fn matches_name(&self, name: &str, port: u16) -> bool {
        self.port.is_none_or(|own| own == port) && self.matches_host(name)
    }

    /// Returns the port of the rule, if it has one.
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

/// Returns the address with every bit after the prefix cleared; `None` if the prefix is longer than
/// the address.
fn masked(address: IpAddr, prefix: u8) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            let shift = 32u32.checked_sub(prefix.into())?;
            let mask = u32::MAX.checked_shl(shift).unwrap_or(0);
            Some(Ipv4Addr::from_bits(address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let shift = 128u32.checked_sub(prefix.into())?;
            let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
            Some(Ipv6Addr::from_bits(address.to_bits() & mask).into())
        }
    }
}

/// Returns a valid host name in lower case without a final dot (RFC 1123, and underscores).
pub fn host_name(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let fits = !text.is_empty()
        && text.len() <= 253
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        });
    fits.then(|| text.to_ascii_lowercase())
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let rule = || text.to_owned();
        let (host, port) = split_port(text);
        let port = match port {
            None => None,
            Some(port) => Some(
                port.parse::<u16>()
                    .ok()
                    .filter(|number| *number != 0)
                    .ok_or_else(|| RuleError::Port {
                        rule: rule(),
                        port: port.to_owned(),
                    })?,
            ),
        };
        let (address, prefix) = match host.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (host, None),
        };
        if let Ok(address) = address.parse::<IpAddr>() {
            let Some(prefix) = prefix else {
                return Ok(Self::address(address, port));
            };
            let bad = || RuleError::Prefix {
                rule: rule(),
                prefix: prefix.to_owned(),
            };
            let bits = prefix.parse::<u8>().map_err(|_| bad())?;
            let network = masked(address, bits).ok_or_else(bad)?;
            if network != address {
                return Err(RuleError::HostBits {
                    rule: rule(),
                    network: format!("{network}/{bits}"),
                });
            }
            return Ok(Self {
                target: Target::Network(network, bits),
                port,
            });
        }
        let (below, name) = match host.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, host),
        };
        // A name whose last label is a number is a mistyped address.
        let numeric = name
            .trim_end_matches('.')
            .rsplit('.')
            .next()
            .is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
        match host_name(name) {
            Some(name) if prefix.is_none() && !numeric => Ok(Self {
                target: if below {
                    Target::Below(name)
                } else {
                    Target::Name(name)
                },
                port,
            }),
            _ => Err(RuleError::Host { rule: rule() }),
        }
    }
}

/// Splits `HOST:PORT`, `[V6]:PORT`, `[V6/64]:PORT`, and an address of IPv6 without brackets or
/// port.
fn split_port(text: &str) -> (&str, Option<&str>) {
    if let Some(rest) = text.strip_prefix('[') {
        return match rest.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, after)) => match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None => (text, None),
            },
            None => (text, None),
        };
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, Some(port)),
        _ => (text, None),
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = match &self.target {
            Target::Name(name) => name.clone(),
            Target::Below(name) => format!("*.{name}"),
            Target::Network(address, prefix) => {
                if *prefix == if address.is_ipv4() { 32 } else { 128 } {
                    address.to_string()
                } else {
                    format!("{address}/{prefix}")
                }
            }
        };
        match self.port {
            Some(port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Some(port) => write!(f, "{host}:{port}"),
            None => f.write_str(&host),
        }
    }
}

impl TryFrom<String> for Rule {
    type Error = RuleError;

    fn try_from(text: String) -> Result<Self, RuleError> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rules_print_as_they_are_written() {
        for text in [
            "example.org",
            "example.org:443",
            "*.example.org:443",
            "10.0.0.0/8",
            "10.0.0.0/8:443",
            "1.2.3.4",
            "1.2.3.4:5",
            "2001:db8::/32",
            "[2001:db8::/32]:443",
            "2001:db8::1",
            "[2001:db8::1]:443",
            "0.0.0.0/0",
            "::/0",
            "localhost",
        ] {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
        }
        assert_eq!(
            "EXAMPLE.org.".parse::<Rule>().unwrap().to_string(),
            "example.org"
        );
        assert_eq!("[::1]".parse::<Rule>().unwrap().to_string(), "::1");
    }

    #[test]
    fn invalid_rules_are_rejected_with_the_reason() {
        let kind = |text: &str| text.parse::<Rule>().unwrap_err();
        for text in [
            "example.org:0",
            "example.org:65536",
            "example.org:",
            "1.2.3.4:http",
        ] {
            assert!(matches!(kind(text), RuleError::Port { .. }), "{text}");
        }
        for text in ["10.0.0.0/33", "::/129", "10.0.0.0/x", "10.0.0.0/"] {
            assert!(matches!(kind(text), RuleError::Prefix { .. }), "{text}");
        }
        assert!(matches!(kind("10.0.0.1/8"), RuleError::HostBits { .. }));
        for text in [
            "",
            "a b",
            "-a",
            "a..b",
            "*",
            "*.",
            "a*b",
            "1.2.3",
            "1.2.3.400",
            "example.org/8",
            "[::1",
            "[::1]x",
            "http://example.org",
        ] {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_star_matches_the_names_below_and_not_the_name_itself() {
        let rule: Rule = "*.example.org".parse().unwrap();
        assert!(rule.matches_name("a.example.org", 1));
        assert!(rule.matches_name("a.b.example.org", 1));
        assert!(!rule.matches_name("example.org", 1));
        assert!(!rule.matches_name("badexample.org", 1));
        assert!(!rule.matches_name(".example.org", 1));
    }

    proptest! {
        #[test]
        fn any_text_is_an_error_or_a_rule_that_prints_back(text in "[a-z0-9.:/\\[\\]*-]{0,40}") {
            if let Ok(rule) = text.parse::<Rule>() {
                prop_assert_eq!(rule.to_string().parse::<Rule>().unwrap(), rule);
            }
        }

        #[test]
        fn a_network_matches_by_its_prefix(bits: u32, other: u32, prefix in 0u8..=32) {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            let network = Ipv4Addr::from_bits(bits & mask);
            let rule: Rule = format!("{network}/{prefix}").parse().unwrap();
            let other_address = Ipv4Addr::from_bits(other).into();
            prop_assert_eq!(rule.matches_address(other_address, 1), (bits ^ other) & mask == 0);
        }
    }
}
