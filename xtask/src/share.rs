//! Shares a folder of the host with a machine through virtio-fs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::shell;

/// Returns QEMU's own virtiofsd, or the separate one for later versions.
pub(crate) fn virtiofsd() -> Option<PathBuf> {
    ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
        .or_else(|| shell::program("virtiofsd"))
}

/// A folder of the host that one machine may mount.
pub(crate) struct Share {
    server: Child,
    socket: PathBuf,
}

impl Share {
    /// Starts the server with more `options`, separated by commas. Its files have `name` as their
    /// prefix.
    pub(crate) fn start(folder: &Path, name: &Path, options: &str) -> Result<Self> {
        let socket = name.with_extension("socket");
        let _ = fs::remove_file(&socket);
        let log = fs::File::create(name.with_extension("log"))?;
        let mut server = Command::new(virtiofsd().context("no virtiofsd")?);
        server
            .arg(format!("--socket-path={}", socket.display()))
            .args(["-o", &format!("source={}", folder.display())])
            .args(["-o", options])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let server = server.spawn().with_context(|| shell::line(&server))?;
        let share = Self { server, socket };
        for _ in 0..100 {
            if share.socket.exists() {
                return Ok(share);
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("virtiofsd does not start")
    }

    /// Adds the share with the tag `share` to a machine with this many MiB of memory, as QEMU's
    /// `device`. The server maps the memory, and supports only virtio 1.0 devices.
    pub(crate) fn attach(&self, qemu: &mut Command, memory: u32, device: &str) {
        qemu.args(["-object"])
            .arg(format!(
                "memory-backend-memfd,id=memory,size={memory}M,share=on"
            ))
            .args(["-machine", "memory-backend=memory"])
            .args(["-global", "virtio-mmio.force-legacy=false", "-chardev"])
            .arg(format!("socket,id=share,path={}", self.socket.display()))
            .args(["-device", &format!("{device},chardev=share,tag=share")]);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
