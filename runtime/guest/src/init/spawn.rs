//! Starting a command, as docker would.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use blockbox_protocol::user::{self, Identity};
use blockbox_protocol::{ExecSpec, WindowSize};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Gid, Uid};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::boot::make_dir;
use super::sys;

/// The search path of a command whose environment has none, as docker's default.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The most that is read of `/etc/passwd` and `/etc/group`.
const ACCOUNTS_LIMIT: u64 = 16 * 1024 * 1024;

/// Exit codes of commands that never ran, as docker and shells give them.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;
/// docker's code for a request its daemon cannot honour.
const NOT_POSSIBLE: u8 = 125;

/// A command that runs, and init's ends of its streams, all non-blocking.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: u32,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    /// None with a terminal.
    pub(crate) stderr: Option<OwnedFd>,
    /// The command's end of its terminal. Held open so that the terminal does not hang up while the command is between
    /// two of its own descriptors.
    pub(crate) terminal: Option<OwnedFd>,
}

/// A command that never ran.
#[derive(Debug)]
pub(crate) struct SpawnFailure {
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl SpawnFailure {
    fn new(code: u8, message: impl Into<String>) -> Self {
        SpawnFailure {
            code,
            message: message.into(),
        }
    }

    fn system(what: &str) -> impl Fn(Errno) -> SpawnFailure {
        move |errno| SpawnFailure::new(NOT_POSSIBLE, format!("{what}: {}", io::Error::from(errno)))
    }
}

pub(crate) fn spawn(spec: &ExecSpec) -> Result<Spawned, SpawnFailure> {
    let (name, args) = match spec.args.split_first() {
        Some((name, args)) if !name.is_empty() => (OsStr::from_bytes(name), args),
        _ => return Err(SpawnFailure::new(NOT_FOUND, "no command specified")),
    };
    let identity = resolve_user(&spec.user)?;
    let environment = environment(spec, &identity);
    let cwd = working_directory(&spec.cwd)?;
    let program = look_up(name, &environment)?;
    let mut ends = Ends::open(spec)?;
    ends.give_to(identity.uid)?;

    let mut command = Command::new(program);
    command
        .arg0(name)
        .args(args.iter().map(|arg| OsStr::from_bytes(arg)))
        .env_clear()
        .envs(environment)
        .current_dir(cwd)
        .stdin(ends.child.stdin)
        .stdout(ends.child.stdout)
        .stderr(ends.child.stderr);
    sys::before_exec(&mut command, become_user(identity, spec.tty.is_some()));
    let child = command.spawn().map_err(|error| {
        let code = match Errno::from_io_error(&error) {
            Some(Errno::NOENT) => NOT_FOUND,
            _ => NOT_EXECUTABLE,
        };
        SpawnFailure::new(code, format!("exec {}: {error}", name.display()))
    })?;
    Ok(Spawned {
        pid: child.id(),
        stdin: ends.stdin,
        stdout: ends.stdout,
        stderr: ends.stderr,
        terminal: ends.terminal,
    })
}

/// What the child does between fork and exec: a session of its own, its terminal, its user.
fn become_user(
    identity: Identity,
    has_terminal: bool,
) -> impl FnMut() -> io::Result<()> + Send + Sync + 'static {
    let uid = Uid::from_raw(identity.uid);
    let gid = Gid::from_raw(identity.gid);
    let groups: Vec<Gid> = identity.groups.into_iter().map(Gid::from_raw).collect();
    move || {
        sys::unblock_signals()?;
        rustix::process::setsid()?;
        if has_terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        rustix::process::umask(Mode::from_raw_mode(0o022));
        rustix::thread::set_thread_groups(&groups)?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        Ok(())
    }
}

fn resolve_user(spec: &[u8]) -> Result<Identity, SpawnFailure> {
    let [passwd, group] = ["/etc/passwd", "/etc/group"].map(accounts);
    user::resolve(spec, &passwd.bytes, &group.bytes).map_err(|error| {
        let reasons = [passwd.problem, group.problem];
        let reasons: String = reasons
            .into_iter()
            .flatten()
            .map(|reason| format!("; {reason}"))
            .collect();
        SpawnFailure::new(NOT_POSSIBLE, format!("{error}{reasons}"))
    })
}

/// An account file of the image.
#[derive(Default)]
struct Accounts {
    bytes: Vec<u8>,
    /// Why it was not read.
    problem: Option<String>,
}

