//! Starts commands, as docker does.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use blockbox_protocol::user::{self, Identity};
use blockbox_protocol::{ExecSpec, Ulimit};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::boot::make_dir;
use super::cgroup::Cgroup;
use super::kernel;
use super::namespaces::{self, Entry, Namespaces};
use super::streams::Ends;
use super::sys;

/// The default search path of a command, as docker's.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The most bytes that are read of `/etc/passwd` and `/etc/group`.
const ACCOUNTS_LIMIT: u64 = 16 * 1024 * 1024;

/// The exit codes of docker and shells for commands that could not be started.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;
/// docker's exit code for a request that its daemon cannot carry out.
const NOT_POSSIBLE: u8 = 125;

/// A running command, and init's ends of its streams, all non-blocking.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: u32,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    /// `None` with a terminal.
    pub(crate) stderr: Option<OwnedFd>,
    /// The command's end of its terminal, held open so that the terminal does not hang up while the
    /// command has none of its own descriptors open.
    pub(crate) terminal: Option<OwnedFd>,
}

/// Why a command could not be started.
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

    pub(crate) fn system(what: &str) -> impl Fn(Errno) -> SpawnFailure {
        move |errno| SpawnFailure::new(NOT_POSSIBLE, format!("{what}: {}", io::Error::from(errno)))
    }
}

/// The environment that a command starts in.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    /// A procfs, which the container cannot unmount.
    pub(crate) proc: &'a OwnedFd,
    /// The resource limits of all commands.
    pub(crate) ulimits: &'a [Ulimit],
    /// The command's cgroup.
    pub(crate) cgroup: Option<&'a Cgroup>,
    /// The namespaces of a command that runs as an init.
    pub(crate) namespaces: Option<&'a Namespaces>,
    /// Whether writes to the disk wait for a thaw, which init must not do.
    pub(crate) frozen: bool,
}

