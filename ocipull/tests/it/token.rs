//! A registry that takes tokens alone: Debian's docker-registry, which checks their signatures and
//! scopes, with a token service that signs them.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ocipull::{
    CopyOptions, Credentials, Digest, Error, Event, Events, Options, Pushed, Reference, Repository,
    copy,
};
use serde_json::{Value, json};
use testkit::{Registry, oracle};

use crate::push::{push, push_image};
use crate::server::{Identity, Reply, Request, Server};
use crate::support::{open_with, read, tar};
use crate::transfer::with_password;

/// The key that tokens are signed with, and its certificate.
struct Signer {
    key: PathBuf,
    certificate: PathBuf,
}

impl Signer {
    fn new(dir: &Path) -> Option<Self> {
        let signer = Self {
            key: dir.join("token.key"),
            certificate: dir.join("token.crt"),
        };
        let output = oracle("openssl")?
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes"])
            .args(["-days", "2", "-subj", "/CN=tokens", "-keyout"])
            .arg(&signer.key)
            .arg("-out")
            .arg(&signer.certificate)
            .output()
            .expect("openssl starts");
        assert!(output.status.success(), "{output:?}");
        Some(signer)
    }

    /// A JSON Web Token (RFC 7519) with these claims.
    fn token(&self, claims: &Value) -> String {
        let pem = std::fs::read_to_string(&self.certificate).expect("readable");
        let der: String = pem.lines().filter(|line| !line.contains("--")).collect();
        let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [der]});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let mut openssl = std::process::Command::new("openssl")
            .args(["dgst", "-sha256", "-sign"])
            .arg(&self.key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("openssl starts");
        let mut input = openssl.stdin.take().expect("piped");
        input.write_all(signed.as_bytes()).expect("written");
        drop(input);
        let signature = openssl.wait_with_output().expect("ended").stdout;
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The parameters of a request, decoded.
fn parameters(path: &str) -> Vec<(String, String)> {
    let query = path.split_once('?').map_or("", |(_, query)| query);
    let decode = |text: &str| {
        let mut parts = text.split('%');
        let mut decoded = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (code, rest) = part.split_at(2);
            decoded.push(u8::from_str_radix(code, 16).expect("two digits").into());
            decoded += rest;
        }
        decoded
    };
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// A registry, and the service whose tokens it takes.
struct Guarded {
    registry: Registry,
    identity: Identity,
    /// Kept alive.
    _service: Server,
    /// The scopes that were asked for.
    scopes: Arc<Mutex<BTreeSet<String>>>,
}

impl Guarded {
    /// `writer` gets tokens for whatever it asks for, `reader` for pulling alone.
    fn start() -> Option<Self> {
        let identity = Identity::new()?;
        let signer: Arc<Mutex<Option<Signer>>> = Arc::default();
        let scopes: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let (signs, asked) = (signer.clone(), scopes.clone());
        let service = Server::start_tls(&identity, move |request| {
            let signer = signs.lock().expect("no panic");
            issue(request, signer.as_ref().expect("made"), &asked)
        });
        let host = service.host();
        let registry = Registry::start_with(|dir| {
            let made = Signer::new(dir)?;
            let bundle = made.certificate.display().to_string();
            *signer.lock().expect("no panic") = Some(made);
            Some(format!(
                "auth:\n  token:\n    realm: https://{host}/token\n    service: test registry\n    issuer: test tokens\n    rootcertbundle: {bundle}\n"
            ))
        })?;
        Some(Self {
            registry,
            identity,
            _service: service,
            scopes,
        })
    }

    fn options(&self, user: &str) -> Options {
        let mut options = with_password(user, "hunter2");
        options.certificates = vec![self.identity.file("ca.crt")];
        options
    }

    fn repository(&self, name: &str, user: &str) -> Repository {
        Repository::new(&self.registry.host, name, &self.options(user)).expect("a repository")
    }

    fn scopes(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.scopes.lock().expect("no panic"))
    }
}

