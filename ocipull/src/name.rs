//! Names of images in registries: `[HOST/]REPOSITORY[:TAG][@DIGEST]`.
//!
//! The grammar is that of the distribution project's `reference` package.

use std::fmt;

use crate::Digest;

/// The host of names without one.
pub(crate) const DOCKER_HUB: &str = "docker.io";

/// The longest name without tag and digest, in bytes.
const MAX_NAME: usize = 255;

/// The longest tag, in bytes.
const MAX_TAG: usize = 128;

/// The parts of a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Name {
    /// In lower case, with a port after a colon where there is one.
    pub(crate) host: String,
    pub(crate) repository: String,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<Digest>,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

/// Splits `text`, or reports what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Name, String> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let digest = digest
                .parse()
                .map_err(|_| match digest.contains(['/', '.']) {
                    true => "it has a user name or password".to_owned(),
                    false => format!("{digest:?} is not a sha256 or sha512 digest"),
                })?;
            (rest, Some(digest))
        }
        None => (text, None),
    };
    // A colon before the last slash belongs to a port.
    let tag_at = rest
        .rfind(':')
        .filter(|&colon| !rest[colon..].contains('/'));
    let (name, tag) = match tag_at {
        Some(colon) => (&rest[..colon], Some(&rest[colon + 1..])),
        None => (rest, None),
    };
    if name.is_empty() {
        return Err("the name is empty".to_owned());
    }
    if name.len() > MAX_NAME {
        return Err(format!("the name is longer than {MAX_NAME} bytes"));
    }
    if let Some(tag) = tag
        && !is_tag(tag)
    {
        return Err(format!("{tag:?} is not a tag"));
    }
    let (host, repository) = match name.split_once('/') {
        Some((host, rest)) if is_hostlike(host) => {
            if !is_host(host) {
                return Err(format!("{host:?} is not a host name"));
            }
            (host.to_ascii_lowercase(), rest.to_owned())
        }
        _ => (DOCKER_HUB.to_owned(), name.to_owned()),
    };
    let host = match host.as_str() {
        "index.docker.io" => DOCKER_HUB.to_owned(),
        _ => host,
    };
    if !is_repository(&repository) {
        return Err(format!(
            "{repository:?} is not a repository: lower-case letters, digits and separators expected"
        ));
    }
    let repository = match host == DOCKER_HUB && !repository.contains('/') {
        true => format!("library/{repository}"),
        false => repository,
    };
    let tag = match (tag, &digest) {
        (None, None) => Some("latest".to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(Name {
        host,
        repository,
        tag,
        digest,
    })
}

/// `text` without the part before an `@` that does not begin a digest, since that part may be a
/// password.
pub(crate) fn without_user_information(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, rest)) if rest.parse::<Digest>().is_err() && rest.contains(['/', '.']) => {
            format!("…@{rest}")
        }
        _ => text.to_owned(),
    }
}

/// Whether the part before the first slash is a host, not the beginning of a repository.
pub(crate) fn is_hostlike(text: &str) -> bool {
    text == "localhost"
        || text.contains(['.', ':'])
        || text.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// Whether `text` is a host name or address and perhaps a port.
pub(crate) fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, rest)) if address.parse::<std::net::Ipv6Addr>().is_ok() => (
                "v6",
                rest.strip_prefix(':').or((!rest.is_empty()).then_some("")),
            ),
            _ => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    host.split('.').all(label)
        && port.is_none_or(|port| digits(port) && port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Whether `text` is a tag: `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`.
pub(crate) fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = text.bytes();
    text.len() <= MAX_TAG
        && bytes.next().is_some_and(word)
        && bytes.all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

/// Whether `text` is a repository: components of lower-case letters and digits, joined by `.`, `_`,
/// `__` or dashes.
pub(crate) fn is_repository(text: &str) -> bool {
    text.split('/').all(|component| {
        let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let separator = |run: &[u8]| {
            matches!(run, [] | b"." | b"_" | b"__") || run.iter().all(|&byte| byte == b'-')
        };
        let bytes = component.as_bytes();
        let edges = bytes.first().zip(bytes.last());
        edges.is_some_and(|(&first, &last)| alphanumeric(first) && alphanumeric(last))
            && bytes.split(|&byte| alphanumeric(byte)).all(separator)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_split_where_the_reference_grammar_splits_them() {
        for (text, host, repository, tag) in [
            ("a", "docker.io", "library/a", "latest"),
            ("a/b:1.2-x_y", "docker.io", "a/b", "1.2-x_y"),
            ("LOCALHOST/a", "localhost", "a", "latest"),
            (
                "Example.COM:5000/A1b/c".to_lowercase().as_str(),
                "example.com:5000",
                "a1b/c",
                "latest",
            ),
            ("[::1]:5000/a:t", "[::1]:5000", "a", "t"),
            (
                "x.y/a__b/c.d/e---f/g_h",
                "x.y",
                "a__b/c.d/e---f/g_h",
                "latest",
            ),
        ] {
            let name = parse(text).unwrap();
            assert_eq!(
                (name.host.as_str(), name.repository.as_str()),
                (host, repository),
                "{text}"
            );
            assert_eq!(name.tag.as_deref(), Some(tag), "{text}");
        }
    }

    #[test]
    fn hosts_compare_without_regard_to_case() {
        assert_eq!(parse("GHCR.io/a").unwrap(), parse("ghcr.io/a").unwrap());
    }

    #[test]
    fn texts_outside_the_grammar_are_refused() {
        for text in [
            "",
            ":t",
            "a:",
            "a:-x",
            "a/",
            "/a",
            "a//b",
            "x.y/",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "a:b:c",
            "x.y:0/a",
            "x.y:99999/a",
            "x.y:/a",
            "x.y:+1/a",
            "[::1/a",
            "[zz]/a",
            "-x.y/a",
            "x..y/a",
            "ä/b",
            "a b",
            "a@sha256:00",
            "x.y/A",
            "https://x.y/a",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(parse(&"a".repeat(256)).is_err());
        assert!(parse(&format!("a:{}", "t".repeat(129))).is_err());
    }

    #[test]
    fn a_name_with_user_information_is_refused_and_says_why() {
        let problem = parse("user:secret@example.com/a").unwrap_err();
        assert!(problem.contains("user name"), "{problem}");
        assert!(!problem.contains("secret"), "{problem}");
        let error = "user:secret@example.com/a".parse::<crate::Reference>();
        assert!(!error.unwrap_err().to_string().contains("secret"));
    }
}
