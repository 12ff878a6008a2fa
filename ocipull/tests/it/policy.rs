//! Where credentials go, and where they do not.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, OnceLock};

use ocipull::{Credentials, Digest, Error, Options, Registries, Repository, Secret};

use crate::server::{Identity, Reply, Request, Server};
use crate::support::{in_child, is_child, open_with, read};
use crate::transfer::{Served, options, with_password};

/// A challenge for a token from the service at `realm`.
fn challenge(realm: &str) -> Reply {
    let header = format!("Bearer realm=\"{realm}\",service=\"test\",scope=\"repository:app:pull\"");
    Reply::new(401, "").header("WWW-Authenticate", header)
}

/// Options with a password for a registry whose certificate `identity`'s authority vouches for.
fn over_tls(identity: &Identity) -> Options {
    let mut options = with_password("user", "hunter2");
    options.plain_http = false;
    options.certificates = vec![identity.file("ca.crt")];
    options
}

fn tokens(request: &Request) -> Reply {
    match request.path.starts_with("/token") {
        true => Reply::new(200, r#"{"token":"t"}"#),
        false => Reply::new(404, ""),
    }
}

/// Whether anything that was asked of `server` has a secret in it.
fn saw_secrets(server: &Server) -> bool {
    server.requests().iter().any(|request| {
        let body = String::from_utf8_lossy(&request.body);
        request.authorization.is_some() || body.contains("hunter2")
    })
}

#[test]
fn a_tls_registry_cannot_have_the_password_sent_over_plain_http() {
    let Some(identity) = Identity::new() else {
        return;
    };
    let service = Server::start(tokens);
    let realm = format!("http://{}/token", service.host());
    let registry = Server::start_tls(&identity, move |_| challenge(&realm));
    match open_with(&format!("{}/app", registry.host()), &over_tls(&identity)) {
        Err(Error::InsecureRealm { host, .. }) => assert_eq!(host, registry.host()),
        other => panic!("{other:?}"),
    }
    assert_eq!(registry.requests().len(), 1);
    assert!(!saw_secrets(&service));
}

#[test]
fn plain_http_asked_for_one_port_does_not_cover_another() {
    let service = Server::start(tokens);
    let realm = format!("http://{}/token", service.host());
    let registry = Server::start(move |_| challenge(&realm));
    let reference = format!("{}/app", registry.host());
    let refused = open_with(&reference, &with_password("user", "hunter2"));
    assert!(
        matches!(refused, Err(Error::InsecureRealm { .. })),
        "{refused:?}"
    );
    assert!(!saw_secrets(&service));
    // Without a secret to lose, the token service is asked.
    assert!(open_with(&reference, &options()).is_err());
    assert!(!service.requests().is_empty());
}

/// Nothing is sent in plain HTTP that was not asked for, except to the loopback interface.
#[test]
fn a_password_goes_in_plain_http_to_this_host_alone() {
    let served = Served::new(1000);
    let server = Server::start(move |request| match request.authorization.is_some() {
        true => served.reply(request),
        false => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""),
    });
    let mut options = with_password("user", "hunter2");
    options.plain_http = false;
    // It leads to the same server.
    let other = server.host().replace("127.0.0.1", "0.0.0.0");
    let refused = open_with(&format!("{other}/app"), &options);
    assert!(matches!(refused, Err(Error::Connect { .. })), "{refused:?}");
    assert_eq!(server.requests().len(), 0);
    open_with(&format!("{}/app", server.host()), &options).unwrap();
    assert!(saw_secrets(&server));
    // A token service at another port of this host is another server.
    let service = Server::start(tokens);
    let realm = format!("http://{}/token", service.host());
    let registry = Server::start(move |_| challenge(&realm));
    let refused = open_with(&format!("{}/app", registry.host()), &options);
    assert!(
        matches!(refused, Err(Error::InsecureRealm { .. })),
        "{refused:?}"
    );
    assert!(!saw_secrets(&service));
}

