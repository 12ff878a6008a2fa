//! Describing a command for a running sandbox.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use blockbox_store::spec::{Bytes, Process};
use blockbox_vmm::guest::{ExecSpec, WindowSize};

use crate::process::environment;

/// A command to run in a running sandbox. What nobody sets is as for the sandbox's main command:
/// its environment, its working directory, its user.
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
    /// A program and its arguments. It has no terminal, and its input is `/dev/null`.
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

    /// Changes to the environment: `KEY=VALUE` sets a variable; a `KEY` alone takes over this
    /// process's value, or removes the variable where it has none.
    pub fn env(mut self, env: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.env.extend(env.into_iter().map(Into::into));
        self
    }

    /// The working directory.
    pub fn workdir(mut self, path: impl Into<OsString>) -> Self {
        self.workdir = Some(path.into());
        self
    }

    /// The user: `NAME|UID[:GROUP|GID]`.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Gives the command a terminal, of 24 lines and 80 columns where no size is known.
    pub fn tty(mut self, size: Option<WindowSize>) -> Self {
        self.tty = Some(size.unwrap_or(WindowSize { rows: 24, cols: 80 }));
        self
    }

    /// Whether the command reads what is written to
    /// [`Child::take_stdin`](crate::Child::take_stdin).
    pub fn stdin(mut self, stdin: bool) -> Self {
        self.stdin = stdin;
        self
    }

    /// The command as the guest's init takes it, beside the sandbox's main command.
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
        // The monitor reads what nobody else does.
        spec
    }
}
