//! A separate containerd, which shares nothing with one of the machine.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::service::Service;
use crate::shell;

/// The socket's path in its folder.
const SOCKET: &str = "state/containerd.sock";

/// A running containerd, which ends when this is dropped.
pub(crate) struct Daemon {
    service: Service,
    folder: PathBuf,
    path: OsString,
}

impl Daemon {
    /// Starts containerd with all its files in `folder`, which is emptied. Its programs, and
    /// mkfs.erofs, are in the folders `programs`.
    pub(crate) fn start(folder: &Path, programs: &[PathBuf]) -> Result<Self> {
        Self::start_with(&[], folder, programs)
    }

    /// The same in a separate mount namespace.
    pub(crate) fn isolated(folder: &Path, programs: &[PathBuf]) -> Result<Self> {
        Self::start_with(&["unshare", "--mount"], folder, programs)
    }

    fn start_with(prefix: &[&str], folder: &Path, programs: &[PathBuf]) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        let config = folder.join("config.toml");
        fs::write(&config, configuration(folder))?;
        let system = std::env::var_os("PATH").unwrap_or_default();
        let all = programs
            .iter()
            .cloned()
            .chain(std::env::split_paths(&system));
        let path = std::env::join_paths(all)?;
        let mut words = prefix.iter().copied().chain(["containerd", "--config"]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).arg(&config).env("PATH", &path);
        let asked = || Ok(ctr(folder, &path, &["version"]).output()?.status.success());
        let service = Service::start(&command, &folder.join("log"), asked)?;
        Ok(Self {
            service,
            folder: folder.to_owned(),
            path,
        })
    }

    /// Returns its log without the usual lines.
    pub(crate) fn log(&self) -> String {
        self.service.log()
    }

    /// Returns the path of its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join(SOCKET)
    }

    /// Returns the path of a program of its package.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        let mut folders = std::env::split_paths(&self.path);
        let found = folders.find_map(|folder| Some(folder.join(name)).filter(|path| path.exists()));
        found.unwrap_or_else(|| name.into())
    }

    /// Returns a command of its client.
    pub(crate) fn ctr(&self, args: &[&str]) -> Command {
        ctr(&self.folder, &self.path, args)
    }

    /// Returns the output of its client.
    pub(crate) fn output(&self, args: &[&str]) -> Result<String> {
        shell::output(&mut self.ctr(args)).with_context(|| self.log())
    }

    /// Returns the EROFS images of its layers.
    pub(crate) fn layers(&self) -> Result<Vec<PathBuf>> {
        let snapshots = self
            .folder
            .join("root/io.containerd.snapshotter.v1.erofs/snapshots");
        let mut layers = Vec::new();
        for entry in fs::read_dir(&snapshots).with_context(|| snapshots.display().to_string())? {
            let layer = entry?.path().join("layer.erofs");
            layers.extend(layer.exists().then_some(layer));
        }
        layers.sort();
        Ok(layers)
    }
}

/// Returns a command of the client of the containerd whose files are in `folder`.
fn ctr(folder: &Path, path: &OsStr, args: &[&str]) -> Command {
    let mut ctr = Command::new("ctr");
    ctr.arg("--address")
        .arg(folder.join(SOCKET))
        .args(args)
        .env("PATH", path)
        .stdin(Stdio::null());
    ctr
}

/// Returns a configuration with EROFS images as layers, either converted or pulled.
fn configuration(folder: &Path) -> String {
    let folder = folder.display();
    let platform = match std::env::consts::ARCH {
        "aarch64" => "linux/arm64",
        _ => "linux/amd64",
    };
    format!(
        r#"version = 3
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]

[grpc]
address = "{folder}/state/containerd.sock"

[plugins."io.containerd.service.v1.diff-service"]
default = ["erofs", "walking"]

[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "{platform}"
snapshotter = "erofs"
differ = "erofs"
"#
    )
}