fn issue(request: &Request, signer: &Signer, asked: &Mutex<BTreeSet<String>>) -> Reply {
    let known = ["writer", "reader"].into_iter().find(|user| {
        let pair = STANDARD.encode(format!("{user}:hunter2"));
        request.authorization == Some(format!("Basic {pair}"))
    });
    let Some(user) = known else {
        return Reply::new(401, r#"{"details":"no such user"}"#);
    };
    let mut access = Vec::new();
    for (name, value) in parameters(&request.path) {
        if name == "service" {
            assert_eq!(value, "test registry");
        }
        if name != "scope" {
            continue;
        }
        let [kind, repository, actions]: [&str; 3] = value
            .split(':')
            .collect::<Vec<_>>()
            .try_into()
            .expect("a scope");
        let actions = actions.split(',');
        let granted: Vec<_> = actions
            .filter(|action| user == "writer" || *action == "pull")
            .collect();
        access.push(json!({"type": kind, "name": repository, "actions": granted}));
        asked.lock().expect("no panic").insert(value);
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let now = now.as_secs();
    let token = signer.token(&json!({
        "iss": "test tokens", "sub": user, "aud": "test registry", "jti": "1",
        "nbf": now - 60, "iat": now, "exp": now + 600, "access": access,
    }));
    Reply::new(200, json!({"token": token}).to_string())
}

#[test]
fn signed_tokens_of_the_right_scopes_push_mount_and_pull() {
    let Some(guarded) = Guarded::start() else {
        return;
    };
    let host = &guarded.registry.host;
    let layer = tar("f", 300_000);
    let one = guarded.repository("team/one", "writer");
    let manifest = push_image(&one, &layer);
    // The registry itself names the scope of each single request, too.
    let scopes = |names: &[&str]| {
        BTreeSet::from_iter(names.iter().map(|name| format!("repository:team/{name}")))
    };
    assert_eq!(guarded.scopes(), scopes(&["one:pull", "one:pull,push"]));

    // Mounting reads one repository and writes the other.
    let two = guarded.repository("team/two", "writer");
    let digest = Digest::sha256(&layer);
    let size = layer.len() as u64;
    let never = |_: u64| -> std::io::Result<&[u8]> { panic!("uploaded, not mounted") };
    let pushed = two.push_blob(&digest, size, Some("team/one"), never);
    assert_eq!(pushed.unwrap(), Pushed::Mounted);
    let expected = scopes(&["one:pull", "two:pull", "two:pull,push"]);
    assert_eq!(guarded.scopes(), expected);
    let mut options = CopyOptions::default();
    options.source = guarded.options("writer");
    options.target = guarded.options("writer");
    let how = Arc::new(Mutex::new(Vec::new()));
    let seen = how.clone();
    options.target.events = Some(Events::new(move |event| {
        if let Event::Pushed { pushed, .. } = event {
            seen.lock().expect("no panic").push(*pushed);
        }
    }));
    let name =
        |repository: &str| -> Reference { format!("{host}/team/{repository}:v1").parse().unwrap() };
    assert_eq!(
        copy(&name("one"), &name("three"), &options).unwrap(),
        manifest
    );
    assert_eq!(*how.lock().unwrap(), [Pushed::Mounted; 2]);

    // Who may only read pulls, and pushes nothing.
    guarded.scopes();
    for repository in ["one", "three"] {
        let reference = format!("{host}/team/{repository}:v1");
        let image = open_with(&reference, &guarded.options("reader")).unwrap();
        assert_eq!(*image.manifest_digest(), manifest);
        assert!(read(&image, 0).unwrap() == layer);
    }
    assert_eq!(guarded.scopes(), scopes(&["one:pull", "three:pull"]));
    let refused = push(&guarded.repository("team/one", "reader"), b"another blob");
    assert!(
        matches!(refused, Err(Error::Unauthorized { .. })),
        "{refused:?}"
    );
    let mut anonymous = guarded.options("nobody");
    anonymous.credentials = Credentials::Anonymous;
    for options in [guarded.options("nobody"), anonymous] {
        let refused = open_with(&format!("{host}/team/one:v1"), &options);
        assert!(
            matches!(refused, Err(Error::Unauthorized { .. })),
            "{refused:?}"
        );
    }
}
