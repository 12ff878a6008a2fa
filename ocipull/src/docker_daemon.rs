//! Images of a running Docker daemon, or of podman's service, exported through `/images/NAME/get`
//! of its API as by `docker save`.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};

use crate::error::Cause;
use crate::spool::Spool;
use crate::{ConnectHint, Error, Options};

/// The socket of Docker's daemon.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// How long the daemon may be silent: it collects an image before it sends the first byte.
const SILENCE: Duration = Duration::from_secs(600);

/// The longest error message that is read.
const MAX_MESSAGE: u64 = 64 << 10;

/// Bytes that are read at once.
const BUFFER: usize = 128 << 10;

/// Exports the image `name` into a temporary file.
pub(crate) fn export(name: &str, options: &Options) -> Result<File, Error> {
    let limit = options.max_layer_bytes;
    let socket = socket(std::env::var("DOCKER_HOST").ok())?;
    let host = format!("unix://{}", socket.display());
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .timeout_per_read(Some(SILENCE))
        .timeout_per_write(Some(SILENCE))
        .build();
    let agent = ureq::Agent::with_parts(config, Socket(socket), DefaultResolver::default());
    // The socket decides the destination. This address only makes the request valid.
    let url = format!("http://127.0.0.1/images/{name}/get");
    let mut response = agent.get(&url).call().map_err(|error| Error::Connect {
        proxy: None,
        host: host.clone(),
        hint: ConnectHint::None,
        certificate_folder: None,
        source: Cause::new(error.into_io()),
    })?;
    let status = response.status().as_u16();
    let mut body = response.body_mut().as_reader();
    if status != 200 {
        let mut text = Vec::new();
        // A truncated message is still useful.
        let _ = body.take(MAX_MESSAGE).read_to_end(&mut text);
        let message = message(&text);
        return Err(match status {
            404 => Error::NotFound {
                host,
                name: name.to_owned(),
                message,
            },
            _ => Error::Http {
                url,
                status,
                message,
            },
        });
    }
    let mut spool = Spool::new(format!("docker-daemon:{name}"), options)?;
    let mut offset = 0_u64;
    let mut buffer = vec![0; BUFFER];
    loop {
        let bytes = match body.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            other => other.map_err(|error| Error::Interrupted {
                url: url.clone(),
                offset,
                source: Cause::new(error),
            })?,
        };
        if bytes == 0 {
            return Ok(spool.into_file());
        }
        offset = offset.saturating_add(bytes as u64);
        if offset > limit {
            return Err(Error::InvalidSource {
                path: host.into(),
                problem: crate::SourceProblem::TooLong { limit },
            });
        }
        spool.write(&buffer[..bytes])?;
    }
}

/// The socket that `DOCKER_HOST` names.
fn socket(host: Option<String>) -> Result<PathBuf, Error> {
    match host.filter(|host| !host.is_empty()) {
        None => Ok(DEFAULT_SOCKET.into()),
        Some(host) => match host.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => Ok(path.into()),
            _ => Err(Error::DockerHost { host }),
        },
    }
}

/// Connects to a socket of this host and ignores the address.
#[derive(Debug)]
struct Socket(PathBuf);

impl Connector for Socket {
    type Out = Connected;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<Connected>, ureq::Error> {
        let config = details.config;
        Ok(Some(Connected {
            stream: UnixStream::connect(&self.0)?,
            buffers: LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size()),
        }))
    }
}

struct Connected {
    stream: UnixStream,
    buffers: LazyBuffers,
}

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.stream.fmt(f)
    }
}

impl Transport for Connected {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let timeout = timeout.for_write().not_zero().map(|timeout| *timeout);
        self.stream.set_write_timeout(timeout)?;
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let timeout = timeout.for_read().not_zero().map(|timeout| *timeout);
        self.stream.set_read_timeout(timeout)?;
        let bytes = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(bytes);
        Ok(bytes > 0)
    }

    fn is_open(&mut self) -> bool {
        // The connection is used for one request only.
        false
    }
}

/// The daemon's message for an error.
fn message(body: &[u8]) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = json.as_ref().and_then(|json| json["message"].as_str());
    match message {
        Some(message) => message.to_owned(),
        None => String::from_utf8_lossy(body)
            .trim()
            .chars()
            .take(200)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_of_this_host_are_asked() {
        let path = |host: &str| socket(Some(host.to_owned()));
        assert_eq!(socket(None).unwrap(), PathBuf::from(DEFAULT_SOCKET));
        assert_eq!(path("").unwrap(), PathBuf::from(DEFAULT_SOCKET));
        assert_eq!(path("unix:///a/b").unwrap(), PathBuf::from("/a/b"));
        for host in [
            "tcp://127.0.0.1:2375",
            "ssh://host",
            "unix://",
            "unix://a",
            "/a",
        ] {
            assert!(
                matches!(path(host), Err(Error::DockerHost { .. })),
                "{host}"
            );
        }
    }
}
