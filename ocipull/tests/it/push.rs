//! What programs do with a repository: at Debian's docker-registry, and at servers that fail.

use std::io::{self, Read};
use std::sync::{Arc, Mutex};

use ocipull::{Credentials, Digest, Error, Options, Pushed, Repository, Secret};
use serde_json::json;
use testkit::Registry;

use crate::server::{Reply, Server};
use crate::support::{CONFIG, MANIFEST, TAR, open_with, read, tar};
use crate::transfer::options;

pub(crate) fn push(repository: &Repository, blob: &[u8]) -> Result<Pushed, Error> {
    let digest = Digest::sha256(blob);
    let open = |offset: u64| Ok(&blob[offset as usize..]);
    repository.push_blob(&digest, blob.len() as u64, None, open)
}

fn fetch(mut reader: impl Read) -> Result<Vec<u8>, io::Error> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Pushes an image of one layer under the tag `v1`, and returns its digest.
pub(crate) fn push_image(repository: &Repository, layer: &[u8]) -> Digest {
    let config = json!({
        "os": "linux",
        "architecture": ocipull::Platform::host().architecture,
        "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(layer).as_str()]},
    });
    let config = config.to_string().into_bytes();
    let describe = |media_type: &str, bytes: &[u8]| json!({"mediaType": media_type, "digest": Digest::sha256(bytes).as_str(), "size": bytes.len()});
    for blob in [layer, &config] {
        push(repository, blob).expect("pushed");
    }
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": describe(CONFIG, &config), "layers": [describe(TAR, layer)],
    });
    let manifest = manifest.to_string();
    repository
        .push_manifest("v1", MANIFEST, manifest.as_bytes())
        .expect("pushed")
}

#[test]
fn a_pushed_image_is_pulled_resolved_and_listed() {
    let Some(registry) = Registry::start() else {
        return;
    };
    for chunk in [0, 100_000] {
        let mut options = options();
        options.upload_chunk = chunk;
        let name = format!("team/app{chunk}");
        let repository = Repository::new(&registry.host, &name, &options).unwrap();
        let layer = tar("f", 1 << 20);
        let digest = push_image(&repository, &layer);
        let image = open_with(&format!("{}/{name}:v1", registry.host), &options).unwrap();
        assert_eq!(*image.manifest_digest(), digest);
        assert!(read(&image, 0).unwrap() == layer);

        assert_eq!(repository.resolve("v1").unwrap(), digest);
        assert_eq!(repository.resolve(digest.as_str()).unwrap(), digest);
        let manifest = repository.manifest("v1").unwrap();
        assert_eq!(
            (manifest.digest(), manifest.media_type()),
            (&digest, Some(MANIFEST))
        );
        assert_eq!(repository.tags().unwrap(), ["v1"]);
        assert_eq!(repository.referrers(&digest, None).unwrap(), []);
        assert_eq!(push(&repository, &layer).unwrap(), Pushed::Existed);
    }
}

#[test]
fn blobs_are_measured_fetched_in_part_and_verified() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let repository = Repository::new(&registry.host, "app", &options()).unwrap();
    let blob = tar("f", 300_000);
    let (digest, size) = (Digest::sha256(&blob), blob.len() as u64);
    assert_eq!(repository.blob_size(&digest).unwrap(), None);
    assert_eq!(push(&repository, &blob).unwrap(), Pushed::Uploaded);
    assert_eq!(repository.blob_size(&digest).unwrap(), Some(size));
    assert!(fetch(repository.blob(&digest, size)).unwrap() == blob);
    for range in [0..10, 5..5, 1000..200_000, size - 1..size] {
        let part = &blob[range.start as usize..range.end as usize];
        assert!(fetch(repository.blob_range(&digest, range)).unwrap() == part);
    }
    let error = fetch(repository.blob(&digest, size - 1)).unwrap_err();
    assert!(
        matches!(Error::of(&error), Some(Error::SizeMismatch { .. })),
        "{error}"
    );
    push(&repository, b"").unwrap();
    assert_eq!(
        fetch(repository.blob(&Digest::sha256(b""), 0)).unwrap(),
        b""
    );
}

