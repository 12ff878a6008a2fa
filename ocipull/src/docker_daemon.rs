//! Images of a running Docker daemon, or of podman's service, through its API's `/images/NAME/get`:
//! what `docker save` writes.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::Cause;
use crate::spool::Spool;
use crate::{ConnectHint, Error};

/// The socket of Docker's daemon.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// How long the daemon may be silent: it collects an image before it sends the first byte.
const SILENCE: Duration = Duration::from_secs(600);

const CONNECT: Duration = Duration::from_secs(10);

/// The longest error message that is read.
const MAX_MESSAGE: usize = 64 << 10;

/// Exports the image `name` into a temporary file of at most `limit` bytes.
///
/// Blocks, also in a thread of an asynchronous runtime: the request has a thread and a runtime of
/// its own.
pub(crate) fn export(name: &str, limit: u64) -> Result<File, Error> {
    let socket = socket(std::env::var("DOCKER_HOST").ok())?;
    let export = Export {
        url: format!("http://localhost/images/{name}/get"),
        name: name.to_owned(),
        socket,
        limit,
    };
    let thread = std::thread::Builder::new().name("ocipull-docker".to_owned());
    let thread = thread.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => runtime.block_on(export.run()),
            Err(source) => Err(Error::Thread { source }),
        }
    });
    let thread = thread.map_err(|source| Error::Thread { source })?;
    thread.join().map_err(|_| Error::Thread {
        source: std::io::Error::other("it ended unexpectedly"),
    })?
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

struct Export {
    url: String,
    name: String,
    socket: PathBuf,
    limit: u64,
}

impl Export {
    async fn run(self) -> Result<File, Error> {
        let host = format!("unix://{}", self.socket.display());
        let connect = |error: reqwest::Error| Error::Connect {
            host: host.clone(),
            hint: ConnectHint::None,
            source: Cause::new(error),
        };
        let client = reqwest::Client::builder()
            .unix_socket(self.socket.clone())
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .build()
            .map_err(connect)?;
        let mut response = client.get(&self.url).send().await.map_err(connect)?;
        let status = response.status().as_u16();
        if status != 200 {
            let message = message(&mut response).await;
            return Err(match status {
                404 => Error::NotFound {
                    host: host.clone(),
                    name: self.name,
                    message,
                },
                _ => Error::Http {
                    url: self.url,
                    status,
                    message,
                },
            });
        }
        let mut spool = Spool::new()?;
        let mut offset = 0_u64;
        loop {
            let chunk = response.chunk().await.map_err(|error| Error::Interrupted {
                url: self.url.clone(),
                offset,
                source: Cause::new(error),
            })?;
            let Some(chunk) = chunk else {
                return Ok(spool.into_file());
            };
            offset = offset.saturating_add(chunk.len() as u64);
            if offset > self.limit {
                return Err(Error::InvalidSource {
                    path: host.into(),
                    problem: crate::SourceProblem::TooLong { limit: self.limit },
                });
            }
            spool.write(&chunk)?;
        }
    }
}

/// What the daemon says about an error.
async fn message(response: &mut reqwest::Response) -> String {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_MESSAGE {
            break;
        }
    }
    let json: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
    let message = json.as_ref().and_then(|json| json["message"].as_str());
    match message {
        Some(message) => message.to_owned(),
        None => String::from_utf8_lossy(&body)
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
