//! A server that a command starts for its own use, and that ends with it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::shell;

/// How long it may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server, which ends when this is dropped, or when this process is killed.
pub(crate) struct Service {
    child: Child,
    log: PathBuf,
}

impl Service {
    /// Starts `command`, whose errors go to the file `log`, and waits until `ready` returns true.
    pub(crate) fn start(
        command: &Command,
        log: &Path,
        mut ready: impl FnMut() -> Result<bool>,
    ) -> Result<Self> {
        let mut guarded = Command::new("setpriv");
        guarded
            .args(["--pdeathsig", "TERM"])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(log)?);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => guarded.env(name, value),
                None => guarded.env_remove(name),
            };
        }
        let child = guarded.spawn().with_context(|| shell::line(&guarded))?;
        let mut service = Self {
            child,
            log: log.to_owned(),
        };
        let start = Instant::now();
        while !ready()? {
            if let Some(status) = service.child.try_wait()? {
                bail!("{}: {status}\n{}", shell::line(command), service.log());
            }
            if start.elapsed() > PATIENCE {
                bail!(
                    "{} does not answer\n{}",
                    shell::line(command),
                    service.log()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(service)
    }

    /// Returns its log without the usual lines.
    pub(crate) fn log(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let unusual = |line: &&str| !line.contains("level=info");
        log.lines().filter(unusual).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Service {
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
