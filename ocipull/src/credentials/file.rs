//! Docker's `config.json`, podman's `auth.json`, and what Docker wrote before version 1.7:
//! `.dockercfg`.
//!
//! Many programs write these files. Each member is read separately, and a member of an unexpected
//! shape is ignored.

use std::path::Path;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};

use super::login::Login;
use crate::json::replace_invalid_text;
use crate::name::DOCKER_HUB;
use crate::shape::Shape;
use crate::{Error, Secret};

/// The largest such file that is read, in bytes.
pub(super) const MAX_FILE: u64 = 4 << 20;

/// Base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The layout of a file of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// The entries are in the member `auths`.
    Current,
    /// The entries are the file: `.dockercfg`.
    Legacy,
}

/// The members that are read.
const FILE: Shape = Shape::Object(&[
    ("auths", Shape::Any),
    ("credHelpers", Shape::Any),
    ("credsStore", Shape::Any),
]);

/// The members of an entry that are read.
const ENTRY: Shape = Shape::Object(&[
    ("auth", Shape::Any),
    ("username", Shape::Any),
    ("password", Shape::Any),
    ("identitytoken", Shape::Any),
    ("registrytoken", Shape::Any),
]);

/// A file of credentials.
#[derive(Default)]
pub(super) struct AuthFile(Map<String, Value>);

impl AuthFile {
    /// The file at `path`; `None` where there is none.
    pub(super) fn read(path: &Path, layout: Layout) -> Result<Option<Self>, Error> {
        use std::io::Read as _;
        let io = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        let file = match blockbox_files::open_regular(path) {
            Ok(file) => file,
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(io(error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes).map_err(io)?;
        Self::parse(&bytes, layout)
            .map(Some)
            .map_err(|source| Error::Credentials {
                path: path.to_owned(),
                source,
            })
    }

    /// The file that has these `bytes`; an empty one lists nothing.
    pub(super) fn parse(bytes: &[u8], layout: Layout) -> Result<Self, serde_json::Error> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        let members =
            serde_json::from_slice::<Option<Map<String, Value>>>(bytes).or_else(|error| {
                serde_json::from_str(&replace_invalid_text(bytes)).map_err(|_| error)
            })?;
        let mut members = members.unwrap_or_default();
        if layout == Layout::Legacy {
            members = Map::from_iter([("auths".to_owned(), Value::Object(members))]);
        }
        let mut members = Value::Object(members);
        // Docker's and podman's reader takes names in any case.
        FILE.fold_names(&mut members);
        let Value::Object(mut members) = members else {
            return Ok(Self::default());
        };
        let auths = members.get_mut("auths").and_then(Value::as_object_mut);
        for entry in auths.into_iter().flat_map(Map::values_mut) {
            ENTRY.fold_names(entry);
        }
        Ok(Self(members))
    }

    /// Removes and returns the entries.
    pub(super) fn take_auths(&mut self) -> Map<String, Value> {
        match self.0.remove("auths") {
            Some(Value::Object(auths)) => auths,
            _ => Map::new(),
        }
    }

    pub(super) fn set_auths(&mut self, auths: Map<String, Value>) {
        self.0.insert("auths".to_owned(), Value::Object(auths));
    }

    /// The file's new contents.
    pub(super) fn to_json(&self) -> Vec<u8> {
        format!("{:#}", Value::Object(self.0.clone())).into_bytes()
    }

    /// The helper that `credHelpers` names for `host`.
    pub(super) fn helper_of(&self, host: &str) -> Option<&str> {
        let helpers = self.0.get("credHelpers")?.as_object()?;
        let named = helpers.iter().filter(|(key, _)| Key::of(key).host == host);
        named
            .filter_map(|(_, name)| name.as_str())
            .find(|name| !name.is_empty())
    }

    /// The helper for every host: `credsStore`.
    pub(super) fn store(&self) -> Option<&str> {
        self.0
            .get("credsStore")?
            .as_str()
            .filter(|name| !name.is_empty())
    }

    /// The credentials in the entry for the longest prefix of `HOST/REPOSITORY`.
    pub(super) fn entry(&self, host: &str, repository: &str) -> Option<Login> {
        let auths = self.0.get("auths")?.as_object()?;
        let mut entries: Vec<_> = auths
            .iter()
            .filter_map(|(name, value)| {
                let rank = Key::of(name).rank(host, repository)?;
                let login = entry(value);
                if login.is_none() && value.as_object().is_some_and(|value| !value.is_empty()) {
                    tracing::warn!(
                        entry = name,
                        "an entry without usable credentials is passed over"
                    );
                }
                Some((rank, login?))
            })
            .collect();
        entries.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        entries.into_iter().next().map(|(_, login)| login)
    }
}

/// The name of an entry, split up.
pub(super) struct Key<'a> {
    /// In lower case.
    pub(super) host: String,
    /// Without slashes at either end.
    path: &'a str,
    /// Whether it is an address, which applies to the whole host.
    address: bool,
}