#[test]
fn an_identity_token_goes_where_a_password_may_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("auth.json");
    let served = Served::new(1000);
    let own = Arc::new(OnceLock::new());
    let realm = own.clone();
    let registry = Server::start(move |request| {
        if request.path == "/token" && request.method == "POST" {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            let fine = [
                "grant_type=refresh_token",
                "refresh_token=hunter2",
                "service=test",
            ];
            return match fine.iter().all(|part| body.contains(part)) {
                true => Reply::new(200, r#"{"access_token":"t"}"#),
                false => Reply::new(401, body),
            };
        }
        match request.authorization.as_deref() {
            Some("Bearer t") => served.reply(request),
            _ => challenge(&format!("http://{}/token", realm.get().unwrap())),
        }
    });
    own.set(registry.host()).unwrap();
    let service = Server::start(tokens);
    let elsewhere = format!("http://{}/token", service.host());
    let other = Server::start(move |_| challenge(&elsewhere));
    let entry = serde_json::json!({"identitytoken": "hunter2", "auth": "MDAwMDo="});
    let auths = serde_json::json!({"auths": {registry.host(): entry, other.host(): entry}});
    std::fs::write(&file, auths.to_string()).unwrap();
    let mut options = options();
    options.credentials = Credentials::File(file);
    open_with(&format!("{}/app", registry.host()), &options).unwrap();
    let refused = open_with(&format!("{}/app", other.host()), &options);
    assert!(
        matches!(refused, Err(Error::InsecureRealm { .. })),
        "{refused:?}"
    );
    assert!(!saw_secrets(&service));
}

