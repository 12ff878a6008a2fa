//! Tasks on the container's files for the host, each in a separate process.

use std::ffi::OsStr;
use std::io::{self, BufReader, BufWriter, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use blockbox_archive::{Error, PackOptions, UnpackOptions};
use blockbox_protocol::{ExecSpec, FileTask};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::cgroup::Cgroup;
use super::spawn::{SpawnFailure, Spawned};
use super::{streams, sys};

/// The buffer size for reading and writing, in bytes.
const BUFFER: usize = 64 << 10;

/// Starts a task.
pub(crate) fn start(task: FileTask, cgroup: Option<&Cgroup>) -> Result<Spawned, SpawnFailure> {
    let cgroup = cgroup.and_then(|cgroup| cgroup.folder().ok());
    spawn(task, cgroup).map_err(SpawnFailure::system("starting to copy files"))
}

fn spawn(task: FileTask, cgroup: Option<OwnedFd>) -> rustix::io::Result<Spawned> {
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
    let (child_stdin, stdin) = pipe()?;
    let (stdout, child_stdout) = pipe()?;
    let (stderr, child_stderr) = pipe()?;
    for end in [&stdin, &stdout, &stderr] {
        streams::set_nonblocking(end)?;
    }
    let has_input = task.has_input();
    let child = [child_stdin, child_stdout, child_stderr];
    let pid = sys::fork(move || {
        let code = match prepare(child, cgroup) {
            Ok(()) => run(&task),
            Err(_) => FileTask::FAILED,
        };
        sys::exit(code);
    });
    Ok(Spawned {
        pid: pid.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?,
        stdin: has_input.then_some(stdin),
        stdout,
        stderr: Some(stderr),
        terminal: None,
    })
}

/// Returns the command that stands for a task.
pub(crate) fn command(task: &FileTask) -> ExecSpec {
    let mut spec = ExecSpec::default();
    spec.stdin = task.has_input();
    spec
}

/// Leaves only its own streams open in the child.
fn prepare(streams: [OwnedFd; 3], cgroup: Option<OwnedFd>) -> io::Result<()> {
    sys::unblock_signals()?;
    if let Some(cgroup) = &cgroup {
        Cgroup::enter(cgroup)?;
    }
    let [stdin, stdout, stderr] = streams;
    rustix::stdio::dup2_stdin(&stdin)?;
    rustix::stdio::dup2_stdout(&stdout)?;
    rustix::stdio::dup2_stderr(&stderr)?;
    // They stay open in init, and must not be closed twice.
    std::mem::forget((stdin, stdout, stderr, cgroup));
    sys::close_from(3)?;
    rustix::process::umask(Mode::empty());
    Ok(())
}

/// Carries out a task in this process, and returns its exit code.
fn run(task: &FileTask) -> u8 {
    let done = match task {
        FileTask::Stat { path, follow } => {
            blockbox_archive::stat(path_of(path), *follow).and_then(|stat| {
                let written = io::stdout().write_all(stat.encode().as_bytes());
                written.map_err(Error::Output)
            })
        }
        FileTask::Pack { path, name, follow } => {
            let options = PackOptions::default().name(&name[..]).follow(*follow);
            let mut out = BufWriter::with_capacity(BUFFER, io::stdout().lock());
            blockbox_archive::pack(path_of(path), &options, &mut out)
                .and_then(|()| out.flush().map_err(Error::Output))
        }
        FileTask::Unpack { path, owners } => {
            let options = UnpackOptions::trusted().owners(*owners);
            let input = BufReader::with_capacity(BUFFER, io::stdin().lock());
            blockbox_archive::unpack(path_of(path), input, options).map(drop)
        }
        _ => return FileTask::FAILED,
    };
    match done {
        Ok(()) => 0,
        Err(error) => {
            let _ = io::stderr().write_all(message(&error).as_bytes());
            match error.io_kind() {
                Some(io::ErrorKind::NotFound) => FileTask::NOT_FOUND,
                Some(io::ErrorKind::NotADirectory) => FileTask::NOT_A_DIRECTORY,
                _ => FileTask::FAILED,
            }
        }
    }
}

fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

fn message(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
