//! Proxies, by the environment variables that curl, docker and Go programs read.

use std::net::IpAddr;

use ureq::Proxy;

use super::url::{Origin, Scheme, address};
use crate::{Error, UsedProxy};

/// The proxy on the way to `origin`, if there is one, and the variable that names it.
pub(super) fn for_origin(origin: &Origin) -> Result<Option<(Proxy, &'static str)>, Error> {
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    select(origin, env)
}

/// The proxy on the way to `origin`, without its password.
pub(super) fn named(origin: &Origin) -> Option<UsedProxy> {
    let (proxy, variable) = for_origin(origin).ok()??;
    Some(UsedProxy {
        address: format!("{}:{}", proxy.host(), proxy.port()),
        variable,
    })
}

fn select(
    origin: &Origin,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Option<(Proxy, &'static str)>, Error> {
    let variables: [&'static str; 4] = match origin.scheme {
        Scheme::Https => ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
        Scheme::Http => ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"],
    };
    let Some((variable, address)) = variables
        .into_iter()
        .find_map(|name| Some((name, env(name)?)))
    else {
        return Ok(None);
    };
    let excepted = env("NO_PROXY").or_else(|| env("no_proxy"));
    if origin.is_loopback() || is_excepted(origin, &excepted.unwrap_or_default()) {
        return Ok(None);
    }
    let invalid = |problem| Error::Proxy { variable, problem };
    if address.to_ascii_lowercase().starts_with("socks") {
        return Err(invalid("names a SOCKS proxy, which is not supported"));
    }
    match Proxy::new(&address) {
        Ok(proxy) => Ok(Some((proxy, variable))),
        Err(_) => Err(invalid("is not the address of a proxy")),
    }
}

/// Whether `list`, the value of `NO_PROXY`, has the host: a name stands for the hosts below it,
/// too.
fn is_excepted(origin: &Origin, list: &str) -> bool {
    let host = origin.name();
    list.split([',', ' ']).any(|entry| {
        let entry = entry.trim().to_ascii_lowercase();
        if entry == "*" {
            return true;
        }
        if let Some((network, bits)) = entry.split_once('/') {
            return is_in_network(host, network, bits);
        }
        if entry == host || entry == origin.host_and_port() {
            return true;
        }
        let name = match entry.rsplit_once(':') {
            Some((name, port)) if port.parse() == Ok(origin.port()) => name,
            Some((_, port)) if port.parse::<u16>().is_ok() && address(&entry).is_none() => {
                return false;
            }
            _ => &entry,
        };
        let name = name.trim_start_matches('*');
        let below = name.trim_start_matches('.');
        if below.is_empty() {
            return false;
        }
        if address(host).is_some() {
            return address(host) == address(name);
        }
        // A name that begins with a dot is not for the host of that very name.
        (host == below && !name.starts_with('.'))
            || host
                .strip_suffix(below)
                .is_some_and(|rest| rest.ends_with('.'))
    })
}

fn is_in_network(host: &str, network: &str, bits: &str) -> bool {
    let (Some(host), Some(network), Ok(bits)) =
        (address(host), address(network), bits.parse::<u32>())
    else {
        return false;
    };
    match (host, network) {
        (IpAddr::V4(host), IpAddr::V4(network)) if bits <= 32 => {
            let differing = host.to_bits() ^ network.to_bits();
            differing.checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(host), IpAddr::V6(network)) if bits <= 128 => {
            let differing = host.to_bits() ^ network.to_bits();
            differing.checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::url::Url;

    fn chosen(url: &str, variables: &[(&str, &str)]) -> Option<String> {
        let env = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let proxy = select(&Url::parse(url).unwrap().origin, env).unwrap();
        proxy.map(|(proxy, _)| format!("{}:{}", proxy.host(), proxy.port()))
    }

    #[test]
    fn each_scheme_has_its_variable() {
        let both = [("HTTPS_PROXY", "http://s:1"), ("http_proxy", "http://p:2")];
        assert_eq!(chosen("https://x.y/", &both).as_deref(), Some("s:1"));
        assert_eq!(chosen("http://x.y/", &both).as_deref(), Some("p:2"));
        assert_eq!(chosen("http://x.y/", &both[..1]), None);
        assert_eq!(
            chosen("http://x.y/", &[("ALL_PROXY", "a:3")]).as_deref(),
            Some("a:3")
        );
    }

    #[test]
    fn excepted_hosts_are_reached_directly() {
        for (url, list, direct) in [
            ("https://x.y/", "a, x.y", true),
            ("https://a.x.y/", "x.y", true),
            ("https://a.x.y/", ".x.y", true),
            ("https://x.y/", ".x.y", false),
            ("https://a.x.y/", "*.x.y", true),
            ("https://bx.y/", "x.y", false),
            ("https://x.y:5000/", "x.y:5000", true),
            ("https://x.y:5001/", "x.y:5000", false),
            ("https://10.1.2.3/", "10.0.0.0/8", true),
            ("https://11.1.2.3/", "10.0.0.0/8", false),
            ("https://11.1.2.3/", "0.0.0.0/0", true),
            ("https://10.1.2.3/", "10.1.2.3", true),
            ("https://[fd00::1]/", "fd00::/8", true),
            ("https://z/", "*", true),
            ("https://z/", "", false),
            ("https://z/", "10.0.0.0/99,z/8,.,:,*.", false),
            ("https://localhost:5000/", "", true),
            ("https://127.0.0.9/", "", true),
            ("https://[::1]:1/", "", true),
        ] {
            let variables = [("HTTPS_PROXY", "http://s:1"), ("NO_PROXY", list)];
            assert_eq!(chosen(url, &variables).is_none(), direct, "{url} {list}");
        }
    }

    #[test]
    fn an_unusable_proxy_is_named_by_its_variable_without_its_password() {
        for address in [
            "http://user:secret@",
            "socks5://user:secret@p:1",
            "secret://p",
            "http://user:se cret@p",
        ] {
            let env = |name: &str| (name == "ALL_PROXY").then(|| address.to_owned());
            let error = select(&Url::parse("https://x.y/").unwrap().origin, env).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(
                text.contains("ALL_PROXY") && !text.contains("cret"),
                "{text}"
            );
        }
    }
}
