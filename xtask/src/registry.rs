//! A registry on loopback for tests and benchmarks.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

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
    child: Child,
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
        // The registry is killed when this process ends for any reason.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "TERM", "docker-registry", "serve"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(storage.join("log"))?);
        let child = command.spawn().with_context(|| shell::line(&command))?;
        let mut registry = Self { child, port };
        registry.wait(storage)?;
        Ok(registry)
    }

    fn wait(&mut self, storage: &Path) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            if let Some(status) = self.child.try_wait()? {
                let log = fs::read_to_string(storage.join("log")).unwrap_or_default();
                bail!("docker-registry: {status}\n{log}");
            }
            if Instant::now() > deadline {
                bail!("docker-registry does not answer on port {}", self.port);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
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

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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
