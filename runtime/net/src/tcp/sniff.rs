//! Reads the host that a connection asks for from its first bytes: TLS's server name, HTTP's host.

use blockbox_protocol::network::host_name;

/// How many bytes a connection may send before the name must be found.
pub(super) const LONGEST: usize = 16 << 10;

/// The result of reading a connection's first bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sniff {
    /// The name, or the two that HTTP may contain: all must be allowed.
    Names(Vec<String>),
    /// Neither TLS with a server name nor HTTP with a host.
    Other,
    /// More bytes are needed.
    More,
}

/// Reads the name from all bytes that a connection has sent so far.
pub(super) fn sniff(bytes: &[u8]) -> Sniff {
    match bytes.first() {
        None => Sniff::More,
        Some(22) => tls(bytes),
        Some(first) if first.is_ascii_alphabetic() => http(bytes),
        Some(_) => Sniff::Other,
    }
}

/// Parses numbers and vectors of TLS.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(
            self.take(bytes)?
                .iter()
                .fold(0, |number, byte| number << 8 | usize::from(*byte)),
        )
    }

    /// Parses a vector that is preceded by its length in this many bytes.
    fn vector(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let length = self.number(bytes)?;
        self.take(length)
    }
}

/// Reads the server name of a ClientHello (RFC 8446, 4.1.2; RFC 6066, 3), which may span several
/// records.
fn tls(bytes: &[u8]) -> Sniff {
    let mut records = Reader(bytes);
    let mut hello = Vec::new();
    loop {
        // The handshake's type and length, followed by its body.
        if let Some([kind, a, b, c]) = hello.first_chunk::<4>() {
            if *kind != 1 {
                return Sniff::Other;
            }
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if let Some(body) = hello.get(4..4 + length) {
                return match server_name(body) {
                    Some(Some(name)) => Sniff::Names(vec![name]),
                    Some(None) | None => Sniff::Other,
                };
            }
        }
        let Some(kind) = records.number(1) else {
            return Sniff::More;
        };
        let Some(version) = records.number(2) else {
            return Sniff::More;
        };
        if kind != 22 || version >> 8 != 3 {
            return Sniff::Other;
        }
        let Some(fragment) = records.vector(2) else {
            return Sniff::More;
        };
        if fragment.is_empty() {
            return Sniff::Other;
        }
        hello.extend_from_slice(fragment);
    }
}

/// Reads the server name in the body of a ClientHello; `Some(None)` if it has none.
fn server_name(body: &[u8]) -> Option<Option<String>> {
    let mut body = Reader(body);
    // Version and random number, session, cipher suites, compression methods.
    body.take(2 + 32)?;
    body.vector(1)?;
    body.vector(2)?;
    body.vector(1)?;
    if body.0.is_empty() {
        return Some(None);
    }
    let mut extensions = Reader(body.vector(2)?);
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let data = extensions.vector(2)?;
        if kind == 0 {
            let mut names = Reader(Reader(data).vector(2)?);
            while !names.0.is_empty() {
                let kind = names.number(1)?;
                let name = names.vector(2)?;
                if kind == 0 {
                    // An invalid name is shown unchanged, and no rule allows it.
                    let text = String::from_utf8_lossy(name);
                    return Some(Some(host_name(&text).unwrap_or_else(|| text.into_owned())));
                }
            }
        }
    }
    Some(None)
}

/// Reads the hosts of an HTTP/1 request (RFC 9112, 3.2): of its target and of its Host field.
fn http(bytes: &[u8]) -> Sniff {
    // Methods are short tokens; anything else is another protocol.
    let method = bytes
        .iter()
        .take(32)
        .position(|byte| !byte.is_ascii_alphabetic() && *byte != b'-' && *byte != b'_');
    match method.and_then(|end| bytes.get(end)) {
        None if bytes.len() < 32 => return Sniff::More,
        Some(b' ') => {}
        _ => return Sniff::Other,
    }
    if bytes.starts_with(b"PRI * HTTP/2.0") {
        return Sniff::Other;
    }
    let mut names = Vec::new();
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let Some(request) = lines.next().and_then(line) else {
        // The request line of another protocol may have no version; then it ends here or never.
        return Sniff::More;
    };
    let mut words = request.split(' ').skip(1);
    let (target, version) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    if !version.starts_with("HTTP/") {
        return Sniff::Other;
    }
    if let Some((_, rest)) = target.split_once("://") {
        names.push(authority(rest.split(['/', '?', '#']).next().unwrap_or("")));
    } else if request.starts_with("CONNECT ") {
        names.push(authority(target));
    }
    for bytes in lines {
        let Some(text) = line(bytes) else {
            return Sniff::More;
        };
        if text.is_empty() {
            return if names.is_empty() {
                Sniff::Other
            } else {
                Sniff::Names(names)
            };
        }
        if let Some((field, value)) = text.split_once(':')
            && field.trim().eq_ignore_ascii_case("host")
        {
            names.push(authority(value.trim()));
        }
    }
    Sniff::More
}