impl<'a> Key<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let bare = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"));
        let (host, path) = bare
            .unwrap_or(text)
            .split_once('/')
            .unwrap_or((bare.unwrap_or(text), ""));
        let host = match host.to_ascii_lowercase() {
            host if host == "index.docker.io" => DOCKER_HUB.to_owned(),
            host => host,
        };
        let path = path.trim_matches('/');
        let address = bare.is_some() || matches!(path, "v1" | "v2");
        Self {
            host,
            path,
            address,
        }
    }

    /// Whether it applies to all of `host`.
    pub(super) fn is_whole_host(&self, host: &str) -> bool {
        self.host == host && (self.address || self.path.is_empty())
    }

    /// How specifically it matches `HOST/REPOSITORY` (larger is better); `None` if it does not
    /// match.
    fn rank(&self, host: &str, repository: &str) -> Option<usize> {
        if !self.host.eq_ignore_ascii_case(host) {
            return None;
        }
        if self.address {
            return Some(0);
        }
        if self.path.is_empty() {
            return Some(1);
        }
        let rest = repository.strip_prefix(self.path)?;
        (rest.is_empty() || rest.starts_with('/')).then_some(1 + self.path.len())
    }
}

/// The credentials in one entry, if it has any.
fn entry(value: &Value) -> Option<Login> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let secret = |name: &str| Some(Secret::new(text(name))).filter(|_| !text(name).is_empty());
    if let Some(token) = secret("registrytoken") {
        return Some(Login::Bearer(token));
    }
    if let Some(token) = secret("identitytoken") {
        return Some(Login::Identity(token));
    }
    if let Some(login) = decode(text("auth")) {
        return Some(login);
    }
    let username = text("username");
    (!username.is_empty()).then(|| Login::Basic {
        username: username.into(),
        password: Secret::new(text("password")),
    })
}

/// `auth`: base64 of `USERNAME:PASSWORD`, which may be any bytes.
fn decode(auth: &str) -> Option<Login> {
    let auth: String = auth.split_ascii_whitespace().collect();
    let decoded = BASE64.decode(auth).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let (username, password) = (&decoded[..colon], &decoded[colon + 1..]);
    // Docker pads with NULs.
    let end = password.iter().rposition(|byte| *byte != 0);
    (!username.is_empty()).then(|| Login::Basic {
        username: username.to_owned(),
        password: Secret::new(&password[..end.map_or(0, |last| last + 1)]),
    })
}

