//! Configuration of TLS: trusted certificates and client certificates of the host, the caller, and
//! docker's and podman's folders.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, TlsProvider};

use super::url::Origin;
use crate::{Cause, Error, Options};

/// The largest file of certificates that is read, in bytes.
const MAX_CERTIFICATES: u64 = 16 << 20;

/// Trusted certificates.
pub(super) struct Trust {
    /// Files of certificates to trust for every server.
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    /// The host's trusted certificates, read when first needed.
    host: OnceLock<Vec<Certificate<'static>>>,
}

impl Trust {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            files: options.certificates.clone(),
            folders: options.certificate_folders.clone(),
            host: OnceLock::new(),
        }
    }

    /// The folder in which a certificate would be trusted for `origin`: one that exists, or the
    /// first of those that would be looked into.
    pub(super) fn folder(&self, origin: &Origin) -> Option<PathBuf> {
        let existing = self.folders_of(origin).find(|folder| folder.is_dir());
        existing.or_else(|| self.folders_of(origin).next())
    }

    /// The folders for `origin`. Without a port in their name they are for port 443.
    fn folders_of(&self, origin: &Origin) -> impl Iterator<Item = PathBuf> + use<'_> {
        let names = match origin.host() == origin.host_and_port() {
            true => vec![origin.host()],
            false => vec![origin.host_and_port(), origin.host()],
        };
        self.folders
            .iter()
            .flat_map(move |folder| names.clone().into_iter().map(move |name| folder.join(name)))
    }

    /// The configuration for `origin`.
    pub(super) fn tls_config(&self, origin: &Origin, verify: bool) -> Result<TlsConfig, Error> {
        let provider = provider().ok_or_else(|| Error::NoTls {
            host: origin.host(),
        })?;
        let host = self.host.get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                tracing::debug!(%error, "some of the host's certificates cannot be read");
            }
            let der = found.certs.iter();
            der.map(|der| Certificate::from_der(der).to_owned())
                .collect()
        });
        let mut trusted = host.clone();
        for path in &self.files {
            trusted.extend(read_certificates(path)?);
        }
        let mut client = None;
        for folder in self.folders_of(origin) {
            for file in files_in(&folder)? {
                match file.extension().and_then(|extension| extension.to_str()) {
                    Some("crt") => trusted.extend(read_certificates(&file)?),
                    Some("cert") if client.is_none() => {
                        client = Some(read_identity(
                            &file,
                            &file.with_extension("key"),
                            &provider,
                        )?);
                    }
                    _ => {}
                }
            }
        }
        let config = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::Specific(Arc::new(trusted)))
            .client_cert(client)
            .disable_verification(!verify)
            .unversioned_rustls_crypto_provider(provider);
        Ok(config.build())
    }
}

/// The program's own provider of cryptography, or ours.
fn provider() -> Option<Arc<CryptoProvider>> {
    let own = CryptoProvider::get_default().cloned();
    #[cfg(feature = "ring")]
    let own = own.or_else(|| Some(Arc::new(rustls::crypto::ring::default_provider())));
    own
}

/// The files in a folder, sorted; none if there is no such folder.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let io = |source| Error::Io {
        path: folder.to_owned(),
        source,
    };
    let entries = match folder.read_dir() {
        Ok(entries) => entries,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound
                    | std::io::ErrorKind::NotADirectory
                    | std::io::ErrorKind::PermissionDenied
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(io(error)),
    };
    let paths: Result<Vec<_>, _> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect();
    let mut paths = paths.map_err(io)?;
    paths.retain(|path| path.is_file());
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let io = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let mut data = Vec::new();
    let file = blockbox_files::open_regular(path).map_err(io)?;
    file.take(MAX_CERTIFICATES)
        .read_to_end(&mut data)
        .map_err(io)?;
    Ok(data)
}

fn items(path: &Path) -> Result<Vec<PemItem<'static>>, Error> {
    let data = read(path)?;
    let items: Result<Vec<_>, _> = ureq::tls::parse_pem(&data).collect();
    items.map_err(|error| invalid(path, error))
}

fn invalid(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Certificates {
        path: path.to_owned(),
        source: Cause::new(source),
    }
}

/// The certificates in the file `path`, of which there is at least one.
fn read_certificates(path: &Path) -> Result<Vec<Certificate<'static>>, Error> {
    let items = items(path)?.into_iter();
    let certificates: Vec<_> = items
        .filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    match certificates.is_empty() {
        true => Err(invalid(path, "not one in PEM form")),
        false => Ok(certificates),
    }
}

/// A client certificate with its chain, and its key.
fn read_identity(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<ClientCert, Error> {
    let chain = read_certificates(certificate)?;
    let private = items(key)?.into_iter().find_map(|item| match item {
        PemItem::PrivateKey(key) => Some(key),
        _ => None,
    });
    let private: PrivateKey<'static> = private.ok_or_else(|| invalid(key, "no key in PEM form"))?;
    // Checked here, because the TLS client assumes that they belong together.
    let der = chain.iter().map(|c| c.der().to_vec().into()).collect();
    let key_der = private.der().to_vec();
    let key_der = rustls_pki_types::PrivateKeyDer::try_from(key_der);
    let checked = key_der.map_err(str::to_owned).and_then(|der_key| {
        rustls::sign::CertifiedKey::from_der(der, der_key, provider).map_err(|e| e.to_string())
    });
    match checked {
        Ok(_) => Ok(ClientCert::new_with_certs(&chain, private)),
        Err(problem) => Err(invalid(key, problem)),
    }
}
