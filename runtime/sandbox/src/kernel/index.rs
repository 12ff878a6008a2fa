//! Downloads the package from a Python index, for hosts without pip.
//!
//! An index lists a package's files with their digests in a page of HTML (the "simple repository
//! API"). The page is not trusted: only files whose digest was known before are used, and their
//! bytes are verified.

use std::fs::File;

use blockbox_convert::path;
use blockbox_vmm::Arch;
use ocipull::Digest;

use super::archive::MAX_FILE;
use super::digest::verify;
use super::error::{Error, Result};
use super::wheel::PACKAGE;

/// The index, unless pip's own variable names another.
const INDEX: &str = "https://pypi.org/simple";

/// pip's variable for the index.
const VARIABLE: &str = "PIP_INDEX_URL";

/// The largest page, in bytes.
const MAX_PAGE: u64 = 16 << 20;

/// Returns the address of the index that this user's pip would use.
pub(super) fn address() -> String {
    match std::env::var(VARIABLE) {
        Ok(address) if !address.is_empty() => address,
        _ => INDEX.to_owned(),
    }
}

/// Downloads the package's file for `arch`, with one of the digests `known`, to `wheel`.
pub(super) fn download(
    index: &str,
    known: &[Digest],
    arch: Arch,
    wheel: &mut File,
    options: &ocipull::Options,
) -> Result<()> {
    let name = PACKAGE.name.split(' ').next().unwrap_or_default();
    let address = format!("{}/{name}/", index.trim_end_matches('/'));
    let mut page = Vec::new();
    // The bytes of the page are not part of the reported download.
    let mut quiet = options.clone();
    quiet.progress = None;
    ocipull::download(&address, &mut page, MAX_PAGE, &quiet)?;
    let page = String::from_utf8_lossy(&page);
    let listed = known
        .iter()
        .find_map(|digest| Some((link_to(&page, digest, arch)?, digest)));
    let Some((link, expected)) = listed else {
        return Err(Error::NotListed { arch, address });
    };
    let file = resolve(&address, link);
    let actual = ocipull::download(&file, wheel, MAX_FILE, options)?;
    verify(expected, actual, &file)
}

/// Returns the digests in pip's `requirements`.
pub(super) fn known(requirements: &str) -> Vec<Digest> {
    let hashes = requirements
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("--hash="));
    hashes.filter_map(|hash| hash.parse().ok()).collect()
}

/// Returns the link in `page` to a file for `arch` with this digest.
fn link_to<'a>(page: &'a str, digest: &Digest, arch: Arch) -> Option<&'a str> {
    let mark = format!("#sha256={}", digest.hex());
    let platform = format!("_{arch}.whl");
    page.match_indices(&mark).find_map(|(end, _)| {
        let before = page.get(..end)?;
        let start = before.rfind(['"', '\''])?;
        let link = before.get(start + 1..)?;
        link.ends_with(&platform).then_some(link)
    })
}

/// Resolves `link` on the page at `base`, which ends with a slash.
fn resolve(base: &str, link: &str) -> String {
    if link.contains("://") {
        return link.to_owned();
    }
    let (scheme, rest) = base.split_once("://").unwrap_or(("https", base));
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if let Some(other) = link.strip_prefix("//") {
        return format!("{scheme}://{other}");
    }
    format!("{scheme}://{host}{}", path::join(path, link))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::io::{Read, Seek, Write};
    use std::net::TcpListener;

    use super::*;

    /// Serves `page` at `/simple/microsandbox/`, and `file` below `/files`.
    fn serve(page: String, file: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 4096];
                let read = stream.read(&mut request).unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..read]).into_owned();
                let (status, body) = match request.split(' ').nth(1) {
                    Some("/simple/microsandbox/") => ("200 OK", page.as_bytes()),
                    Some(path) if path.starts_with("/files/") => ("200 OK", file),
                    _ => ("404 Not Found", &b""[..]),
                };
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
                );
                let _ = stream.write_all(head.as_bytes());
                let _ = stream.write_all(body);
            }
        });
        format!("http://{address}/simple")
    }

    fn fetched(index: &str, known: &[Digest]) -> Result<Vec<u8>> {
        let mut wheel = tempfile::tempfile().unwrap();
        download(
            index,
            known,
            Arch::HOST,
            &mut wheel,
            &ocipull::Options::default(),
        )?;
        wheel.rewind().unwrap();
        let mut bytes = Vec::new();
        wheel.read_to_end(&mut bytes).unwrap();
        Ok(bytes)
    }

    fn link(file: &str, digest: &Digest) -> String {
        format!("<a href=\"{file}#sha256={}\">x</a>\n", digest.hex())
    }

    #[test]
    fn a_file_with_a_known_digest_is_fetched_for_this_kind_of_host() {
        let ours = format!("x-0-py3-none-manylinux_2_28_{}.whl", std::env::consts::ARCH);
        let (wheel, other) = (Digest::sha256(b"wheel"), Digest::sha256(b"other"));
        for prefix in ["../../files/", "/files/"] {
            let page = [
                link("/files/x-0-py3-none-any.whl", &wheel),
                link(&format!("/nowhere/{ours}"), &Digest::sha256(b"older")),
                link(&format!("{prefix}{ours}"), &wheel),
            ];
            let index = serve(page.concat(), b"wheel");
            let known = [other.clone(), wheel.clone()];
            assert_eq!(fetched(&index, &known).unwrap(), b"wheel");
            // Other files of the index are not used.
            let error = fetched(&index, std::slice::from_ref(&other)).unwrap_err();
            assert!(matches!(error, Error::NotListed { .. }), "{error}");
        }
    }

    #[test]
    fn a_file_with_another_digest_than_the_index_lists_is_rejected() {
        let wheel = Digest::sha256(b"wheel");
        let file = format!("/files/x_{}.whl", std::env::consts::ARCH);
        let index = serve(link(&file, &wheel), b"something else");
        let error = fetched(&index, &[wheel]).unwrap_err();
        assert!(matches!(error, Error::Digest { .. }), "{error}");
    }

    #[test]
    fn links_are_resolved_as_a_browser_does() {
        let base = "https://host:8080/root/simple/p/";
        for (link, expected) in [
            ("https://files.example/a", "https://files.example/a"),
            ("//files.example/a", "https://files.example/a"),
            ("/a/b", "https://host:8080/a/b"),
            ("a", "https://host:8080/root/simple/p/a"),
            ("../../files/a", "https://host:8080/root/files/a"),
            ("../../../../../a", "https://host:8080/a"),
        ] {
            assert_eq!(resolve(base, link), expected);
        }
    }
}
