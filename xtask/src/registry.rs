//! A registry on loopback for tests and benchmarks.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::service::Service;
use crate::shell;

/// The port it listens on if that is free, so that image references stay the same.
const USUAL_PORT: u16 = 5055;

/// Makes an authority, and a certificate that it signs for a server on loopback.
const CERTIFICATES: &str = "\
openssl req -x509 -newkey rsa:2048 -nodes -keyout authority.key -out authority.pem -days 30 \
    -subj /CN=authority -addext basicConstraints=critical,CA:TRUE
openssl req -newkey rsa:2048 -nodes -keyout leaf.key -out request.pem -subj /CN=localhost
printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' >extensions
openssl x509 -req -in request.pem -CA authority.pem -CAkey authority.key -CAcreateserial -days 30 \
    -extfile extensions -out leaf.pem
";

/// Debian's docker-registry, which ends when this is dropped.
pub(crate) struct Registry {
    _service: Service,
    port: u16,
}

impl Registry {
    /// Starts a registry that stores blobs under `storage`, and waits until it answers.
    pub(crate) fn start(storage: &Path) -> Result<Self> {
        Self::launch(storage, "")
    }

    /// The same by HTTPS, as `localhost`: for clients that speak nothing else. Returns the
    /// certificate of the authority to trust, too.
    pub(crate) fn start_with_tls(storage: &Path) -> Result<(Self, PathBuf)> {
        fs::create_dir_all(storage)?;
        shell::output(
            Command::new("/bin/sh")
                .args(["-ec", CERTIFICATES])
                .current_dir(storage),
        )?;
        let path = |name| storage.join(name);
        let tls = format!(
            ", tls: {{certificate: {}, key: {}}}",
            path("leaf.pem").display(),
            path("leaf.key").display()
        );
        Ok((Self::launch(storage, &tls)?, path("authority.pem")))
    }

    fn launch(storage: &Path, tls: &str) -> Result<Self> {
        fs::create_dir_all(storage)?;
        let port = free_port()?;
        let config = storage.join("config.yml");
        fs::write(
            &config,
            format!(
                "version: 0.1\n\
                 log: {{level: warn, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
                 http: {{addr: \"127.0.0.1:{port}\"{tls}}}\n",
                storage.join("data").display()
            ),
        )?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config);
        let answers = || Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        Ok(Self {
            _service: Service::start(&command, &storage.join("log"), answers)?,
            port,
        })
    }

    /// Returns the port that it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns `HOST:PORT`, as in image references.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

fn free_port() -> Result<u16> {
    for port in [USUAL_PORT, 0] {
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return Ok(listener.local_addr()?.port());
        }
    }
    bail!("no free port on 127.0.0.1")
}
