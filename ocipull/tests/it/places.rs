//! `registries.conf` and `certs.d`: mirrors, and whom to trust.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ocipull::{ConnectHint, Error, Event, Events, Options, Registries};
use testkit::Registry;

use crate::server::{Identity, Reply, Server};
use crate::support::{open_with, read};
use crate::transfer::{Served, options};

/// Options with a `registries.conf`.
fn with_conf(dir: &tempfile::TempDir, text: &str) -> Options {
    let path = dir.path().join("registries.conf");
    fs::write(&path, text).expect("written");
    let mut options = options();
    options.plain_http = false;
    options.registries = Registries::Files(vec![path]);
    options
}

#[test]
fn mirrors_are_asked_in_order_and_a_download_goes_on_at_the_next() {
    let served = Arc::new(Served::new(1 << 20));
    let [empty, breaking, whole] = [0, 1, 2].map(|kind| {
        let images = served.clone();
        Server::start(move |request| {
            let reply = images.reply(request);
            match kind {
                0 => Reply::new(404, ""),
                1 if request.path == images.layer && request.range.is_none() => reply.cut(400_000),
                1 if request.path == images.layer => Reply::new(500, ""),
                _ => reply,
            }
        })
    });
    let dir = tempfile::tempdir().unwrap();
    let mirror = |server: &Server| {
        let host = server.host();
        format!("[[registry.mirror]]\nlocation = '{host}'\ninsecure = true\n")
    };
    let text = format!(
        "[[registry]]\nprefix = 'registry.invalid'\nlocation = '{}'\ninsecure = true\n{}{}",
        whole.host(),
        mirror(&empty),
        mirror(&breaking)
    );
    let mut options = with_conf(&dir, &text);
    options.retries = 1;
    let next = Arc::new(Mutex::new(Vec::new()));
    let seen = next.clone();
    options.events = Some(Events::new(move |event| {
        if let Event::NextMirror { host, .. } = event {
            seen.lock().unwrap().push((*host).to_owned());
        }
    }));
    let image = open_with("registry.invalid/app", &options).unwrap();
    assert!(read(&image, 0).unwrap() == served.tar);
    let requests = whole.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert_eq!(requests[0].range, Some(400_000));
    assert!(next.lock().unwrap().contains(&whole.host()));
}

#[test]
fn a_mirror_for_digests_is_not_asked_for_tags() {
    let served = Arc::new(Served::new(1000));
    let [mirror, registry] = [0, 1].map(|_| {
        let images = served.clone();
        Server::start(move |request| images.reply(request))
    });
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "[[registry]]\nlocation = '{}'\ninsecure = true\n[[registry.mirror]]\nlocation = '{}'\ninsecure = true\npull-from-mirror = 'digest-only'\n",
        registry.host(),
        mirror.host()
    );
    let options = with_conf(&dir, &text);
    read(
        &open_with(&format!("{}/app", registry.host()), &options).unwrap(),
        0,
    )
    .unwrap();
    let manifests = |server: &Server| {
        let requests = server.requests().into_iter();
        requests
            .filter(|request| request.path.contains("manifests"))
            .count()
    };
    assert_eq!((manifests(&mirror), manifests(&registry)), (0, 1));
    assert!(!mirror.requests().is_empty());
}

#[test]
fn a_blocked_registry_is_not_asked() {
    let registry = Server::start(|_| Reply::new(404, ""));
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "[[registry]]\nlocation = '{}'\nblocked = true\n",
        registry.host()
    );
    let opened = open_with(&format!("{}/app", registry.host()), &with_conf(&dir, &text));
    assert!(matches!(opened, Err(Error::Blocked { .. })), "{opened:?}");
    assert!(registry.requests().is_empty());
}

#[test]
fn an_insecure_registry_may_have_any_certificate() {
    let Some(identity) = Identity::new() else {
        return;
    };
    let served = Served::new(1000);
    let registry = Server::start_tls(&identity, move |request| served.reply(request));
    let dir = tempfile::tempdir().unwrap();
    let reference = format!("{}/app", registry.host());
    let text = format!("[[registry]]\nlocation = '{}'\n", registry.host());
    let secure = open_with(&reference, &with_conf(&dir, &text));
    assert!(
        matches!(
            secure,
            Err(Error::Connect {
                hint: ConnectHint::Certificate,
                ..
            })
        ),
        "{secure:?}"
    );
    open_with(
        &reference,
        &with_conf(&dir, &format!("{text}insecure = true\n")),
    )
    .unwrap();
}

#[test]
fn certificates_of_a_registry_are_read_from_its_folder() {
    let Some(identity) = Identity::new() else {
        return;
    };
    // The registry wants a certificate of its clients, too.
    let [certificate, key, authority] =
        ["host.cert", "host.key", "ca.crt"].map(|name| identity.file(name).display().to_string());
    let Some(registry) = Registry::start_with(|_| {
        Some(format!(
            "  tls:\n    certificate: {certificate}\n    key: {key}\n    clientcas: [{authority}]\n"
        ))
    }) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.plain_http = false;
    options.certificate_folders = vec![PathBuf::from("/nonexistent"), dir.path().to_owned()];
    let folder = dir.path().join(&registry.host);
    fs::create_dir(&folder).unwrap();
    let reference = format!("{}/app", registry.host);
    match open_with(&reference, &options) {
        Err(Error::Connect {
            hint: ConnectHint::Certificate,
            certificate_folder,
            ..
        }) => assert_eq!(certificate_folder, Some(folder.clone())),
        other => panic!("{other:?}"),
    }
    fs::copy(identity.file("ca.crt"), folder.join("ca.crt")).unwrap();
    let refused = open_with(&reference, &options).unwrap_err();
    assert!(!matches!(refused, Error::NotFound { .. }), "{refused}");
    fs::copy(identity.file("host.cert"), folder.join("client.cert")).unwrap();
    let no_key = open_with(&reference, &options).unwrap_err();
    assert!(matches!(no_key, Error::Io { .. }), "{no_key}");
    fs::copy(identity.file("ca.key"), folder.join("client.key")).unwrap();
    let other_key = open_with(&reference, &options).unwrap_err();
    assert!(
        matches!(other_key, Error::Certificates { .. }),
        "{other_key}"
    );
    fs::copy(identity.file("host.key"), folder.join("client.key")).unwrap();
    let opened = open_with(&reference, &options);
    assert!(matches!(opened, Err(Error::NotFound { .. })), "{opened:?}");
}
