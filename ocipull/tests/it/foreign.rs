//! Layers that must not be distributed, and where they come from.

use ocipull::{Digest, Error, Image, Options};
use serde_json::json;

use crate::server::{Reply, Server};
use crate::support::{GZIP, Layer, Layout, open_with, read, tar};
use crate::transfer;

const FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";

fn layer() -> Layer {
    Layer::new(&tar("a", 200_000), GZIP)
}

/// A layout of an image whose only layer is foreign, at `urls`.
fn layout(urls: &[String], keep: bool) -> Layout {
    let mut layout = Layout::new();
    let mut manifest = layout.manifest(&[layer()]);
    let descriptor = &mut manifest["layers"][0];
    (descriptor["mediaType"], descriptor["urls"]) = (json!(FOREIGN), json!(urls));
    if !keep {
        let digest = descriptor["digest"].as_str().expect("a digest");
        std::fs::remove_file(layout.blob_path(digest)).expect("removed");
    }
    let image = layout.document(&manifest);
    layout.list(image, Some("latest"));
    layout
}

fn open(layout: &Layout, plain_http: bool) -> Result<Image, Error> {
    let mut options = Options::default();
    options.foreign_layers = true;
    options.plain_http = plain_http;
    options.retries = 0;
    open_with(&format!("oci:{}", layout.path().display()), &options)
}

fn host(server: &Server, path: &str) -> String {
    format!("http://{}/{path}", server.host())
}

#[test]
fn foreign_layers_are_refused_by_name_unless_they_are_asked_for() {
    let server = Server::start(|_| Reply::new(200, layer().stored));
    let layout = layout(&[host(&server, "layer")], false);
    let options = transfer::options();
    let refused = open_with(&format!("oci:{}", layout.path().display()), &options);
    match refused {
        Err(Error::ForeignLayer { digest, media_type }) => {
            assert_eq!(digest, Digest::sha256(&layer().stored));
            assert_eq!(media_type, FOREIGN);
        }
        other => panic!("{other:?}"),
    }
    assert!(server.requests().is_empty());
}

#[test]
fn a_foreign_layer_comes_from_the_first_of_its_urls_that_works_and_without_credentials() {
    let server = Server::start(|request| match request.path.as_str() {
        "/gone" => Reply::new(404, ""),
        "/cut" => Reply::ranged(request, &layer().stored).cut(30_000),
        _ => Reply::ranged(request, &layer().stored),
    });
    let urls = ["gone", "cut", "layer", "spare"].map(|path| host(&server, path));
    let image = open(&layout(&urls, false), true).unwrap();
    assert_eq!(image.layers()[0].urls, urls);
    assert!(read(&image, 0).unwrap() == tar("a", 200_000));
    let asked = server.requests();
    let asked: Vec<_> = asked
        .iter()
        .map(|request| (request.path.as_str(), request.range))
        .collect();
    assert_eq!(
        asked,
        [("/gone", None), ("/cut", None), ("/layer", Some(30_000))]
    );
    let authorized = |request: &crate::server::Request| request.authorization.is_some();
    assert!(!server.requests().iter().any(authorized));
}

#[test]
fn a_foreign_layer_that_the_source_has_comes_from_there() {
    let server = Server::start(|_| Reply::new(500, ""));
    let layout = layout(&[host(&server, "layer")], true);
    let image = open(&layout, true).unwrap();
    assert!(read(&image, 0).unwrap() == tar("a", 200_000));
    assert!(server.requests().is_empty());
}

#[test]
fn other_bytes_at_a_url_are_refused() {
    let server = Server::start(|_| {
        let mut stored = layer().stored;
        stored[40_000] ^= 1;
        Reply::new(200, stored)
    });
    let image = open(&layout(&[host(&server, "layer")], false), true).unwrap();
    let refused = read(&image, 0).map(|bytes| bytes.len());
    assert!(
        matches!(refused, Err(Error::DigestMismatch { .. })),
        "{refused:?}"
    );
}

#[test]
fn urls_that_lead_elsewhere_than_to_a_server_with_tls_are_not_asked() {
    let server = Server::start(|_| Reply::new(200, layer().stored));
    for url in [
        host(&server, "layer"),
        "file:///etc/passwd".to_owned(),
        "https://me:secret@x/".to_owned(),
        "layer".to_owned(),
    ] {
        let image = open(&layout(&[url], false), false).unwrap();
        let refused = read(&image, 0).map(|bytes| bytes.len());
        assert!(matches!(refused, Err(Error::Address { .. })), "{refused:?}");
    }
    assert!(server.requests().is_empty());
    let image = open(&layout(&[], false), false).unwrap();
    let missing = read(&image, 0).map(|bytes| bytes.len());
    assert!(
        matches!(missing, Err(Error::ForeignLayer { .. })),
        "{missing:?}"
    );
}
