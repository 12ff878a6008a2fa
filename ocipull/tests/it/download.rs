//! Files by their addresses.

use ocipull::{Digest, Error, Options, download};

use crate::server::{Identity, Reply, Request, Server};

const LIMIT: u64 = 1 << 20;

fn get(url: &str, options: &Options) -> Result<(Vec<u8>, Digest), Error> {
    let mut bytes = Vec::new();
    let digest = download(url, &mut bytes, LIMIT, options)?;
    Ok((bytes, digest))
}

fn body() -> Vec<u8> {
    (0..200_000_u32).flat_map(u32::to_le_bytes).collect()
}

#[test]
fn a_download_goes_on_where_it_broke_off_and_follows_redirects() {
    for ranges in [true, false] {
        let server = Server::start(move |request| match request.path.as_str() {
            "/old" => Reply::new(302, "").header("Location", "/new?signed=x"),
            _ if request.count == 0 => Reply::new(200, body()).cut(300_000),
            _ if ranges => Reply::ranged(request, &body()),
            _ => Reply::new(200, body()),
        });
        let url = format!("http://{}/old", server.host());
        let (bytes, digest) = get(&url, &Options::default()).unwrap();
        assert!(bytes == body(), "ranges: {ranges}");
        assert_eq!(digest, Digest::sha256(&body()));
        let asked = server.requests();
        assert!(asked.iter().all(|request| request.authorization.is_none()));
    }
}

#[test]
fn a_file_over_the_limit_is_refused() {
    let server = Server::start(|_| Reply::new(200, vec![0; (LIMIT + 1) as usize]));
    let url = format!("http://{}/", server.host());
    let refused = get(&url, &Options::default());
    assert!(matches!(refused, Err(Error::TooLarge { limit: LIMIT, .. })));
}

#[test]
fn a_download_over_tls_is_not_redirected_to_plain_http() {
    let Some(identity) = Identity::new() else {
        return;
    };
    let plain = Server::start(|_| Reply::new(200, "changed"));
    let elsewhere = format!("http://{}/", plain.host());
    let server = Server::start_tls(&identity, move |_| {
        Reply::new(307, "").header("Location", elsewhere.as_str())
    });
    let mut options = Options::default();
    options.certificates = vec![identity.file("ca.crt")];
    let refused = get(&format!("https://{}/", server.host()), &options);
    assert!(
        matches!(refused, Err(Error::Redirect { .. })),
        "{refused:?}"
    );
    assert!(plain.requests().is_empty());
}

#[test]
fn bad_and_missing_addresses_are_reported_without_secrets() {
    for address in [
        "ftp://x/",
        "file:///etc/passwd",
        "https://me:secret@x/",
        "x",
    ] {
        let error = get(address, &Options::default()).unwrap_err();
        assert!(matches!(error, Error::Address { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("secret"));
    }
    let server = Server::start(|_| Reply::new(404, "<html>"));
    let missing = get(&format!("http://{}/", server.host()), &Options::default());
    assert!(matches!(missing, Err(Error::Http { status: 404, .. })));
}

#[test]
fn a_resumed_download_continues_the_same_file() {
    let answers: [fn(&Request, Reply) -> Reply; 4] = [
        // Another file, of a server with and without ranges.
        |_, reply| reply.header("ETag", "\"b\""),
        |_, _| Reply::new(200, vec![7; 800_000]).header("ETag", "\"b\""),
        // Another part of it.
        |request, mut reply| {
            reply.headers.clear();
            let first = request.range.unwrap_or_default() + 1;
            reply.header("Content-Range", format!("bytes {first}-799999/800000"))
        },
        // There should be more.
        |_, _| Reply::new(416, "").header("Content-Range", "bytes */400000"),
    ];
    for answer in answers {
        let server = Server::start(move |request| match request.count {
            0 => Reply::new(200, body()).header("ETag", "\"a\"").cut(300_000),
            _ => answer(request, Reply::ranged(request, &body())),
        });
        let mut options = Options::default();
        options.retries = 1;
        let refused = get(&format!("http://{}/", server.host()), &options);
        let refused = refused.map(|(bytes, _)| bytes.len());
        assert!(
            matches!(
                refused,
                Err(Error::Protocol { .. }
                    | Error::Interrupted { .. }
                    | Error::Http { status: 416, .. })
            ),
            "{refused:?}"
        );
        let requests = server.requests();
        let condition = requests[1]
            .headers
            .iter()
            .find(|(name, _)| name == "if-range");
        assert_eq!(condition.expect("one").1, "\"a\"");
    }
}

#[test]
fn a_server_that_gives_a_byte_at_a_time_is_given_up() {
    let server = Server::start(|request| Reply::ranged(request, &body()).cut(1));
    let mut options = Options::default();
    options.retries = 2;
    let given_up = get(&format!("http://{}/", server.host()), &options);
    assert!(matches!(
        given_up,
        Err(Error::Interrupted { offset: 3, .. })
    ));
    assert_eq!(server.requests().len(), 3);
}