#[test]
fn a_redirected_token_request_leaves_the_password_behind() {
    let Some(identity) = Identity::new() else {
        return;
    };
    for secure in [false, true] {
        let target = match secure {
            true => Server::start_tls(&identity, tokens),
            false => Server::start(tokens),
        };
        let scheme = if secure { "https" } else { "http" };
        let location = format!("{scheme}://{}/token", target.host());
        let service = Server::start_tls(&identity, move |_| {
            Reply::new(307, "").header("Location", location.clone())
        });
        let realm = format!("https://{}/token", service.host());
        let registry = Server::start_tls(&identity, move |_| challenge(&realm));
        let opened = open_with(&format!("{}/app", registry.host()), &over_tls(&identity));
        assert!(service.requests().iter().any(|r| r.authorization.is_some()));
        assert!(!saw_secrets(&target));
        match opened {
            Err(Error::Redirect { .. }) if !secure => assert!(target.requests().is_empty()),
            Err(Error::Unauthorized { .. }) if secure => assert!(!target.requests().is_empty()),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_blob_is_not_fetched_over_plain_http_where_its_registry_speaks_tls() {
    let Some(identity) = Identity::new() else {
        return;
    };
    let served = Served::new(1000);
    let storage = Server::start(|_| Reply::new(200, "x"));
    let location = format!("http://{}/blob", storage.host());
    let registry = Server::start_tls(&identity, move |request| {
        match request.path.contains("/blobs/") {
            true => Reply::new(307, "").header("Location", location.clone()),
            false => served.reply(request),
        }
    });
    let opened = open_with(&format!("{}/app", registry.host()), &over_tls(&identity));
    assert!(matches!(opened, Err(Error::Redirect { .. })), "{opened:?}");
    assert!(storage.requests().is_empty());
}

#[test]
fn ranges_asked_of_storage_after_a_broken_download_carry_no_credentials() {
    let served = Arc::new(Served::new(1 << 20));
    let stored = served.clone();
    let storage = Server::start(move |request| {
        let reply = stored.reply(request);
        match request.count {
            0 => reply.cut(500_000),
            _ => reply,
        }
    });
    let location = format!("http://{}", storage.host());
    let images = served.clone();
    let registry = Server::start(move |request| match request.authorization.as_deref() {
        None => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""),
        Some(_) if request.path == images.layer => {
            Reply::new(307, "").header("Location", format!("{location}{}", request.path))
        }
        Some(_) => images.reply(request),
    });
    let reference = format!("{}/app", registry.host());
    let image = open_with(&reference, &with_password("user", "hunter2")).unwrap();
    assert!(read(&image, 0).unwrap() == served.tar);
    assert_eq!(storage.requests().len(), 2);
    assert!(!saw_secrets(&storage));
}

#[test]
fn an_upload_sent_elsewhere_carries_no_credentials() {
    let storage = Server::start(|_| Reply::new(201, ""));
    let location = format!("http://{}/upload?signature=s", storage.host());
    let registry = Server::start(move |request| {
        match (request.authorization.is_some(), request.method.as_str()) {
            (false, _) => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""),
            (true, "POST") => Reply::new(202, "").header("Location", location.clone()),
            _ => Reply::new(404, ""),
        }
    });
    let repository =
        Repository::new(&registry.host(), "app", &with_password("user", "hunter2")).unwrap();
    let blob = b"blob".as_slice();
    repository
        .push_blob(&Digest::sha256(blob), 4, None, |_| Ok(blob))
        .unwrap();
    let request = &storage.requests()[0];
    assert_eq!(
        (request.method.as_str(), request.body.as_slice()),
        ("PUT", blob)
    );
    assert!(
        request.path.contains("signature=s&digest=sha256%3A"),
        "{}",
        request.path
    );
    assert!(!saw_secrets(&storage));
}

#[test]
fn addresses_with_user_information_are_refused_and_not_repeated() {
    let registry = Server::start(|request| match request.path.contains("manifests") {
        true => challenge("http://user:hunter2@127.0.0.1:1/token"),
        false => Reply::new(307, "").header("Location", "http://user:hunter2@127.0.0.1:1/"),
    });
    let error = open_with(&format!("{}/app", registry.host()), &options()).unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
    assert!(!format!("{error}{error:?}").contains("hunter2"));
    let repository = Repository::new(&registry.host(), "app", &options()).unwrap();
    let digest = Digest::sha256(b"x");
    let error = repository.blob(&digest, 1).read(&mut [0]).unwrap_err();
    let error = Error::of(&error).unwrap();
    assert!(matches!(error, Error::Redirect { .. }), "{error:?}");
    assert!(!format!("{error}{error:?}").contains("hunter2"));
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .expect("no failure in the test itself")
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn no_secret_is_logged_at_any_level() {
    if !is_child() {
        in_child("policy::no_secret_is_logged_at_any_level", &[]);
        return;
    }
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .init();
    let served = Served::new(1 << 20);
    let own = Arc::new(OnceLock::new());
    let realm = own.clone();
    let registry = Server::start(move |request| {
        if request.path.starts_with("/token") {
            return Reply::new(200, r#"{"token":"tokenhunter2"}"#);
        }
        match request.authorization.as_deref() {
            Some("Bearer tokenhunter2") if request.count == 1 => Reply::new(503, ""),
            Some("Bearer tokenhunter2") => served.reply(request),
            _ => challenge(&format!("http://{}/token", realm.get().unwrap())),
        }
    });
    own.set(registry.host()).unwrap();
    let reference = format!("{}/app", registry.host());
    let image = open_with(&reference, &with_password("user", "hunter2")).unwrap();
    read(&image, 0).unwrap();
    assert!(
        registry
            .requests()
            .iter()
            .any(|r| r.authorization.as_deref() == Some("Basic dXNlcjpodW50ZXIy"))
    );
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("trying again"), "{log}");
    for secret in ["hunter2", "dXNlcjpodW50ZXIy"] {
        assert!(!log.contains(secret), "{log}");
    }
}

/// A proxy that lets every connection through to `target`, and the heads of the requests it got.
fn proxy(target: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("no failure in the test itself");
    let address = listener
        .local_addr()
        .expect("no failure in the test itself")
        .to_string();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("no failure in the test itself");
            let (target, seen) = (target.clone(), seen.clone());
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                    head.push(byte[0]);
                }
                seen.lock()
                    .expect("no failure in the test itself")
                    .push(String::from_utf8(head).expect("no failure in the test itself"));
                let mut server = TcpStream::connect(target).expect("no failure in the test itself");
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\n\r\n")
                    .expect("no failure in the test itself");
                let (mut from, mut to) = (
                    stream.try_clone().expect("no failure in the test itself"),
                    server.try_clone().expect("no failure in the test itself"),
                );
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
                let _ = std::io::copy(&mut server, &mut stream);
                let _ = stream.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    (address, heads)
}

#[test]
fn a_proxy_is_used_and_its_password_not_shown() {
    const NAME: &str = "policy::a_proxy_is_used_and_its_password_not_shown";
    if is_child() {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .init();
        // A name that no resolver knows.
        let image = open_with("registry.invalid:5000/app", &options()).unwrap();
        read(&image, 0).unwrap();
        return;
    }
    let served = Served::new(1000);
    let registry = Server::start(move |request| served.reply(request));
    let (address, heads) = proxy(registry.host());
    let address = format!("http://user:hunter2@{address}");
    let output = in_child(
        NAME,
        &[("HTTP_PROXY", &address), ("NO_PROXY", "other.invalid")],
    );
    assert!(!output.contains("hunter2"), "{output}");
    let heads = heads.lock().unwrap();
    assert!(
        heads[0].starts_with("CONNECT registry.invalid:5000 "),
        "{heads:?}"
    );
    assert!(
        heads[0].contains("Proxy-Authorization: Basic dXNlcjpodW50ZXIy"),
        "{heads:?}"
    );
}

#[test]
fn a_proxy_that_refuses_is_named_with_its_variable() {
    const NAME: &str = "policy::a_proxy_that_refuses_is_named_with_its_variable";
    if is_child() {
        let error = open_with("registry.invalid:5000/app", &options()).unwrap_err();
        let Error::Connect { proxy, .. } = &error else {
            panic!("{error:?}");
        };
        let proxy = proxy.as_ref().unwrap();
        assert_eq!(proxy.variable, "all_proxy");
        let text = error.to_string();
        assert!(text.contains(&proxy.address) && text.contains("all_proxy"));
        assert!(!text.contains("hunter2"), "{text}");
        return;
    }
    // Nothing listens there any more.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let address = format!("http://user:hunter2@{address}");
    in_child(NAME, &[("all_proxy", &address)]);
}

#[cfg(unix)]
#[test]
fn a_credential_helper_is_asked_and_one_that_fails_is_named() {
    use std::os::unix::fs::PermissionsExt as _;
    const NAME: &str = "policy::a_credential_helper_is_asked_and_one_that_fails_is_named";
    if is_child() {
        let mut options = options();
        for (file, expected) in [
            ("WORKS", None),
            ("FAILS", Some("it broke")),
            ("LACKS", Some("docker-credential-lacking")),
        ] {
            options.credentials = Credentials::File(std::env::var_os(file).unwrap().into());
            let host = std::env::var("REGISTRY").unwrap();
            match (open_with(&format!("{host}/app"), &options), expected) {
                (Ok(_), None) => {}
                (Err(error @ Error::Unauthorized { .. }), Some(text)) => {
                    assert!(error.to_string().contains(text), "{error}");
                }
                other => panic!("{other:?}"),
            }
        }
        return;
    }
    let served = Served::new(1000);
    let registry = Server::start(move |request| match request.authorization.as_deref() {
        Some("Basic dXNlcjpodW50ZXIy") => served.reply(request),
        _ => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""),
    });
    let dir = tempfile::tempdir().unwrap();
    let script = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    let host = registry.host();
    script(
        "docker-credential-working",
        &format!(
            "#!/bin/sh\nread server\n[ \"$1 $server\" = 'get {host}' ] && echo '{{\"Username\":\"user\",\"Secret\":\"hunter2\"}}'\n"
        ),
    );
    script(
        "docker-credential-failing",
        "#!/bin/sh\necho it broke\nexit 1\n",
    );
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let works = file(
        "works",
        format!(r#"{{"auths":{{"{host}":{{}}}},"credHelpers":{{"{host}":"working"}}}}"#),
    );
    let fails = file("fails", r#"{"credsStore":"failing"}"#.to_owned());
    let lacks = file("lacks", r#"{"credsStore":"lacking"}"#.to_owned());
    let path = format!(
        "{}:{}",
        dir.path().display(),
        std::env::var("PATH").unwrap()
    );
    in_child(
        NAME,
        &[
            ("PATH", &path),
            ("REGISTRY", &host),
            ("WORKS", &works),
            ("FAILS", &fails),
            ("LACKS", &lacks),
        ],
    );
}

#[test]
fn a_password_that_is_not_text_comes_from_dockers_variable_and_its_oldest_file() {
    const NAME: &str =
        "policy::a_password_that_is_not_text_comes_from_dockers_variable_and_its_oldest_file";
    if is_child() {
        let host = std::env::var("REGISTRY").unwrap();
        let mut options = options();
        options.credentials = Credentials::Default;
        match open_with(&format!("{host}/app"), &options) {
            Ok(_) => println!("pulled"),
            Err(error) => println!("{error}"),
        }
        return;
    }
    let served = Served::new(1000);
    // In Latin-1.
    let registry = Server::start(move |request| match request.authorization.as_deref() {
        Some("Basic dXNlcjpw5HNz") => served.reply(request),
        _ => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""),
    });
    let host = registry.host();
    let home = tempfile::tempdir().unwrap();
    let home = home.path().to_str().unwrap();
    let child = |variable: &str| {
        let environment = [
            ("HOME", home),
            ("XDG_RUNTIME_DIR", home),
            ("XDG_CONFIG_HOME", home),
            ("DOCKER_CONFIG", home),
            ("REGISTRY_AUTH_FILE", ""),
            ("REGISTRY", &host),
            ("DOCKER_AUTH_CONFIG", variable),
        ];
        in_child(NAME, &environment)
    };
    let entry = format!(r#"{{"{host}":{{"auth":"dXNlcjpw5HNz"}}}}"#);
    assert!(child(&format!(r#"{{"auths":{entry}}}"#)).contains("pulled"));
    let refused = child("{ damaged");
    assert!(
        refused.contains("$DOCKER_AUTH_CONFIG could not be read"),
        "{refused}"
    );
    std::fs::write(format!("{home}/.dockercfg"), entry).unwrap();
    assert!(child("").contains("pulled"));
    let wrong = format!(r#"{{"auths":{{"{host}":{{"auth":"YTpi"}}}}}}"#);
    let refused = child(&wrong);
    assert!(
        refused.contains("refuses the credentials of $DOCKER_AUTH_CONFIG"),
        "{refused}"
    );
}

#[test]
fn a_mirror_is_not_given_the_password_meant_for_the_registry() {
    let served = Arc::new(Served::new(1000));
    let images = served.clone();
    let mirror =
        Server::start(|_| Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""));
    let registry = Server::start(move |request| match request.authorization {
        Some(_) => images.reply(request),
        None => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""),
    });
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("registries.conf");
    let text = format!(
        "[[registry]]\nlocation = '{}'\n[[registry.mirror]]\nlocation = '{}'\ninsecure = true\n",
        registry.host(),
        mirror.host()
    );
    std::fs::write(&conf, text).unwrap();
    let mut options = with_password("user", "hunter2");
    options.registries = Registries::Files(vec![conf]);
    let image = open_with(&format!("{}/app", registry.host()), &options).unwrap();
    assert!(read(&image, 0).unwrap() == served.tar);
    assert!(!mirror.requests().is_empty() && !saw_secrets(&mirror));
}

#[test]
fn a_name_and_password_given_do_not_print_themselves() {
    let text = format!("{:?}", Secret::new("hunter2"));
    assert!(!text.contains("hunter2"));
}