#[test]
fn a_blob_is_mounted_from_another_repository() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let blob = tar("f", 1000);
    push(
        &Repository::new(&registry.host, "one", &options()).unwrap(),
        &blob,
    )
    .unwrap();
    let other = Repository::new(&registry.host, "two", &options()).unwrap();
    let digest = Digest::sha256(&blob);
    let unread = |_| -> io::Result<&[u8]> { panic!("nothing is to be uploaded") };
    let pushed = other.push_blob(&digest, blob.len() as u64, Some("one"), unread);
    assert_eq!(pushed.unwrap(), Pushed::Mounted);
    // What is not there to mount is uploaded.
    let open = |_| Ok(b"x".as_slice());
    let pushed = other.push_blob(&Digest::sha256(b"x"), 1, Some("one"), open);
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
}

#[test]
fn bytes_that_are_not_those_of_the_digest_are_refused_by_the_registry() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let repository = Repository::new(&registry.host, "app", &options()).unwrap();
    let digest = Digest::sha256(b"other");
    let refused = repository.push_blob(&digest, 4, None, |_| Ok(b"blob".as_slice()));
    assert!(
        matches!(refused, Err(Error::Http { status: 400, .. })),
        "{refused:?}"
    );
    let short = repository.push_blob(&digest, 5, None, |_| Ok(b"blob".as_slice()));
    assert!(matches!(short, Err(Error::Read { .. })), "{short:?}");
    assert_eq!(repository.blob_size(&digest).unwrap(), None);
}

#[test]
fn a_registry_with_passwords_is_pushed_to() {
    let Some(registry) = Registry::start_with_user() else {
        return;
    };
    let options = |password: &str| {
        let mut options = options();
        options.credentials = Credentials::Basic {
            username: "user".to_owned(),
            password: Secret::new(password),
        };
        options
    };
    let repository = |options: &Options| Repository::new(&registry.host, "app", options).unwrap();
    assert!(ocipull::check_login(&registry.host, &options("secret")).unwrap());
    let wrong = ocipull::check_login(&registry.host, &options("wrong"));
    assert!(
        matches!(wrong, Err(Error::Unauthorized { .. })),
        "{wrong:?}"
    );
    push_image(&repository(&options("secret")), &tar("f", 100_000));
    let refused = push(&repository(&options("wrong")), b"x");
    assert!(
        matches!(refused, Err(Error::Unauthorized { .. })),
        "{refused:?}"
    );
}

#[test]
fn an_upload_that_breaks_off_goes_on_where_the_registry_says() {
    let blob = tar("f", 1 << 20);
    let stored = Arc::new(Mutex::new(Vec::new()));
    let state = stored.clone();
    let registry = Server::start(move |request| {
        let mut stored = state.lock().unwrap();
        let next =
            |status| Reply::new(status, "").header("Location", "/v2/app/blobs/uploads/1?state=a");
        match request.method.as_str() {
            "POST" => next(202),
            // The connection breaks when some of it is there.
            "PUT" if request.body.len() > 400_000 => {
                stored.extend_from_slice(&request.body[..400_000]);
                Reply::none()
            }
            "GET" => next(204).header("Range", format!("0-{}", stored.len() - 1)),
            "PATCH" => {
                let range = request
                    .headers
                    .iter()
                    .find(|(name, _)| name == "content-range");
                assert!(range.unwrap().1.starts_with(&format!("{}-", stored.len())));
                stored.extend_from_slice(&request.body);
                next(202)
            }
            "PUT" => Reply::new(201, ""),
            _ => Reply::new(404, ""),
        }
    });
    let repository = Repository::new(&registry.host(), "app", &options()).unwrap();
    assert_eq!(push(&repository, &blob).unwrap(), Pushed::Uploaded);
    assert!(*stored.lock().unwrap() == blob);
    let last = registry.requests().pop().unwrap();
    assert!(
        last.method == "PUT" && last.path.contains("state=a&digest=sha256"),
        "{}",
        last.path
    );
}

/// How a registry of the tests fails to continue an upload.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Resume {
    /// It says nothing of the bytes it has, and appends.
    NoRange,
    /// It says that it has more than it has.
    TooFar,
    /// It refuses all requests after the first of an upload.
    Refused,
    /// It says the right thing, and takes no chunk.
    NoChunks,
    /// `Range: 0-0` stands for no bytes and for one.
    OneByte,
}