/// Reads an account file; an image without one has no accounts.
fn accounts(path: &str) -> Accounts {
    match read_bounded(path, ACCOUNTS_LIMIT) {
        Ok(bytes) => Accounts {
            bytes,
            problem: None,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Accounts::default(),
        Err(error) => Accounts {
            bytes: Vec::new(),
            problem: Some(format!("{path}: {error}")),
        },
    }
}

/// The bytes of a regular file of the image. What else a name can stand for, a fifo for instance, may never end.
fn read_bounded(path: &str, limit: u64) -> io::Result<Vec<u8>> {
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if metadata.len() > limit {
        return Err(io::Error::other(format!("larger than {} MiB", limit >> 20)));
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn environment(spec: &ExecSpec, identity: &Identity) -> Vec<(OsString, OsString)> {
    let mut environment: Vec<(OsString, OsString)> = Vec::new();
    for entry in &spec.env {
        let equals = entry.iter().position(|&byte| byte == b'=');
        // Without a name there is nothing to set.
        if let Some(at) = equals.filter(|&at| at > 0) {
            let (name, value) = (&entry[..at], &entry[at + 1..]);
            let name = OsString::from_vec(name.to_vec());
            environment.retain(|(other, _)| *other != name);
            environment.push((name, OsString::from_vec(value.to_vec())));
        }
    }
    let hostname = rustix::system::uname();
    let defaults = [
        ("PATH", Some(DEFAULT_PATH.as_bytes())),
        ("HOME", Some(identity.home.as_slice())),
        ("HOSTNAME", Some(hostname.nodename().to_bytes())),
        ("TERM", spec.tty.map(|_| b"xterm".as_slice())),
    ];
    for (name, value) in defaults {
        if let Some(value) = value
            && !environment.iter().any(|(other, _)| other == name)
        {
            environment.push((name.into(), OsString::from_vec(value.to_vec())));
        }
    }
    environment
}

fn working_directory(cwd: &[u8]) -> Result<PathBuf, SpawnFailure> {
    let cwd = if cwd.is_empty() { b"/" } else { cwd };
    // A relative working directory is below the root, as in docker.
    let path = Path::new("/").join(OsStr::from_bytes(cwd));
    make_dir(&path, 0o755)
        .map_err(|failure| SpawnFailure::new(NOT_POSSIBLE, failure.to_string()))?;
    Ok(path)
}

/// Finds a command without a slash in the search path of its own environment.
fn look_up(name: &OsStr, environment: &[(OsString, OsString)]) -> Result<PathBuf, SpawnFailure> {
    if name.as_bytes().contains(&b'/') {
        return Ok(name.into());
    }
    let path = environment
        .iter()
        .find(|(name, _)| name == "PATH")
        .map(|(_, value)| value.as_os_str())
        .unwrap_or_default();
    let mut found_unexecutable = false;
    for folder in std::env::split_paths(path) {
        let candidate = folder.join(name);
        match fs::metadata(&candidate) {
            Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => {
                // `exec` must not search again: a name found through an empty entry still has no slash.
                return Ok(Path::new(".").join(candidate));
            }
            Ok(metadata) if metadata.is_file() => found_unexecutable = true,
            _ => {}
        }
    }
    let quoted = name.display();
    Err(if found_unexecutable {
        SpawnFailure::new(
            NOT_EXECUTABLE,
            format!("exec: \"{quoted}\": permission denied"),
        )
    } else {
        SpawnFailure::new(
            NOT_FOUND,
            format!("exec: \"{quoted}\": executable file not found in $PATH"),
        )
    })
}

/// Both ends of a command's streams.
struct Ends {
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    child: ChildEnds,
}

struct ChildEnds {
    stdin: Stdio,
    stdout: OwnedFd,
    stderr: OwnedFd,
    /// What the user must be able to open again through `/dev/stdin`, `/dev/stdout` and `/dev/stderr`.
    owned: Vec<OwnedFd>,
}

impl Ends {
    fn open(spec: &ExecSpec) -> Result<Self, SpawnFailure> {
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
    fn give_to(&mut self, uid: u32) -> Result<(), SpawnFailure> {
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

fn set_nonblocking(fd: &OwnedFd) -> Result<(), Errno> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)
}

/// Tells a terminal its size.
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
