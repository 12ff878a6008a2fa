//! Options of a command in a running sandbox.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;

use blockbox_store::spec::{Bytes, Process};
use blockbox_vmm::guest::{ExecSpec, WindowSize};

use crate::process::environment;

/// A command to run in a running sandbox. By default, its environment, working directory and user
/// are those of the main command.
#[derive(Clone, Debug)]
#[must_use = "a command runs when it is given to `Sandbox::exec`"]
pub struct ExecOptions {
    args: Vec<OsString>,
    env: Vec<OsString>,
    workdir: Option<OsString>,
    user: Option<String>,
    tty: Option<WindowSize>,
    stdin: bool,
}

impl ExecOptions {
    /// Returns a program with arguments. It has no terminal, and its input is `/dev/null`.
    pub fn new(args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            workdir: None,
            user: None,
            tty: None,
            stdin: false,
        }
    }

    /// Changes the environment: `KEY=VALUE` sets a variable; a `KEY` alone copies this process's
    /// value, or removes the variable if there is none.
    pub fn env(mut self, env: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.env.extend(env.into_iter().map(Into::into));
        self
    }

    /// Sets the working directory, which must exist.
    pub fn workdir(mut self, path: impl Into<OsString>) -> Self {
        self.workdir = Some(path.into());
        self
    }

    /// Sets the user: `NAME|UID[:GROUP|GID]`.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Gives the command a terminal, of 24 lines and 80 columns if the size is not known.
    pub fn tty(mut self, size: Option<WindowSize>) -> Self {
        self.tty = Some(size.unwrap_or(WindowSize { rows: 24, cols: 80 }));
        self
    }

    /// Sets whether the command reads what is written to
    /// [`Child::take_stdin`](crate::Child::take_stdin).
    pub fn stdin(mut self, stdin: bool) -> Self {
        self.stdin = stdin;
        self
    }

    /// Returns the working directory if it is set for this command.
    pub(crate) fn own_workdir(&self) -> Option<&OsStr> {
        self.workdir.as_deref()
    }

    /// Returns the command in the form of the guest's protocol, with defaults from the main
    /// command.
    pub(crate) fn spec(&self, main: &Process) -> ExecSpec {
        let base = main.env.iter().map(|one| one.0.clone()).collect();
        let cwd = self
            .workdir
            .clone()
            .map_or_else(|| main.cwd.clone(), Bytes::from);
        let user = self.user.as_ref().unwrap_or(&main.user);
        let args = self.args.iter().cloned().map(OsString::into_vec);
        let mut spec = ExecSpec::new(args);
        spec.env = environment(base, self.env.clone());
        spec.cwd = cwd.0;
        spec.user = user.clone().into_bytes();
        spec.tty = self.tty;
        spec.stdin = self.stdin;
        // The monitor reads output that no client reads.
        spec
    }
}
