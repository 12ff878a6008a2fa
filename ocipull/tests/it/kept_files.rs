//! Layers whose reader takes over the file in which their bytes are kept.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ocipull::{Error, Image, Options};

use crate::server::Server;
use crate::support::open_with;
use crate::transfer::{self, Served};

const RANGE: usize = 64 << 10;

fn options(folder: &Path) -> Options {
    let mut options = transfer::options();
    options.retries = 0;
    options.range_bytes = RANGE as u64;
    options.partial_downloads = Some(folder.to_owned());
    options
}

fn open(server: &Server, options: &Options) -> Image {
    open_with(&format!("{}/app", server.host()), options).expect("the image is sound")
}

/// Serves an image whose layer has `size` bytes.
fn serve(size: usize) -> (Server, Arc<Served>) {
    let served = Arc::new(Served::new(size));
    let images = served.clone();
    (Server::start(move |request| images.reply(request)), served)
}

fn is_empty(folder: &Path) -> bool {
    let mut files = fs::read_dir(folder).expect("the folder is there");
    files.next().is_none()
}

#[test]
fn a_kept_file_has_the_layer_and_takes_another_name() {
    let (folder, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (server, served) = serve(20 * RANGE);
    let mut layer = open(&server, &options(folder.path())).layer(0).unwrap();
    let kept = layer.keep_file().expect("a large layer of a registry");
    assert!(kept.path().starts_with(folder.path()));
    assert!(layer.keep_file().is_none(), "it belongs to one");
    layer.finish().unwrap();
    assert!(fs::read(kept.path()).unwrap() == served.tar);
    let to = place.path().join("layer");
    fs::write(&to, "another file").unwrap();
    kept.persist(&to).unwrap();
    assert!(fs::read(&to).unwrap() == served.tar);
    assert!(is_empty(folder.path()));
}

#[test]
fn a_kept_file_without_another_name_goes() {
    let folder = tempfile::tempdir().unwrap();
    let (server, _) = serve(20 * RANGE);
    let mut layer = open(&server, &options(folder.path())).layer(0).unwrap();
    let kept = layer.keep_file().unwrap();
    layer.finish().unwrap();
    assert!(!is_empty(folder.path()));
    drop(kept);
    assert!(is_empty(folder.path()));
}

#[test]
fn a_kept_file_that_nobody_holds_at_the_end_goes() {
    let folder = tempfile::tempdir().unwrap();
    let (server, _) = serve(20 * RANGE);
    let mut layer = open(&server, &options(folder.path())).layer(0).unwrap();
    drop(layer.keep_file());
    layer.finish().unwrap();
    assert!(is_empty(folder.path()));
}

#[test]
fn layers_that_are_small_or_kept_by_another_download_have_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let (server, _) = serve(RANGE / 2);
    let mut layer = open(&server, &options(folder.path())).layer(0).unwrap();
    assert!(layer.keep_file().is_none());
    layer.finish().unwrap();

    let (server, _) = serve(20 * RANGE);
    let image = open(&server, &options(folder.path()));
    let mut first = image.layer(0).unwrap();
    let kept = first.keep_file().expect("a file");
    let mut second = image.layer(0).unwrap();
    assert!(second.keep_file().is_none());
    second.finish().unwrap();
    first.finish().unwrap();
    kept.persist(&folder.path().join("layer")).unwrap();
}

#[test]
fn a_download_that_broke_off_goes_on_in_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let works = Arc::new(AtomicBool::new(false));
    let served = Arc::new(Served::new(20 * RANGE));
    let (images, is_working) = (served.clone(), works.clone());
    let server = Server::start(move |request| match request.range {
        Some(first) if first >= 7 * RANGE && !is_working.load(Ordering::SeqCst) => {
            images.reply(request).cut(0)
        }
        _ => images.reply(request),
    });
    let mut layer = open(&server, &options(folder.path())).layer(0).unwrap();
    let kept = layer.keep_file().unwrap();
    layer.finish().unwrap_err();
    let to = folder.path().join("layer");
    kept.persist(&to).unwrap_err();
    assert!(!to.exists() && !is_empty(folder.path()));

    works.store(true, Ordering::SeqCst);
    let before = server.requests().len();
    let mut layer = open(&server, &options(folder.path())).layer(0).unwrap();
    let kept = layer.keep_file().unwrap();
    layer.finish().unwrap();
    kept.persist(&to).unwrap();
    assert!(fs::read(&to).unwrap() == served.tar);
    let asked = server.requests().split_off(before);
    let first = asked.iter().filter_map(|request| request.range).min();
    assert_eq!(first, Some(7 * RANGE));
}

#[test]
fn a_kept_file_with_wrong_bytes_gets_no_name() {
    let folder = tempfile::tempdir().unwrap();
    let served = Arc::new(Served::new(20 * RANGE));
    let images = served.clone();
    let server = Server::start(move |request| {
        let mut reply = images.reply(request);
        if request.range == Some(4 * RANGE) {
            reply.body[100] ^= 1;
        }
        reply
    });
    let mut layer = open(&server, &options(folder.path())).layer(0).unwrap();
    let kept = layer.keep_file().unwrap();
    assert!(matches!(layer.finish(), Err(Error::DigestMismatch { .. })));
    drop(kept);
    assert!(
        is_empty(folder.path()),
        "they are not kept for the next one"
    );
}
