//! Files by their addresses.

use ocipull::{Digest, Error, Options, download};

use crate::server::{Identity, Reply, Server};

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
