//! A real registry, filled by skopeo.

use std::fs;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ocipull::{
    ConnectHint, Credentials, Digest, Error, Events, Image, Options, Pushed, Repository,
};
use serde_json::json;
use testkit::{Registry, oracle};

use crate::support::{GZIP, Layer, Layout, TAR, ZSTD, open_with, read, tar};

/// One that speaks HTTPS, with a certificate that only `certificate.pem` in its folder vouches
/// for.
fn start_tls() -> Option<Registry> {
    Registry::start_with(|dir| {
        let (key, certificate) = (dir.join("key.pem"), dir.join("certificate.pem"));
        let output = oracle("openssl")?
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            ])
            .args([
                "-subj",
                "/CN=test",
                "-addext",
                "subjectAltName=IP:127.0.0.1",
            ])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .expect("openssl starts");
        assert!(output.status.success(), "{output:?}");
        let (key, certificate) = (key.display(), certificate.display());
        Some(format!(
            "  tls:\n    certificate: {certificate}\n    key: {key}\n"
        ))
    })
}

/// Copies a layout's image into the registry, all platforms of it.
fn push(registry: &Registry, layout: &Layout, name: &str) -> bool {
    let Some(mut skopeo) = oracle("skopeo") else {
        return false;
    };
    let output = skopeo
        .args(["--insecure-policy", "copy", "--all", "--preserve-digests"])
        .arg("--dest-tls-verify=false")
        .arg(format!("oci:{}:latest", layout.path().display()))
        .arg(format!("docker://{}/{name}", registry.host))
        .output()
        .expect("skopeo starts");
    assert!(output.status.success(), "{output:?}");
    true
}

fn open(registry: &Registry, name: &str) -> Result<Image, Error> {
    open_with(&format!("{}/{name}", registry.host), &options())
}

fn options() -> Options {
    let mut options = Options::default();
    options.plain_http = true;
    options.credentials = Credentials::Anonymous;
    options
}

#[test]
fn an_image_pushed_by_skopeo_is_pulled() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let tars: Vec<_> = (0..6)
        .map(|index| tar("f", 1000 + index * 500_000))
        .collect();
    let kinds = [GZIP, ZSTD, TAR, GZIP, ZSTD, GZIP];
    let layers: Vec<_> = tars
        .iter()
        .zip(kinds)
        .map(|(tar, kind)| Layer::new(tar, kind))
        .collect();
    let layout = Layout::of(&layers);
    if !push(&registry, &layout, "team/app:v1") {
        return;
    }
    let local = layout.open().unwrap();
    let digest = local.manifest_digest();
    for name in [
        "team/app:v1",
        &format!("team/app@{digest}"),
        &format!("team/app:v1@{digest}"),
    ] {
        let image = open(&registry, name).unwrap();
        assert_eq!(image.manifest_digest(), digest);
        assert_eq!(image.config_bytes(), local.config_bytes());
        // All layers at once.
        std::thread::scope(|scope| {
            for (index, tar) in tars.iter().enumerate() {
                let image = &image;
                scope.spawn(move || assert!(read(image, index).unwrap() == *tar));
            }
        });
    }
}

#[test]
fn the_image_for_the_platform_is_pulled_from_an_index() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let mut layout = Layout::new();
    let entries = ["arm64", "amd64", "s390x"].map(|architecture| {
        let mut image = layout.image(&[Layer::new(&tar(architecture, 10), GZIP)]);
        image["platform"] = json!({"os": "linux", "architecture": architecture});
        image
    });
    let index = layout.index(&entries);
    layout.list(index.clone(), Some("latest"));
    if !push(&registry, &layout, "app") {
        return;
    }
    for (position, platform) in ["linux/arm64", "linux/amd64", "linux/s390x"]
        .iter()
        .enumerate()
    {
        let mut options = options();
        options.platform = platform.parse().unwrap();
        for name in [
            "app".to_owned(),
            format!("app@{}", index["digest"].as_str().unwrap()),
        ] {
            let image = open_with(&format!("{}/{name}", registry.host), &options).unwrap();
            let expected = entries[position]["digest"].as_str().unwrap();
            assert_eq!(image.manifest_digest().as_str(), expected);
        }
    }
    let mut options = options();
    options.platform = "linux/riscv64".parse().unwrap();
    let missing = open_with(&format!("{}/app", registry.host), &options);
    assert!(
        matches!(missing, Err(Error::NoPlatform { .. })),
        "{missing:?}"
    );
}

