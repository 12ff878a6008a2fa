//! `blockbox warm`

use std::process::ExitCode;

use blockbox::Error;
use blockbox::guest::GuestError;
use blockbox::store::Store;
use clap::Args;

use super::create::NewSandbox;
use super::foreground::{self, Boots};
use super::signals::Watcher;
use super::streams::{Connected, Left, connect};
use super::terminal::window_size;

/// Boot a machine of an image, run a command in it, and save the machine in that state: `run
/// --from-pool` starts as a copy of it, without a boot. The command's files and the processes that
/// it left running are kept; their output to the command's streams is lost. Without a command the
/// machine only boots. Replaces the machine of the same image, CPUs, memory and other options, and
/// prints the name of its snapshot, which `snapshot ls` lists and `snapshot rm` removes. Needs
/// QEMU.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
#[command(mut_args = |arg| match UNSUITABLE.contains(&arg.get_id().as_str()) {
    true => arg.hide(true),
    false => arg,
})]
pub(super) struct Warm {
    #[command(flatten)]
    options: NewSandbox,
}

/// Options of `run` that apply to sandboxes made from the machine, or to machines that cannot be
/// copied.
const UNSUITABLE: [&str; 18] = [
    "name",
    "rm",
    "restart",
    "timeout",
    "cidfile",
    "label",
    "init",
    "snapshot",
    "partition",
    "writable",
    "forkable",
    "patch",
    "patch_file",
    "volume",
    "mount",
    "secret",
    "publish",
    "publish_all",
];

impl Warm {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<ExitCode> {
        let watcher = Watcher::new()?;
        let options = &self.options;
        options.check_for_pool()?;
        let root = options.root(store)?;
        let builder = options.builder(store, &root, false)?;
        watcher.launch();
        let (sandbox, boot) = builder.launch_to_warm()?;
        let booted = match foreground::wait(&sandbox, boot, &watcher)? {
            Boots::Up(booted) => booted,
            Boots::GivenUp(code) => return Ok(code),
        };
        if options.process.is_given() {
            let terminal = &options.process.terminal;
            let tty = terminal.tty(false);
            let size = tty.then(window_size).flatten();
            let child = match booted.warm_up(tty || terminal.interactive, size) {
                Err(Error::Guest(GuestError::SpawnFailed { code, message })) => {
                    eprintln!("blockbox: {message}");
                    return Ok(ExitCode::from(code));
                }
                child => child?,
            };
            let connected = Connected {
                tty,
                detach_keys: terminal.detach_keys.clone(),
                signals: true,
            };
            match connect(child, connected, &watcher)? {
                Left::Ended(status) if status.code() == 0 => {}
                Left::Ended(status) => {
                    eprintln!("blockbox: the command failed, and the machine is not kept");
                    return Ok(ExitCode::from(status.code()));
                }
                Left::Detached => {
                    anyhow::bail!("the command was left, and the machine is not kept")
                }
            }
        } else {
            watcher.over();
        }
        let work = options.shown.work("saving the machine", None);
        let snapshot = booted.into_pool()?;
        work.finish();
        println!("{}", snapshot.record().name);
        Ok(ExitCode::SUCCESS)
    }
}
