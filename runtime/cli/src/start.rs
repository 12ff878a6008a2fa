//! `blockbox start`

use std::process::ExitCode;

use blockbox::guest::GuestError;
use blockbox::image::Image;
use blockbox::process::{Overrides, change_env, resolve};
use blockbox::spec::Spec;
use blockbox::store::Store;
use blockbox::{Error, Sandbox, StartOptions};
use clap::Args;

use super::boot;
use super::foreground::{self, Boots};
use super::signals::Watcher;
use super::streams::Connected;

/// Start a sandbox that is not running, as it was made and with everything that was written in it. With a command after
/// `--` it runs that in place of its own, in the foreground; the exit status then is as for `run`.
#[derive(Debug, Args)]
pub(super) struct Start {
    /// The sandbox's name or id
    #[arg(value_name = "NAME")]
    name: String,
    /// Connect this terminal, or these streams, to the command
    #[arg(short, long)]
    attach: bool,
    #[command(flatten)]
    process: boot::Process,
    #[command(flatten)]
    options: boot::Options,
}

impl Start {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<ExitCode> {
        let watcher = Watcher::new()?;
        let sandbox = Sandbox::open(store, &self.name)?;
        let info = sandbox.info()?;
        let foreground = self.attach || self.process.is_given();
        if info.state.status.is_active() && !foreground {
            println!("{}", self.name);
            return Ok(ExitCode::SUCCESS);
        }
        let spec = self.spec(store, info.spec, foreground)?;
        let tty = spec.process.as_ref().is_some_and(|process| process.tty);
        let boot = sandbox.boot(StartOptions::default().spec(spec))?;
        let booted = match foreground::wait(&sandbox, boot, &watcher)? {
            Boots::Up(booted) => booted,
            Boots::GivenUp(code) => return Ok(code),
        };
        if foreground {
            let connected = Connected {
                tty,
                detach_keys: self.process.terminal.detach_keys.clone(),
                signals: true,
            };
            return foreground::run(booted, true, connected, &watcher);
        }
        watcher.over();
        match booted.start() {
            Ok(_) => println!("{}", self.name),
            Err(Error::Guest(GuestError::SpawnFailed { code, message })) => {
                eprintln!("blockbox: {message}");
                return Ok(ExitCode::from(code));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(ExitCode::SUCCESS)
    }

    /// What the sandbox was made as, and what the command line changes for this run.
    fn spec(&self, store: &Store, mut spec: Spec, foreground: bool) -> anyhow::Result<Spec> {
        let digest = spec.image.manifest_digest.parse()?;
        let image = Image::open(store, &digest)?
            .ok_or_else(|| blockbox::convert::Error::NoImage(spec.image.asked.clone()))?;
        let config = image.config().config().as_ref();
        let mut process = match spec.process.take() {
            Some(process) => process,
            None => resolve(config, Overrides::default())?,
        };
        if self.process.is_given() {
            // The image's Entrypoint and Cmd again, and from there on as for `run`.
            let overrides = self.process.overrides(false)?;
            process.args = resolve(config, overrides)?.args;
        }
        change_env(&mut process, self.process.env()?);
        let (workdir, user) = self.process.place();
        if let Some(workdir) = workdir {
            process.cwd = std::path::Path::new("/")
                .join(workdir)
                .into_os_string()
                .into();
        }
        if let Some(user) = user {
            process.user.clone_from(user);
        }
        if self.process.is_given() || !self.process.terminal.is_default() {
            process.tty = self.process.terminal.tty(!foreground);
        }
        spec.process = Some(process);
        self.options.change(&mut spec.machine);
        if let Some(name) = &self.options.hostname {
            spec.hostname = Some(name.clone());
        }
        if let Some(folders) = self.options.on_disk() {
            spec.on_disk = folders;
        }
        Ok(spec)
    }
}
