//! `blockbox fork`

use anyhow::Context;
use blockbox::store::Store;
use blockbox::{Boot, Consistency, ForkOptions, Sandbox};
use clap::Args;

use super::boot;
use super::foreground;
use super::progress::Shown;

/// Make sandboxes with a copy of another sandbox's disk, and start them if that one is running.
/// Prints their names. Each has its own name, host name, id and machine id; an executable
/// `/etc/blockbox/on-fork` in the image runs before its command.
#[derive(Debug, Args)]
pub(super) struct Fork {
    /// The sandbox, by name or id
    #[arg(value_name = "NAME")]
    source: String,
    /// The new sandbox's name [default: the beginning of its id]
    #[arg(short, long, conflicts_with = "count")]
    name: Option<String>,
    /// The new sandboxes' host name [default: the name of each]
    #[arg(long, value_parser = boot::hostname)]
    hostname: Option<String>,
    /// How many sandboxes to make
    #[arg(long, default_value = "1", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
    /// Copy the disk as after a power cut, without waiting for the guest
    #[arg(long)]
    crash: bool,
    /// Also copy the memory of a running sandbox that was made with `--forkable`: the copies
    /// continue from the same moment, without a boot
    #[arg(long, conflicts_with_all = ["crash", "no_start"])]
    memory: bool,
    /// Do not start them
    #[arg(long)]
    no_start: bool,
    /// Remove each sandbox when its command ends
    #[arg(long)]
    rm: bool,
    #[command(flatten)]
    shown: Shown,
}

impl Fork {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        let source = Sandbox::open(store, &self.source)?;
        let start = !self.no_start && source.info()?.state.status.is_active();
        let mut options = ForkOptions::default()
            .consistency(consistency(self.crash))
            .remove_on_exit(self.rm);
        if let Some(name) = &self.name {
            options = options.name(name);
        }
        if let Some(hostname) = &self.hostname {
            options = options.hostname(hostname);
        }
        let snapshot = match self.memory {
            true => Some(source.capture()?.0),
            false => None,
        };
        for _ in 0..self.count {
            let fork = if let Some(snapshot) = &snapshot {
                started(snapshot.launch(&options)?)?
            } else {
                let work = self.shown.work(format!("copying {}", self.source), None);
                let options = options.clone().meter(work.meter());
                if start {
                    let launched = source.launch_fork(&options)?;
                    work.finish();
                    started(launched)?
                } else {
                    let fork = source.fork(&options)?;
                    work.finish();
                    fork
                }
            };
            println!("{}", fork.name());
        }
        Ok(())
    }
}

/// Starts the main command of a fork, which is not kept if that fails.
fn started((fork, boot): (Sandbox, Boot)) -> anyhow::Result<Sandbox> {
    let start = || {
        let booted = boot.wait(&mut |_| ())?;
        foreground::warn(&booted);
        booted.start()
    };
    start().with_context(|| format!("fork {:?} was not started", fork.name()))?;
    Ok(fork)
}

pub(super) fn consistency(crash: bool) -> Consistency {
    if crash {
        Consistency::Crash
    } else {
        Consistency::Frozen
    }
}