/// Returns a line without its end; `None` if the end has not arrived yet.
fn line(bytes: &[u8]) -> Option<String> {
    let text = bytes.strip_suffix(b"\n")?;
    Some(String::from_utf8_lossy(text.strip_suffix(b"\r").unwrap_or(text)).into_owned())
}

/// Returns the host of `[USER@]HOST[:PORT]`, in lower case.
fn authority(text: &str) -> String {
    let host = text.rsplit('@').next().unwrap_or(text);
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(v6),
        None => host.split(':').next().unwrap_or(host),
    };
    host_name(host).unwrap_or_else(|| host.to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns a ClientHello with a server name, in records of at most `record` bytes.
    fn hello(name: Option<&str>, record: usize) -> Vec<u8> {
        let vector = |length: usize, bytes: &[u8]| {
            let mut out = bytes.len().to_be_bytes()[8 - length..].to_vec();
            out.extend_from_slice(bytes);
            out
        };
        let mut extensions = vec![0, 43];
        extensions.extend(vector(2, &[2, 3, 4]));
        if let Some(name) = name {
            let mut names = vec![0];
            names.extend(vector(2, name.as_bytes()));
            extensions.extend([0, 0]);
            extensions.extend(vector(2, &vector(2, &names)));
        }
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend(vector(1, &[9; 32]));
        body.extend(vector(2, &[0x13, 1]));
        body.extend(vector(1, &[0]));
        body.extend(vector(2, &extensions));
        let mut handshake = vec![1];
        handshake.extend(vector(3, &body));
        handshake
            .chunks(record)
            .flat_map(|piece| {
                let mut record = vec![22, 3, 1];
                record.extend(vector(2, piece));
                record
            })
            .collect()
    }

    fn names(list: &[&str]) -> Sniff {
        Sniff::Names(list.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn the_server_name_is_found_in_any_fragmentation_of_the_hello() {
        for record in [1, 7, 100, 1000] {
            let bytes = hello(Some("Example.ORG"), record);
            for end in 0..bytes.len() {
                assert_eq!(sniff(&bytes[..end]), Sniff::More, "{record} {end}");
            }
            assert_eq!(sniff(&bytes), names(&["example.org"]));
        }
        assert_eq!(sniff(&hello(None, 1000)), Sniff::Other);
    }

    #[test]
    fn every_host_of_a_request_is_found() {
        for (text, expected) in [
            (
                "GET / HTTP/1.1\r\nHost: Example.org:80\r\n\r\n",
                names(&["example.org"]),
            ),
            (
                "GET / HTTP/1.1\nhost:example.org\n\n",
                names(&["example.org"]),
            ),
            (
                "GET http://evil.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
                names(&["evil.org", "example.org"]),
            ),
            (
                "GET / HTTP/1.1\r\nHost: a.org\r\nHost : b.org\r\n\r\n",
                names(&["a.org", "b.org"]),
            ),
            ("CONNECT a.org:443 HTTP/1.1\r\n\r\n", names(&["a.org"])),
            ("GET http://u@a.org/ HTTP/1.0\r\n\r\n", names(&["a.org"])),
            ("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", names(&["::1"])),
            ("GET / HTTP/1.0\r\n\r\n", Sniff::Other),
            ("GET / HTTP/1.1\r\nHost: a.org\r\n", Sniff::More),
            ("GET / HTTP/1.1\r\nHost: a.o", Sniff::More),
            ("GE", Sniff::More),
            ("SSH-2.0-OpenSSH_9.2\r\n", Sniff::Other),
            ("EHLO example.org\r\n", Sniff::Other),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Sniff::Other),
            ("\0\0", Sniff::Other),
            ("", Sniff::More),
        ] {
            assert_eq!(sniff(text.as_bytes()), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_of_a_connection_are_examined_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), tls: bool) {
            if tls {
                let mut record = vec![22, 3, 1];
                record.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
                record.append(&mut bytes);
                bytes = record;
            }
            let _ = sniff(&bytes);
        }

        #[test]
        fn damaged_client_hellos_are_examined_without_panic(place in 0usize..100, value: u8) {
            let mut bytes = hello(Some("example.org"), 64);
            let place = place % bytes.len();
            bytes[place] = value;
            let _ = sniff(&bytes);
        }
    }
}
