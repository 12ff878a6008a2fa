//! A command's streams: pipes, or a terminal.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;

use blockbox_protocol::{ExecSpec, WindowSize};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::Uid;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::spawn::SpawnFailure;

/// Both ends of a command's streams.
pub(crate) struct Ends {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: Option<OwnedFd>,
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) child: ChildEnds,
}

pub(crate) struct ChildEnds {
    pub(crate) stdin: Stdio,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    /// The descriptors that the user must be able to reopen through `/dev/stdin`, `/dev/stdout` and
    /// `/dev/stderr`.
    owned: Vec<OwnedFd>,
}

impl Ends {
    pub(crate) fn open(spec: &ExecSpec) -> Result<Self, SpawnFailure> {
        let opened = match spec.tty {
            Some(size) => Self::terminal(size),
            None => Self::pipes(spec.stdin),
        };
        opened.map_err(SpawnFailure::system("opening the command's streams"))
    }

    fn pipes(with_stdin: bool) -> Result<Self, Errno> {
        let (stdout, child_stdout) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, child_stderr) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let mut owned = vec![child_stdout.try_clone(), child_stderr.try_clone()];
        let (stdin, child_stdin) = if with_stdin {
            let (child_stdin, stdin) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            owned.push(child_stdin.try_clone());
            set_nonblocking(&stdin)?;
            (Some(stdin), child_stdin.into())
        } else {
            (None, Stdio::null())
        };
        for end in [&stdout, &stderr] {
            set_nonblocking(end)?;
        }
        Ok(Ends {
            stdin,
            stdout,
            stderr: Some(stderr),
            terminal: None,
            child: ChildEnds {
                stdin: child_stdin,
                stdout: child_stdout,
                stderr: child_stderr,
                owned: collect(owned)?,
            },
        })
    }

    fn terminal(size: WindowSize) -> Result<Self, Errno> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags)?;
        rustix::pty::unlockpt(&master)?;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        resize(&master, size)?;
        set_nonblocking(&master)?;
        let copies = collect(vec![
            slave.try_clone(),
            slave.try_clone(),
            slave.try_clone(),
            slave.try_clone(),
        ])?;
        let [stdin, stdout, stderr, owned] =
            <[OwnedFd; 4]>::try_from(copies).map_err(|_| Errno::MFILE)?;
        Ok(Ends {
            stdin: Some(collect(vec![master.try_clone()])?.remove(0)),
            stdout: master,
            stderr: None,
            terminal: Some(slave),
            child: ChildEnds {
                stdin: stdin.into(),
                stdout,
                stderr,
                owned: vec![owned],
            },
        })
    }

    /// Makes the command's user the owner of its streams, as runc does.
    pub(crate) fn give_to(&mut self, uid: u32) -> Result<(), SpawnFailure> {
        for end in std::mem::take(&mut self.child.owned) {
            rustix::fs::fchown(end.as_fd(), Some(Uid::from_raw(uid)), None).map_err(
                SpawnFailure::system("giving the streams to the command's user"),
            )?;
        }
        Ok(())
    }
}

fn collect(fds: Vec<io::Result<OwnedFd>>) -> Result<Vec<OwnedFd>, Errno> {
    fds.into_iter()
        .collect::<io::Result<_>>()
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))
}

/// Makes reads and writes non-blocking.
pub(crate) fn set_nonblocking(fd: &OwnedFd) -> Result<(), Errno> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)
}

/// Sets a terminal's size.
pub(crate) fn resize(terminal: &OwnedFd, size: WindowSize) -> Result<(), Errno> {
    rustix::termios::tcsetwinsize(
        terminal,
        Winsize {
            ws_row: size.rows,
            ws_col: size.cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )
}
