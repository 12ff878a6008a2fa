//! Certificates that an option names.

use std::io::Read as _;
use std::path::PathBuf;

use crate::{Cause, Error};

/// The most of a file of certificates that is read, in bytes.
const MAX_CERTIFICATES: u64 = 16 << 20;

/// Certificates to trust beside the host's, for the two clients.
#[derive(Default)]
pub(super) struct Trusted {
    pub(super) http: Vec<reqwest::Certificate>,
    pub(super) login: Vec<oci_client::client::Certificate>,
}

impl Trusted {
    pub(super) fn read(files: &[PathBuf]) -> Result<Self, Error> {
        let mut trusted = Self::default();
        for path in files {
            let io = |source| Error::Io {
                path: path.clone(),
                source,
            };
            let invalid = |source: Cause| Error::Certificates {
                path: path.clone(),
                source,
            };
            let mut data = Vec::new();
            let file = std::fs::File::open(path).map_err(io)?;
            file.take(MAX_CERTIFICATES)
                .read_to_end(&mut data)
                .map_err(io)?;
            let parsed = reqwest::Certificate::from_pem_bundle(&data)
                .map_err(|error| invalid(Cause::new(error)))?;
            if parsed.is_empty() {
                return Err(invalid(Cause::new("not one in PEM form")));
            }
            trusted.http.extend(parsed);
            let encoding = oci_client::client::CertificateEncoding::Pem;
            trusted
                .login
                .push(oci_client::client::Certificate { encoding, data });
        }
        Ok(trusted)
    }
}
