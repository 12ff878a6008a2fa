//! Registries that fail: what is tried again, what is said, and what is never believed.

use std::collections::HashMap;
use std::fs;
use std::net::TcpListener;
use std::time::Instant;

use ocipull::{
    ConnectHint, CredentialSource, Credentials, Digest, Document, Error, Image, Options,
    Registries, Secret,
};

use crate::server::{Reply, Request, Server};
use crate::support::{GZIP, Layer, Layout, MANIFEST, TAR, open_with, read, tar};

/// An image to be served: manifest, and blobs by path.
pub(crate) struct Served {
    manifest: Vec<u8>,
    blobs: HashMap<String, Vec<u8>>,
    /// The only layer, as it is stored.
    pub(crate) layer: String,
    pub(crate) tar: Vec<u8>,
}

impl Served {
    pub(crate) fn new(size: usize) -> Self {
        let tar = tar("a", size);
        let layout = Layout::new();
        let manifest = layout.manifest(&[Layer::new(&tar, TAR)]);
        let path = |digest: &serde_json::Value| {
            format!("/v2/app/blobs/{}", digest.as_str().expect("a digest"))
        };
        let blobs = [
            &manifest["config"]["digest"],
            &manifest["layers"][0]["digest"],
        ];
        let blobs = blobs.map(|digest| {
            let file = layout.blob_path(digest.as_str().expect("a digest"));
            (path(digest), fs::read(file).expect("readable"))
        });
        Self {
            layer: path(&manifest["layers"][0]["digest"]),
            manifest: manifest.to_string().into_bytes(),
            blobs: blobs.into_iter().collect(),
            tar,
        }
    }

    pub(crate) fn reply(&self, request: &Request) -> Reply {
        if request.path.starts_with("/v2/app/manifests/") {
            return Reply::new(200, self.manifest.clone()).header("Content-Type", MANIFEST);
        }
        match self.blobs.get(&request.path) {
            Some(blob) => Reply::ranged(request, blob),
            None => Reply::new(
                404,
                r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"no blob"}]}"#,
            ),
        }
    }
}

pub(crate) fn options() -> Options {
    let mut options = Options::default();
    options.plain_http = true;
    options.credentials = Credentials::Anonymous;
    options.retries = 3;
    options.registries = Registries::None;
    options
}

fn open(server: &Server) -> Result<Image, Error> {
    open_with(&format!("{}/app", server.host()), &options())
}

/// Serves an image of `size` bytes, with `change` made to the answers about its layer.
fn serve(
    size: usize,
    change: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
) -> (Server, Vec<u8>) {
    let served = Served::new(size);
    let tar = served.tar.clone();
    let server = Server::start(move |request| {
        let reply = served.reply(request);
        if request.path == served.layer {
            change(request, reply)
        } else {
            reply
        }
    });
    (server, tar)
}

#[test]
fn a_download_goes_on_where_it_broke_off() {
    let (server, tar) = serve(3 << 20, |request, reply| match request.count {
        0 => reply.cut(1_000_000),
        1 => reply.cut(0),
        2 => Reply::new(503, "later"),
        3 => reply.cut(1_500_000),
        _ => reply,
    });
    let image = open(&server).unwrap();
    assert!(read(&image, 0).unwrap() == tar);
    let ranges: Vec<_> = server
        .requests()
        .iter()
        .filter_map(|request| request.range)
        .collect();
    assert_eq!(ranges, [1_000_000, 1_000_000, 1_000_000, 2_500_000]);
}

#[test]
fn a_server_without_ranges_is_read_from_the_start_again() {
    let served = Served::new(2 << 20);
    let tar = served.tar.clone();
    let server = Server::start(move |request| {
        let whole = Request {
            range: None,
            ..request.clone()
        };
        let reply = served.reply(&whole);
        if request.path == served.layer && request.count == 0 {
            reply.cut(700_000)
        } else {
            reply
        }
    });
    assert!(read(&open(&server).unwrap(), 0).unwrap() == tar);
}

#[test]
fn response_with_another_range_is_not_used() {
    let (server, _) = serve(1 << 20, |request, reply| match request.range {
        None => reply.cut(500_000),
        Some(_) => {
            let mut reply = Reply {
                headers: Vec::new(),
                ..reply
            };
            reply
                .headers
                .push(("Content-Range", "bytes 499999-1048575/1048576".to_owned()));
            reply
        }
    });
    match read(&open(&server).unwrap(), 0) {
        Err(Error::Interrupted {
            offset: 500_000, ..
        }) => {}
        other => panic!("{:?}", other.map(|bytes| bytes.len())),
    }
}

#[test]
fn a_download_that_never_ends_is_given_up() {
    let (server, _) = serve(1 << 20, |_, reply| reply.cut(100));
    let image = open(&server).unwrap();
    match read(&image, 0) {
        Err(error @ Error::Interrupted { .. }) => assert!(error.is_transient()),
        other => panic!("{:?}", other.map(|bytes| bytes.len())),
    }
    // The first request and three more.
    let blobs = server
        .requests()
        .iter()
        .filter(|request| request.path.contains("blobs"))
        .count();
    assert_eq!(blobs - 1, 4);
}

