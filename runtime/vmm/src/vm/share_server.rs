//! A process that serves a share to QEMU.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use crate::device::Share;
use crate::helper::{self, Launch};
use crate::process::Process;
use crate::{VmmError, qemu};

/// The process that serves a share, killed when dropped.
#[derive(Debug)]
pub(super) struct Server(Arc<Process>);

impl Server {
    /// Starts a server through `helper`, with `log` as its output. Also returns the socket of its
    /// client.
    pub(super) fn start(
        share: &Share,
        helper: &Path,
        log: &io::PipeWriter,
    ) -> Result<(Self, UnixStream), VmmError> {
        let server = qemu::share::plan(share)?;
        let what = "cannot make a socket for a share";
        let folder = tempfile::tempdir().map_err(VmmError::io(what))?;
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).map_err(VmmError::io(what))?;
        let socket = UnixStream::connect(&path).map_err(VmmError::io(what))?;
        drop(folder);
        let output = || {
            log.try_clone()
                .map_err(VmmError::io("cannot duplicate a pipe"))
        };
        let mut command = helper::command(helper);
        command
            .args(helper::arguments(&Launch::Share(server))?)
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(output()?)
            .stderr(output()?);
        let io = VmmError::io(format!("cannot start {}", helper.display()));
        Ok((Self(Process::spawn(command).map_err(io)?), socket))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill();
    }
}