#[test]
fn a_registry_that_speaks_http_is_recognised() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let mut options = options();
    options.plain_http = false;
    // It leads here, but is not an address of the loopback interface.
    let host = registry.host.replace("127.0.0.1", "0.0.0.0");
    match open_with(&format!("{host}/app"), &options) {
        Err(Error::Connect {
            hint: ConnectHint::PlainHttp,
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_registry_on_this_host_is_reached_in_plain_http_unless_it_speaks_tls() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let waits = Arc::new(AtomicUsize::new(0));
    let mut options = options();
    options.plain_http = false;
    let counted = waits.clone();
    options.events = Some(Events::new(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
    }));
    let port = registry.host.rsplit_once(':').unwrap().1;
    let layer = tar("a", 300_000);
    let digest = Digest::sha256(&layer);
    for (host, pushed) in [
        (registry.host.clone(), Pushed::Uploaded),
        (format!("localhost:{port}"), Pushed::Existed),
    ] {
        let repository = Repository::new(&host, "app", &options).unwrap();
        // Anyone on this host may answer.
        assert!(!repository.is_authentic());
        let open = |offset: u64| Ok(&layer[offset as usize..]);
        let done = repository.push_blob(&digest, layer.len() as u64, None, open);
        assert_eq!(done.unwrap(), pushed);
        let fresh = Repository::new(&host, "app", &options).unwrap();
        let mut read = Vec::new();
        let mut blob = fresh.blob(&digest, layer.len() as u64);
        blob.read_to_end(&mut read).unwrap();
        assert!(read == layer);
    }
    assert_eq!(waits.load(Ordering::Relaxed), 0);
    let Some(registry) = start_tls() else {
        return;
    };
    // A certificate that is not trusted is an error, as anywhere.
    match open_with(&format!("{}/app", registry.host), &options) {
        Err(Error::Connect {
            hint: ConnectHint::Certificate,
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_private_registry_is_trusted_through_its_certificate() {
    let Some(registry) = start_tls() else {
        return;
    };
    let layer = tar("a", 100_000);
    let layout = Layout::of(&[Layer::new(&layer, GZIP)]);
    if !push(&registry, &layout, "app") {
        return;
    }
    let reference = format!("{}/app", registry.host);
    let mut options = Options::default();
    options.credentials = Credentials::Anonymous;
    match open_with(&reference, &options) {
        Err(Error::Connect {
            hint: ConnectHint::Certificate,
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
    options.certificates = vec![registry.dir.path().join("certificate.pem")];
    assert!(read(&open_with(&reference, &options).unwrap(), 0).unwrap() == layer);
    options.certificates = vec![registry.dir.path().join("config.yml")];
    assert!(matches!(
        open_with(&reference, &options),
        Err(Error::Certificates { .. })
    ));
    options.certificates = Vec::new();
    options.plain_http = true;
    let error = open_with(&reference, &options).unwrap_err();
    let text = format!("{error}: {:?}", std::error::Error::source(&error));
    assert!(text.contains("HTTPS"), "{text}");
}

#[test]
fn missing_repositories_tags_and_blobs_are_named() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let layout = Layout::of(&[]);
    if !push(&registry, &layout, "app") {
        return;
    }
    let digest = Digest::sha256(b"nothing");
    for (name, expected) in [
        ("app:v9", "app:v9".to_owned()),
        ("other", "other:latest".to_owned()),
        (&format!("app@{digest}"), format!("app@{digest}")),
    ] {
        match open(&registry, name) {
            Err(Error::NotFound { name, message, .. }) => {
                assert_eq!(name, expected);
                assert!(message.contains("UNKNOWN"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_layer_that_rotted_in_the_registry_is_refused() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let layers = [
        Layer::new(&tar("a", 100_000), GZIP),
        Layer::new(&tar("b", 200_000), GZIP),
    ];
    if !push(&registry, &Layout::of(&layers), "app") {
        return;
    }
    let stored = |index: usize| {
        let digest = Digest::sha256(&layers[index].stored);
        let hex = digest.hex();
        let blobs = registry
            .dir
            .path()
            .join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    };
    let mut changed = layers[0].stored.clone();
    changed[5000] ^= 1;
    fs::write(stored(0), changed).unwrap();
    fs::write(stored(1), &layers[1].stored[..5000]).unwrap();
    let image = open(&registry, "app").unwrap();
    assert!(matches!(read(&image, 0), Err(Error::DigestMismatch { .. })));
    let cut = read(&image, 1);
    assert!(
        matches!(cut, Err(Error::SizeMismatch { actual: 5000, .. })),
        "{:?}",
        cut.map(|_| ())
    );
}