pub(crate) fn spawn(
    spec: &ExecSpec,
    surroundings: &Surroundings<'_>,
) -> Result<Spawned, SpawnFailure> {
    let (name, args) = match spec.args.split_first() {
        Some((name, args)) if !name.is_empty() => (OsStr::from_bytes(name), args),
        _ => return Err(SpawnFailure::new(NOT_FOUND, "no command specified")),
    };
    if spec.init && surroundings.namespaces.is_some() {
        let message = "another command runs as the init already";
        return Err(SpawnFailure::new(NOT_POSSIBLE, message));
    }
    if spec.init
        && let Err(error) = kernel::suit_init()
    {
        eprintln!("blockbox-init: settings for an init: {error}");
    }
    let identity = resolve_user(spec)?;
    let environment = environment(spec, &identity);
    let cwd = working_directory(&spec.cwd, surroundings.frozen)?;
    let program = look_up(name, &environment, &cwd)?;
    if surroundings.namespaces.is_none() {
        is_there(name, &cwd.join(&program))?;
    }
    let mut ends = Ends::open(spec)?;
    ends.give_to(identity.uid)?;

    let mut command = Command::new(program);
    command
        .arg0(name)
        .args(args.iter().map(|arg| OsStr::from_bytes(arg)))
        .env_clear()
        .envs(environment)
        .stdin(ends.child.stdin)
        .stdout(ends.child.stdout)
        .stderr(ends.child.stderr);
    let mut child = Child {
        cgroup: surroundings.cgroup.and_then(|cgroup| cgroup.folder().ok()),
        entry: None,
        cwd,
        has_terminal: spec.tty.is_some(),
        ulimits: [surroundings.ulimits, &spec.ulimits].concat(),
        no_new_privileges: spec.no_new_privileges,
        uid: Uid::from_raw(identity.uid),
        gid: Gid::from_raw(identity.gid),
        groups: identity.groups.into_iter().map(Gid::from_raw).collect(),
    };
    let spawned = if spec.init || surroundings.namespaces.is_some() {
        namespaces::within(surroundings.proc, surroundings.namespaces, |entry| {
            child.entry = Some(entry);
            start(&mut command, child)
        })
    } else {
        Ok(start(&mut command, child))
    };
    let child = spawned.and_then(|spawned| spawned).map_err(|error| {
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

/// Reports a missing program of a plain request before anything is made for it: every host requests
/// a hook that most images do not have.
pub(crate) fn check(spec: &ExecSpec, namespaces: Option<&Namespaces>) -> Result<(), SpawnFailure> {
    let plain = spec.user.is_empty() && spec.groups.is_empty() && spec.cwd.is_empty();
    match spec.args.first() {
        Some(name) if plain && !spec.init && namespaces.is_none() && name.starts_with(b"/") => {
            let name = OsStr::from_bytes(name);
            is_there(name, name.as_ref())
        }
        _ => Ok(()),
    }
}

/// Reports a missing program without starting a process.
fn is_there(name: &OsStr, program: &Path) -> Result<(), SpawnFailure> {
    match fs::metadata(program) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(SpawnFailure::new(
            NOT_FOUND,
            format!("exec {}: {error}", name.display()),
        )),
        _ => Ok(()),
    }
}

fn start(command: &mut Command, child: Child) -> io::Result<process::Child> {
    sys::before_exec(command, move || child.prepare());
    command.spawn()
}

/// What the child does between fork and exec.
struct Child {
    cgroup: Option<OwnedFd>,
    entry: Option<Entry>,
    cwd: PathBuf,
    has_terminal: bool,
    ulimits: Vec<Ulimit>,
    no_new_privileges: bool,
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl Child {
    /// Enters the cgroup and namespaces, creates a session with its terminal, sets limits, and last
    /// changes to the user, who may not be allowed to do the rest.
    fn prepare(&self) -> io::Result<()> {
        sys::unblock_signals()?;
        if let Some(cgroup) = &self.cgroup {
            Cgroup::enter(cgroup)?;
        }
        if let Some(entry) = &self.entry {
            entry.enter()?;
        }
        rustix::process::chdir(&self.cwd)?;
        rustix::process::setsid()?;
        if self.has_terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        for limit in &self.ulimits {
            sys::set_limit(limit.resource, limit.soft, limit.hard)?;
        }
        rustix::process::umask(Mode::from_raw_mode(0o022));
        if self.no_new_privileges {
            rustix::thread::set_no_new_privs(true)?;
        }
        rustix::thread::set_thread_groups(&self.groups)?;
        rustix::thread::set_thread_res_gid(self.gid, self.gid, self.gid)?;
        if self.uid.is_root() {
            return Ok(());
        }
        rustix::thread::set_keep_capabilities(true)?;
        rustix::thread::set_thread_res_uid(self.uid, self.uid, self.uid)?;
        keep_raw_sockets()?;
        Ok(())
    }
}

/// Keeps only the capability to open raw sockets for a user who is not root. Programs that send
/// ICMP echo requests only through raw sockets, as Debian's busybox does, can then be used by any
/// user. The network that it gives access to is the sandbox's own.
fn keep_raw_sockets() -> io::Result<()> {
    use rustix::thread::{CapabilitySet, CapabilitySets};

    let raw = CapabilitySet::NET_RAW;
    let sets = CapabilitySets {
        effective: raw,
        permitted: raw,
        inheritable: raw,
    };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::configure_capability_in_ambient_set(raw, true)?;
    Ok(())
}

fn resolve_user(spec: &ExecSpec) -> Result<Identity, SpawnFailure> {
    let [passwd, group] = ["/etc/passwd", "/etc/group"].map(accounts);
    let resolved =
        user::resolve(&spec.user, &passwd.bytes, &group.bytes).and_then(|mut identity| {
            for gid in user::additional_groups(&spec.groups, &group.bytes)? {
                if gid != identity.gid && !identity.groups.contains(&gid) {
                    identity.groups.push(gid);
                }
            }
            Ok(identity)
        });
    resolved.map_err(|error| {
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
    /// Why it could not be read.
    problem: Option<String>,
}

/// Reads an account file; if the image does not have it, there are no accounts.
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

/// Reads a regular file of the image. Other files, such as a fifo, may never end.
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
        // An entry without a name is skipped.
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
        // With this variable systemd does not look for hardware.
        ("container", spec.init.then_some(b"blockbox".as_slice())),
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

fn working_directory(cwd: &[u8], frozen: bool) -> Result<PathBuf, SpawnFailure> {
    let cwd = if cwd.is_empty() { b"/" } else { cwd };
    // A relative working directory is relative to the root, as in docker.
    let path = Path::new("/").join(OsStr::from_bytes(cwd));
    if frozen && !path.is_dir() {
        let message = format!("cannot make {} while the disk is frozen", path.display());
        return Err(SpawnFailure::new(NOT_POSSIBLE, message));
    }
    make_dir(&path, 0o755)
        .map_err(|failure| SpawnFailure::new(NOT_POSSIBLE, failure.to_string()))?;
    Ok(path)
}

/// Finds a command without a slash in the `PATH` of its own environment.
fn look_up(
    name: &OsStr,
    environment: &[(OsString, OsString)],
    cwd: &Path,
) -> Result<PathBuf, SpawnFailure> {
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
        match fs::metadata(cwd.join(&candidate)) {
            Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => {
                // `exec` must not search again: a name found through an empty entry still has no
                // slash.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_of_a_plain_request_is_reported_before_anything_is_made_for_it() {
        let code = |spec: &ExecSpec| check(spec, None).err().map(|failure| failure.code);
        let missing = ExecSpec::new([b"/no/such/program".to_vec()]);
        assert_eq!(code(&missing), Some(NOT_FOUND));
        assert_eq!(code(&ExecSpec::new([b"/".to_vec()])), None);
        // These are looked for with the folders and the user of the request.
        for name in ["no-such-program", "./no/such/program", ""] {
            assert_eq!(code(&ExecSpec::new([name])), None, "{name}");
        }
        let mut other = missing.clone();
        other.user = b"nobody".to_vec();
        assert_eq!(code(&other), None);
        let mut other = missing.clone();
        other.cwd = b"/srv".to_vec();
        assert_eq!(code(&other), None);
    }
}