#[test]
fn blobs_of_another_size_than_declared_are_refused() {
    let (server, _) = serve(100_000, |_, mut reply| {
        reply.body.truncate(50_000);
        reply
    });
    match read(&open(&server).unwrap(), 0) {
        Err(Error::SizeMismatch { actual: 50_000, .. }) => {}
        other => panic!("{:?}", other.map(|bytes| bytes.len())),
    }
    let (server, _) = serve(100_000, |_, mut reply| {
        reply.body.extend(vec![0; 10_000_000]);
        reply
    });
    let image = open(&server).unwrap();
    assert!(matches!(read(&image, 0), Err(Error::SizeMismatch { .. })));
}

#[test]
fn changed_bytes_are_refused() {
    let (server, _) = serve(100_000, |_, mut reply| {
        reply.body[60_000] ^= 1;
        reply
    });
    match read(&open(&server).unwrap(), 0) {
        Err(Error::DigestMismatch {
            document: Document::Layer,
            ..
        }) => {}
        other => panic!("{:?}", other.map(|bytes| bytes.len())),
    }
}

#[test]
fn a_missing_layer_is_not_asked_for_again() {
    let (server, _) = serve(10, |_, _| Reply::new(404, ""));
    let image = open(&server).unwrap();
    match read(&image, 0) {
        Err(Error::NotFound { name, .. }) => assert!(name.starts_with("app@sha256:"), "{name}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(server.requests().last().unwrap().count, 0);
}

#[test]
fn a_busy_registry_is_asked_again_when_it_says() {
    let served = Served::new(10);
    let server = Server::start(
        move |request| match (request.path.as_str(), request.count) {
            ("/v2/app/manifests/latest", 0) => Reply::new(429, "").header("Retry-After", "1"),
            _ => served.reply(request),
        },
    );
    let start = Instant::now();
    open(&server).unwrap();
    assert!(start.elapsed().as_millis() >= 1000);
}

#[test]
fn manifests_are_verified_by_their_digest() {
    let served = Served::new(10);
    let digest = Digest::sha256(&served.manifest);
    let tampered = [&served.manifest[..], b" "].concat();
    let server = Server::start(move |request| match request.path.as_str() {
        "/v2/app/manifests/header" => served
            .reply(request)
            .header("Docker-Content-Digest", Digest::sha256(b"x").to_string()),
        "/v2/app/manifests/huge" => Reply::new(200, vec![b' '; 5 << 20]),
        "/v2/app/manifests/html" => Reply::new(200, "<html>").header("Content-Type", "text/html"),
        path if path.contains("manifests/sha256") => Reply::new(200, tampered.clone()),
        _ => served.reply(request),
    });
    let open = |name: &str| open_with(&format!("{}/app{name}", server.host()), &options());
    for name in [":header", &format!("@{digest}"), &format!(":x@{digest}")] {
        assert!(
            matches!(open(name), Err(Error::DigestMismatch { .. })),
            "{name}"
        );
    }
    let huge = open(":huge");
    assert!(
        matches!(
            huge,
            Err(Error::TooLarge {
                document: Document::Manifest,
                ..
            })
        ),
        "{huge:?}"
    );
    assert!(matches!(open(":html"), Err(Error::Json { .. })));
}

/// A registry that wants the name `user` and the password `secret`.
fn guarded() -> Server {
    let served = Served::new(1 << 20);
    Server::start(move |request| match request.authorization.as_deref() {
        Some("Basic dXNlcjpzZWNyZXQ=") => served.reply(request),
        _ => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""),
    })
}

pub(crate) fn with_password(username: &str, password: &str) -> Options {
    let mut options = options();
    options.credentials = Credentials::Basic {
        username: username.to_owned(),
        password: Secret::new(password),
    };
    options
}

#[test]
fn name_and_password_are_given_when_asked_for() {
    let server = guarded();
    let reference = format!("{}/app", server.host());
    let image = open_with(&reference, &with_password("user", "secret")).unwrap();
    read(&image, 0).unwrap();
    let first = &server.requests()[0];
    assert_eq!(first.authorization, None, "nothing is given unasked");
    let none = (options(), CredentialSource::None, "without credentials");
    let wrong = with_password("user", "wrong");
    let wrong = (
        wrong,
        CredentialSource::Options,
        "refuses the name and password",
    );
    for (options, expected, text) in [none, wrong] {
        match open_with(&reference, &options) {
            Err(
                ref error @ Error::Unauthorized {
                    ref credentials, ..
                },
            ) => {
                assert_eq!(*credentials, expected);
                assert!(error.to_string().contains(text), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn credentials_come_from_the_file_that_docker_login_writes() {
    let server = guarded();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    let entry = serde_json::json!({"auths": {server.host(): {"auth": "dXNlcjpzZWNyZXQ="}}});
    fs::write(&file, entry.to_string()).unwrap();
    let mut options = options();
    options.credentials = Credentials::File(file.clone());
    let reference = format!("{}/app", server.host());
    read(&open_with(&reference, &options).unwrap(), 0).unwrap();
    fs::write(&file, "{").unwrap();
    assert!(matches!(
        open_with(&reference, &options),
        Err(Error::Credentials { .. })
    ));
}

#[test]
fn passwords_do_not_print_themselves() {
    let printed = format!("{:?}", with_password("user", "hunter2"));
    assert!(printed.contains("user") && !printed.contains("hunter2"));
}

#[test]
fn tokens_are_fetched_where_the_challenge_says_and_again_when_they_expire() {
    let served = Served::new(1 << 20);
    let port = std::sync::Arc::new(std::sync::OnceLock::new());
    let realm = port.clone();
    let server = Server::start(move |request| {
        if request.path.starts_with("/token") {
            let scope = "scope=repository%3Aapp%3Apull";
            assert!(request.path.contains(scope), "{}", request.path);
            return match request.authorization.as_deref() {
                None => Reply::new(200, format!(r#"{{"token":"t{}"}}"#, request.count)),
                Some(_) => Reply::new(401, r#"{"errors":[{"code":"DENIED","message":"who?"}]}"#),
            };
        }
        let reply = served.reply(request);
        match request.authorization.as_deref() {
            // The first token holds until the layer is half there.
            Some("Bearer t0") if request.range.is_none() => {
                if request.path == served.layer {
                    reply.cut(600_000)
                } else {
                    reply
                }
            }
            Some("Bearer t1") => reply,
            _ => {
                let realm: &String = realm.get().expect("set before the first request");
                Reply::new(401, "").header(
                    "WWW-Authenticate",
                    format!("Bearer realm=\"http://{realm}/token\",service=\"test\""),
                )
            }
        }
    });
    port.set(server.host()).unwrap();
    read(&open(&server).unwrap(), 0).unwrap();
    let tokens = server
        .requests()
        .iter()
        .filter(|r| r.path.starts_with("/token"))
        .count();
    assert_eq!(tokens, 2);
    match open_with(
        &format!("{}/app", server.host()),
        &with_password("user", "wrong"),
    ) {
        Err(Error::Unauthorized { message, .. }) => assert_eq!(message, "who? (DENIED)"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn credentials_do_not_follow_a_redirect_to_another_server() {
    let tar = tar("a", 1000);
    let layer = Layer::new(&tar, GZIP);
    let stored = layer.stored.clone();
    let storage = Server::start(move |_| Reply::new(200, stored.clone()));
    let elsewhere = format!("http://{}/blob", storage.host());
    let layout = Layout::new();
    let manifest = layout.manifest(&[layer]);
    let config =
        fs::read(layout.blob_path(manifest["config"]["digest"].as_str().unwrap())).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
    let manifest = manifest.to_string();
    let server = Server::start(move |request| {
        if request.authorization.is_none() {
            Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\"")
        } else if request.path.contains("manifests") {
            Reply::new(200, manifest.clone())
        } else if request.path.ends_with(&layer) {
            Reply::new(307, "").header("Location", elsewhere.clone())
        } else {
            Reply::new(200, config.clone())
        }
    });
    let reference = format!("{}/app", server.host());
    let image = open_with(&reference, &with_password("user", "secret")).unwrap();
    assert_eq!(read(&image, 0).unwrap(), tar);
    assert_eq!(storage.requests()[0].authorization, None);
}

#[test]
fn refused_connection_is_reported_at_once() {
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let start = Instant::now();
    match open_with(&format!("{address}/app"), &options()) {
        Err(
            error @ Error::Connect {
                hint: ConnectHint::Refused,
                ..
            },
        ) => {
            assert!(error.is_transient());
        }
        other => panic!("{other:?}"),
    }
    assert!(start.elapsed().as_secs() < 5);
}

#[test]
fn every_failure_of_a_server_is_tried_again_unless_it_is_for_good() {
    // 507 is WebDAV's; 520 to 524 and 529 are those of content delivery networks.
    for (status, attempts) in [
        (500, 2),
        (507, 2),
        (520, 2),
        (522, 2),
        (524, 2),
        (529, 2),
        (599, 2),
        (501, 1),
        (505, 1),
        (418, 1),
    ] {
        let served = Served::new(1000);
        let server = Server::start(move |request| {
            match request.path.contains("/manifests/") && request.count == 0 {
                true => Reply::new(status, "").header("Retry-After", "0"),
                false => served.reply(request),
            }
        });
        let opened = open(&server);
        assert_eq!(opened.is_ok(), attempts == 2, "{status}: {opened:?}");
        let manifests = server.requests().into_iter();
        let asked = manifests.filter(|request| request.path.contains("/manifests/"));
        assert_eq!(asked.count(), attempts, "{status}");
    }
}