#[test]
fn an_upload_that_the_registry_cannot_continue_begins_again() {
    let blob = tar("f", 300_000);
    for resume in [
        Resume::NoRange,
        Resume::TooFar,
        Resume::Refused,
        Resume::NoChunks,
        Resume::OneByte,
    ] {
        // The bytes of each upload.
        let uploads = Arc::new(Mutex::new(Vec::<Vec<u8>>::new()));
        let (state, expected) = (uploads.clone(), blob.clone());
        let registry = Server::start(move |request| {
            let mut uploads = state.lock().unwrap();
            let next = |status, number: usize| {
                let place = format!("/v2/app/blobs/uploads/{number}");
                Reply::new(status, "").header("Location", place)
            };
            if request.method == "POST" {
                uploads.push(Vec::new());
                return next(202, uploads.len());
            }
            let number = uploads.len();
            let Some(upload) = uploads.last_mut() else {
                return Reply::new(404, "");
            };
            match request.method.as_str() {
                // The first upload breaks.
                "PUT" if number == 1 && upload.is_empty() => {
                    let kept = if resume == Resume::OneByte {
                        1
                    } else {
                        100_000
                    };
                    upload.extend_from_slice(&request.body[..kept]);
                    Reply::none()
                }
                "GET" => match resume {
                    Resume::NoRange => next(204, number),
                    Resume::TooFar => next(204, number).header("Range", "0-199999"),
                    Resume::Refused => Reply::new(404, ""),
                    Resume::NoChunks | Resume::OneByte => {
                        next(204, number).header("Range", format!("0-{}", upload.len() - 1))
                    }
                },
                "PATCH" => {
                    let range = |(name, _): &&(String, String)| name == "content-range";
                    let range = request.headers.iter().find(range).unwrap();
                    let fits = range.1.starts_with(&format!("{}-", upload.len()));
                    match resume {
                        Resume::NoChunks => return Reply::new(405, ""),
                        Resume::OneByte if !fits => return Reply::new(416, ""),
                        _ => {}
                    }
                    upload.extend_from_slice(&request.body);
                    next(202, number)
                }
                "PUT" => {
                    upload.extend_from_slice(&request.body);
                    match *upload == expected {
                        true => Reply::new(201, ""),
                        false => Reply::new(400, r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#),
                    }
                }
                _ => Reply::new(404, ""),
            }
        });
        let repository = Repository::new(&registry.host(), "app", &options()).unwrap();
        let pushed = push(&repository, &blob);
        assert!(
            matches!(pushed, Ok(Pushed::Uploaded)),
            "{resume:?}: {pushed:?}"
        );
        let uploads = uploads.lock().unwrap();
        assert_eq!(uploads.len(), 2, "{resume:?}");
        assert!(uploads[1] == blob, "{resume:?}");
    }
}

#[test]
fn an_upload_that_the_registry_forgot_begins_again_and_one_that_always_fails_is_given_up() {
    let blob = tar("f", 100_000);
    for failures in [1, usize::MAX] {
        let puts = Mutex::new(0);
        let registry = Server::start(move |request| match request.method.as_str() {
            "POST" => Reply::new(202, "").header("Location", "uploads/1"),
            "PUT" => {
                let mut puts = puts.lock().unwrap();
                *puts += 1;
                match *puts <= failures {
                    true => Reply::new(502, ""),
                    false => Reply::new(201, ""),
                }
            }
            _ => Reply::new(404, ""),
        });
        let repository = Repository::new(&registry.host(), "app", &options()).unwrap();
        match push(&repository, &blob) {
            Ok(Pushed::Uploaded) => assert_eq!(failures, 1),
            Err(Error::Http { status: 502, .. }) => assert_ne!(failures, 1),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_registry_that_keeps_losing_uploads_is_given_up() {
    let blob = tar("f", 100_000);
    let patches = Arc::new(Mutex::new(0));
    let seen = patches.clone();
    let registry = Server::start(move |request| {
        let next = |status| Reply::new(status, "").header("Location", "uploads/1");
        match request.method.as_str() {
            "POST" => next(202),
            "PATCH" => {
                *seen.lock().unwrap() += 1;
                next(202)
            }
            "PUT" => Reply::new(503, "").header("Retry-After", "0"),
            "GET" => next(204).header("Range", "0-0"),
            _ => Reply::new(404, ""),
        }
    });
    let mut options = options();
    (options.upload_chunk, options.retries) = (40_000, 3);
    let repository = Repository::new(&registry.host(), "app", &options).unwrap();
    match push(&repository, &blob) {
        Err(Error::Http { status: 503, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert!(*patches.lock().unwrap() <= 4 * 3);
}

#[test]
fn lists_are_read_page_by_page_and_an_endless_one_ends() {
    let registry = Server::start(|request| match request.path.as_str() {
        "/v2/app/tags/list?n=1000" => Reply::new(200, r#"{"tags":["a"]}"#)
            .header("Link", "</v2/app/tags/list?last=a>; rel=\"next\""),
        "/v2/app/tags/list?last=a" => Reply::new(200, r#"{"tags":["b"]}"#),
        "/v2/none/tags/list?n=1000" => Reply::new(200, r#"{"tags":null}"#),
        "/v2/same/tags/list?n=1000" => {
            Reply::new(200, r#"{"tags":["a"]}"#).header("Link", "<?n=1000>; rel=next")
        }
        "/v2/bad/tags/list?n=1000" => Reply::new(200, "<html>"),
        _ => Reply::new(404, ""),
    });
    let tags = |name: &str| {
        Repository::new(&registry.host(), name, &options())
            .unwrap()
            .tags()
    };
    assert_eq!(tags("app").unwrap(), ["a", "b"]);
    assert_eq!(tags("none").unwrap(), Vec::<String>::new());
    assert_eq!(tags("same").unwrap(), ["a"]);
    assert!(matches!(tags("bad"), Err(Error::Protocol { .. })));
    assert!(matches!(tags("lost"), Err(Error::NotFound { .. })));
}

#[test]
fn referrers_are_listed_by_the_registry_or_by_tag() {
    let digest = Digest::sha256(b"subject");
    let entry = |kind: &str| json!({"mediaType": MANIFEST, "digest": Digest::sha256(kind.as_bytes()).as_str(), "size": 7, "artifactType": kind});
    let index = json!({"schemaVersion": 2, "manifests": [entry("a/b"), entry("c/d")]}).to_string();
    let registry = Server::start(move |request| {
        let listed = request.path.starts_with("/v2/lists/referrers/");
        let tagged = request.path.starts_with("/v2/tags/manifests/sha256-");
        match listed || tagged {
            true => Reply::new(200, index.clone()),
            false => Reply::new(404, ""),
        }
    });
    for (name, expected) in [("lists", 2), ("tags", 2), ("none", 0)] {
        let repository = Repository::new(&registry.host(), name, &options()).unwrap();
        let all = repository.referrers(&digest, None).unwrap();
        assert_eq!(all.len(), expected, "{name}");
        let some = repository.referrers(&digest, Some("c/d")).unwrap();
        assert_eq!(some.len(), expected / 2, "{name}");
        assert!(
            some.iter()
                .all(|referrer| referrer.artifact_type() == Some("c/d") && referrer.size() == 7)
        );
    }
}

#[test]
fn a_server_that_ignores_ranges_still_gives_the_right_part() {
    let registry = Server::start(|_| Reply::new(200, "0123456789"));
    let repository = Repository::new(&registry.host(), "app", &options()).unwrap();
    let digest = Digest::sha256(b"0123456789");
    assert_eq!(fetch(repository.blob_range(&digest, 3..6)).unwrap(), b"345");
    assert_eq!(fetch(repository.blob(&digest, 10)).unwrap(), b"0123456789");
}

#[test]
fn names_that_are_neither_tags_nor_digests_are_refused_before_anything_is_sent() {
    let registry = Server::start(|_| Reply::new(200, ""));
    let repository = Repository::new(&registry.host(), "app", &options()).unwrap();
    for name in ["", "../x", "a/b", "a?b", "sha256:x"] {
        assert!(
            matches!(
                repository.manifest(name),
                Err(Error::InvalidReference { .. })
            ),
            "{name}"
        );
    }
    for (host, name) in [("user:pw@h", "a"), ("h", "../a"), ("h", "A"), ("h/x", "a")] {
        assert!(
            Repository::new(host, name, &options()).is_err(),
            "{host}/{name}"
        );
    }
    assert!(registry.requests().is_empty());
}
