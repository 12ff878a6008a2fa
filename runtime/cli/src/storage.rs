//! Mounts and secrets of `run` and `create`.

use std::io::{IsTerminal, Read};
use std::path::Path;

use anyhow::{Context, bail};
use blockbox::Builder;
use blockbox::spec::{Mount, MountError, Secret, SecretSource};
use clap::Args;

/// Mounts besides the image.
#[derive(Debug, Args)]
pub(super) struct Mounts {
    /// Mount a folder or file of the host, or a named volume, which is created if needed:
    /// HOST:GUEST[:ro]
    #[arg(short, long, value_parser = Mount::from_volume_option, value_name = "HOST|VOLUME:GUEST[:ro]")]
    volume: Vec<Mount>,
    /// Mount as docker's --mount does: type=bind|volume|image|tmpfs,src=...,dst=...[,ro]
    #[arg(long, value_parser = mount, value_name = "KEY=VALUE,...")]
    mount: Vec<Mount>,
}

fn mount(text: &str) -> Result<Mount, MountError> {
    Mount::from_mount_option(text)
}

impl Mounts {
    pub(super) fn add<'a>(&self, builder: Builder<'a>) -> Builder<'a> {
        let mounts = self.volume.iter().chain(&self.mount).cloned();
        mounts.fold(builder, Builder::mount)
    }
}

/// Files in `/run/secrets`.
#[derive(Debug, Args)]
pub(super) struct Secrets {
    /// Put a secret into /run/secrets/NAME, in the guest's memory only: from a file, from standard
    /// input (`-`), or without a file from the variable NAME. It is read again at every start
    #[arg(long, value_name = "NAME[=FILE]")]
    secret: Vec<String>,
}

impl Secrets {
    /// Returns the secrets, with the values that only this process can read.
    pub(super) fn read(&self) -> anyhow::Result<Vec<(Secret, Option<Vec<u8>>)>> {
        let mut found = Vec::new();
        let mut input = false;
        for text in &self.secret {
            let (name, file) = match text.split_once('=') {
                Some((name, file)) => (name, Some(file)),
                None => (&**text, None),
            };
            found.push(match file {
                None => {
                    let variable = name.to_owned();
                    let source = SecretSource::Environment { variable };
                    (Secret::new(name, source), None)
                }
                Some("-") => {
                    if input || std::io::stdin().is_terminal() {
                        bail!("secret {name:?}: standard input is a terminal, or another secret's");
                    }
                    input = true;
                    let mut value = Vec::new();
                    let read = std::io::stdin().take(1 << 20).read_to_end(&mut value);
                    read.with_context(|| format!("secret {name:?}"))?;
                    (Secret::new(name, SecretSource::Given), Some(value))
                }
                Some("") => bail!("secret {name:?}: there is no file's name after `=`"),
                Some(file) => {
                    let source = SecretSource::file(Path::new(file))?;
                    (Secret::new(name, source), None)
                }
            });
        }
        Ok(found)
    }

    pub(super) fn add<'a>(&self, mut builder: Builder<'a>) -> anyhow::Result<Builder<'a>> {
        for (secret, value) in self.read()? {
            if let Some(value) = value {
                builder = builder.secret_value(&secret.name, value);
            }
            builder = builder.secret(secret);
        }
        Ok(builder)
    }
}
