//! Addresses that servers name: parsed strictly, compared by origin, shown without secrets.

use std::fmt;
use std::net::IpAddr;

/// The longest address that is accepted, in bytes.
const MAX_URL: usize = 16 << 10;

/// Whether TLS protects a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// The scheme, host and port of a server, which decide where credentials may be sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Origin {
    pub(super) scheme: Scheme,
    /// In lower case; an IPv6 address in brackets.
    host: String,
    port: u16,
}

impl Origin {
    /// The origin of a registry `host`, which may have a port after a colon.
    pub(super) fn new(scheme: Scheme, host: &str) -> Result<Self, &'static str> {
        if host.contains('@') {
            return Err("it has a user name or password");
        }
        if !crate::name::is_host(host) {
            return Err("it has no valid host name");
        }
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => (name, port.parse().ok()),
            _ => (host, None),
        };
        Ok(Self {
            scheme,
            host: name.to_ascii_lowercase(),
            port: port.unwrap_or(scheme.default_port()),
        })
    }

    /// The host without a port.
    pub(super) fn name(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Whether the server is on this host: no other one sees what is sent to it.
    pub(super) fn is_loopback(&self) -> bool {
        self.host == "localhost" || address(&self.host).is_some_and(|address| address.is_loopback())
    }

    /// Host and, where it is not the scheme's own, port.
    pub(super) fn host(&self) -> String {
        match self.port == self.scheme.default_port() {
            true => self.host.clone(),
            false => self.host_and_port(),
        }
    }

    /// Host and port.
    pub(super) fn host_and_port(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    pub(super) fn url(&self, target: &str) -> Url {
        Url {
            origin: self.clone(),
            target: target.to_owned(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.host())
    }
}

/// Returns the address that `host` is, in brackets where it is an IPv6 one.
pub(super) fn address(host: &str) -> Option<IpAddr> {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    bare.unwrap_or(host).parse().ok()
}

/// An address. [`Display`](fmt::Display) omits the query: signatures of storage services are in it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) origin: Origin,
    /// Path and query; begins with a slash.
    target: String,
}

impl Url {
    /// Parses an absolute address.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > MAX_URL {
            return Err("it is too long");
        }
        if !text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte))
        {
            return Err("it has characters that no address has");
        }
        let (scheme, rest) = text.split_once("://").ok_or("it is not absolute")?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err("its scheme is neither http nor https"),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let origin = Origin::new(scheme, authority)?;
        let target = rest.split('#').next().unwrap_or_default();
        let target = match target.starts_with('/') {
            true => target.to_owned(),
            false => format!("/{target}"),
        };
        Ok(Self { origin, target })
    }

    /// The address that `location`, absolute or not, names from here.
    pub(super) fn join(&self, location: &str) -> Result<Self, &'static str> {
        let path = self.path();
        let scheme = location.split_once("://").map_or("", |(scheme, _)| scheme);
        let absolute =
            if !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                location.to_owned()
            } else if let Some(rest) = location.strip_prefix("//") {
                format!("{}://{rest}", self.origin.scheme.name())
            } else if location.starts_with('/') {
                format!("{}{location}", self.origin)
            } else if location.starts_with('?') {
                format!("{}{path}{location}", self.origin)
            } else {
                let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);
                format!("{}{folder}{location}", self.origin)
            };
        Self::parse(&absolute)
    }

    /// The address with `query`, which is already encoded, added.
    pub(super) fn with_query(&self, query: &str) -> Self {
        if query.is_empty() {
            return self.clone();
        }
        let separator = if self.target.contains('?') { '&' } else { '?' };
        Self {
            origin: self.origin.clone(),
            target: format!("{}{separator}{query}", self.target),
        }
    }

    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The whole address with its query. Not for messages.
    pub(super) fn full(&self) -> String {
        format!("{}{}", self.origin, self.target)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// `text` as a value in a query.
pub(super) fn encode(text: impl AsRef<[u8]>) -> String {
    let text = text.as_ref();
    let mut encoded = String::with_capacity(text.len());
    for &byte in text {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_differ_by_scheme_host_and_port_alone() {
        let origin = |text: &str| Url::parse(text).unwrap().origin;
        assert_eq!(origin("https://X.y/a"), origin("https://x.Y:443/b?c"));
        assert_eq!(origin("HTTP://x.y"), origin("http://x.y:80/"));
        for other in [
            "http://x.y:443/",
            "https://x.y:444/",
            "https://x.y.z/",
            "https://z/x.y",
        ] {
            assert_ne!(origin("https://x.y/"), origin(other), "{other}");
        }
    }

    #[test]
    fn addresses_with_user_information_or_odd_characters_are_refused() {
        for text in [
            "https://user:secret@x.y/",
            "https://user@x.y/",
            "https://x.y\\@z/",
            "https://x.y/a b",
            "https://x.y/\r\nA: b",
            "ftp://x.y/",
            "https:///a",
            "https://",
            "/a",
            "https://x.y:0/",
            "https://x.y:70000/",
            "https://ä/",
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn locations_are_resolved_as_rfc_3986_says() {
        let base = Url::parse("https://x.y:8443/v2/app/blobs/uploads/?a=b").unwrap();
        for (location, expected) in [
            ("http://z/q?r=s#t", "http://z/q?r=s"),
            ("//z:1/q", "https://z:1/q"),
            ("/q?r", "https://x.y:8443/q?r"),
            ("?r", "https://x.y:8443/v2/app/blobs/uploads/?r"),
            (
                "q?u=http://z",
                "https://x.y:8443/v2/app/blobs/uploads/q?u=http://z",
            ),
        ] {
            assert_eq!(base.join(location).unwrap().full(), expected);
        }
        assert_eq!(base.to_string(), "https://x.y:8443/v2/app/blobs/uploads/");
        assert_eq!(
            base.with_query("c=d").full(),
            "https://x.y:8443/v2/app/blobs/uploads/?a=b&c=d"
        );
    }

    #[test]
    fn values_in_queries_are_encoded() {
        assert_eq!(
            encode("repository:a/b:pull,push"),
            "repository%3Aa%2Fb%3Apull%2Cpush"
        );
    }
}
