//! A separate containerd, which shares nothing with one of the machine.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::shell;

/// How long it may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running containerd, which ends when this is dropped.
pub(crate) struct Daemon {
    child: Child,
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
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "TERM"])
            .args(prefix)
            .args(["containerd", "--config"])
            .arg(&config)
            .env("PATH", &path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("log"))?);
        let child = command.spawn().with_context(|| shell::line(&command))?;
        let mut daemon = Self {
            child,
            folder: folder.to_owned(),
            path,
        };
        daemon.wait()?;
        Ok(daemon)
    }

    fn wait(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            let answers = self.ctr(&["version"]).output()?.status.success();
            if answers {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("containerd: {status}\n{}", self.log());
            }
            if start.elapsed() > PATIENCE {
                bail!("containerd does not answer\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Returns its log without the usual lines.
    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let told = |line: &&str| !line.contains("level=info");
        log.lines().filter(told).collect::<Vec<_>>().join("\n")
    }

    /// Returns the path of its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("state/containerd.sock")
    }

    /// Returns the path of a program of its package.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        let mut folders = std::env::split_paths(&self.path);
        let found = folders.find_map(|folder| Some(folder.join(name)).filter(|path| path.exists()));
        found.unwrap_or_else(|| name.into())
    }

    /// Returns a command of its client.
    pub(crate) fn ctr(&self, args: &[&str]) -> Command {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address")
            .arg(self.socket())
            .args(args)
            .env("PATH", &self.path)
            .stdin(Stdio::null());
        ctr
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

impl Drop for Daemon {
    fn drop(&mut self) {
        let id = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