/// `auth` for a name and a password.
pub(crate) fn encode(username: &[u8], password: &Secret) -> String {
    let pair = [username, b":", password.reveal()].concat();
    base64::engine::general_purpose::STANDARD.encode(pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(json: &str, host: &str, repository: &str) -> Option<Login> {
        AuthFile::parse(json.as_bytes(), Layout::Current)
            .expect("valid")
            .entry(host, repository)
    }

    fn basic(username: &str, password: &str) -> Option<Login> {
        Some(Login::Basic {
            username: username.into(),
            password: Secret::new(password),
        })
    }

    // base64 of a:b and c:d:e
    const FILE: &str = r#"{"auths": {
        "https://index.docker.io/v1/": {"auth": "YTpi"},
        "ghcr.io": {"auth": "YTpi"},
        "ghcr.io/team/app": {"auth": "YzpkOmU="},
        "https://old.example:5000/v2/": {"auth": "YTpi"},
        "empty.example": {},
        "plain.example": {"username": "u", "password": "p"}
    }, "credsStore": "desktop"}"#;

    #[test]
    fn entries_are_found_as_docker_and_podman_find_them() {
        assert_eq!(find(FILE, "docker.io", "library/debian"), basic("a", "b"));
        assert_eq!(find(FILE, "ghcr.io", "team/other"), basic("a", "b"));
        assert_eq!(find(FILE, "ghcr.io", "team/app"), basic("c", "d:e"));
        assert_eq!(find(FILE, "ghcr.io", "team/app/sub"), basic("c", "d:e"));
        assert_eq!(find(FILE, "ghcr.io", "team/application"), basic("a", "b"));
        assert_eq!(find(FILE, "old.example:5000", "x"), basic("a", "b"));
        assert_eq!(find(FILE, "plain.example", "x"), basic("u", "p"));
    }

    #[test]
    fn credentials_of_one_host_never_go_to_another() {
        for host in [
            "evil.example",
            "ghcr.io.evil",
            "empty.example",
            "old.example",
            "old.example:5001",
            "ghcr.io:5000",
            "ghcr",
        ] {
            assert_eq!(find(FILE, host, "ghcr.io/team/app"), None, "{host}");
        }
    }

    #[test]
    fn members_of_unexpected_shapes_are_passed_over() {
        for entry in [
            r#""auth":"YTpi\n""#,
            r#""auth":"YT pi""#,
            r#""auth":"YTpi","identitytoken":null,"email":7"#,
            r#""auth":null,"username":"a","password":"b""#,
            r#""auth":"","username":"a","password":"b""#,
            r#""auth":"!!!","username":"a","password":"b""#,
            r#""auth":"YTpiAAA""#,
        ] {
            let json = format!(
                r#"{{"auths":{{"x":5,"y":null,"h":{{{entry}}}}},"credHelpers":null,"credsStore":7,"HttpHeaders":[]}}"#
            );
            assert_eq!(find(&json, "h", "r"), basic("a", "b"), "{entry}");
        }
        for json in [
            "",
            " \n",
            "null",
            "{}",
            r#"{"auths":null}"#,
            r#"{"auths":[]}"#,
            r#"{"auths":{"h":{"auth":"YQ=="}}}"#,
        ] {
            assert_eq!(find(json, "h", "r"), None, "{json}");
        }
        assert!(AuthFile::parse(b"{", Layout::Current).is_err());
        let latin_1 = b"{\"auths\":{\"h\":{\"auth\":\"YTpi\",\"email\":\"\xfc\"}}}";
        let file = AuthFile::parse(latin_1, Layout::Current).unwrap();
        assert_eq!(file.entry("h", "r"), basic("a", "b"));
    }

    #[test]
    fn host_names_of_entries_compare_without_regard_to_case_scheme_and_slashes() {
        for key in [
            "h:5",
            "H:5",
            "http://h:5",
            "https://h:5/",
            "h:5/",
            "h:5/v2/",
            "h:5/r/",
            "h:5/r/s",
        ] {
            let json = format!(r#"{{"auths":{{"{key}":{{"auth":"YTpi"}}}}}}"#);
            assert_eq!(find(&json, "h:5", "r/s"), basic("a", "b"), "{key}");
        }
    }

    #[test]
    fn members_have_no_case() {
        let json = r#"{"Auths":{"h":{"Auth":"YTpi"}},"CREDSSTORE":"x"}"#;
        assert_eq!(find(json, "h", "r"), basic("a", "b"));
        let file = AuthFile::parse(json.as_bytes(), Layout::Current).unwrap();
        assert_eq!(file.store(), Some("x"));
    }

    #[test]
    fn names_and_passwords_of_any_bytes_are_read_and_written_unchanged() {
        for (username, password) in [
            (&b"me"[..], &b"p\xe4ss\xff:\x80"[..]),
            (b"m\xfcller", b"x"),
            (b"me", b""),
            (b"me", b"a\0b"),
        ] {
            let auth = encode(username, &Secret::new(password));
            let json = format!(r#"{{"auths":{{"h":{{"auth":"{auth}"}}}}}}"#);
            let expected = Login::Basic {
                username: username.to_owned(),
                password: Secret::new(password),
            };
            assert_eq!(find(&json, "h", "r"), Some(expected), "{password:?}");
        }
    }

    #[test]
    fn the_entries_of_the_legacy_layout_are_the_whole_file() {
        let json = br#"{"https://index.docker.io/v1/":{"auth":"YTpi","email":"a@b.c"},"auths":{"auth":"YTpi"}}"#;
        let file = AuthFile::parse(json, Layout::Legacy).unwrap();
        assert_eq!(file.entry("docker.io", "library/debian"), basic("a", "b"));
        assert_eq!((file.store(), file.helper_of("auths")), (None, None));
        let file = AuthFile::parse(json, Layout::Current).unwrap();
        assert_eq!(file.entry("docker.io", "library/debian"), None);
    }

    #[test]
    fn tokens_come_before_names_and_passwords() {
        let json = r#"{"auths":{"h":{"auth":"YTpi","identitytoken":"t"},"g":{"registrytoken":"r","auth":"YTpi"}}}"#;
        assert_eq!(
            find(json, "h", "r"),
            Some(Login::Identity(Secret::new("t")))
        );
        assert_eq!(find(json, "g", "r"), Some(Login::Bearer(Secret::new("r"))));
    }

    #[test]
    fn helpers_are_named_by_host() {
        let file = AuthFile::parse(
            br#"{"credHelpers":{"x":"a","https://Y/":"b","z":null},"credsStore":"c"}"#,
            Layout::Current,
        )
        .unwrap();
        assert_eq!(
            (
                file.helper_of("x"),
                file.helper_of("y"),
                file.helper_of("z")
            ),
            (Some("a"), Some("b"), None)
        );
        assert_eq!(file.store(), Some("c"));
    }
}
