//! `blockbox copy`

use std::num::NonZeroUsize;

use clap::Args;
use ocipull::{CopyOptions, Event, Events, Pushed, Reference, copy};

use super::size;

/// Copy an image between registries, layouts and archives as it is: every digest stays.
#[derive(Debug, Args)]
pub(super) struct Copy {
    /// Where the image is: as for `pull`
    #[arg(value_name = "SOURCE")]
    source: Reference,
    /// Where it goes: `HOST/REPO[:TAG]`, `oci:DIR[:TAG]` or `oci-archive:FILE[:TAG]`
    #[arg(value_name = "TARGET")]
    target: Reference,
    #[command(flatten)]
    transfer: Transfer,
    /// Copy the image for this platform alone [default: everything that the name leads to]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<ocipull::Platform>,
}

/// How to reach two places: shared by all that write images.
#[derive(Debug, Args)]
pub(super) struct Transfer {
    /// Speak HTTP to both registries, not HTTPS
    #[arg(long)]
    plain_http: bool,
    /// Speak HTTP to the source's registry
    #[arg(long)]
    source_plain_http: bool,
    /// Speak HTTP to the target's registry
    #[arg(long)]
    target_plain_http: bool,
    /// The most bytes that one request uploads, for registries behind proxies with a limit [default: no limit]
    #[arg(long, value_parser = size::size, value_name = "SIZE")]
    upload_chunk: Option<u64>,
    /// How many blobs to move at once [default: 4]
    #[arg(long, value_name = "N")]
    pub(super) jobs: Option<NonZeroUsize>,
    /// Print nothing but the digest
    #[arg(short, long)]
    pub(super) quiet: bool,
}

impl Transfer {
    /// How to reach the source, and the target.
    pub(super) fn options(&self) -> (ocipull::Options, ocipull::Options) {
        let mut source = ocipull::Options::default();
        source.plain_http = self.plain_http || self.source_plain_http;
        let mut target = ocipull::Options::default();
        target.plain_http = self.plain_http || self.target_plain_http;
        target.upload_chunk = self.upload_chunk.unwrap_or(0);
        if !self.quiet {
            (source.events, target.events) = (Some(events()), Some(events()));
        }
        (source, target)
    }
}

/// A line for every blob, and for every wait.
fn events() -> Events {
    Events::new(|event| match event {
        Event::Pushed {
            digest,
            size,
            pushed,
        } => {
            let how = match pushed {
                Pushed::Existed => "is there already",
                Pushed::Mounted => "is mounted from the source's repository",
                _ => "copied",
            };
            eprintln!("{digest}: {size} bytes: {how}");
        }
        Event::Waiting {
            host,
            error,
            delay,
            attempt,
            attempts,
        } => eprintln!(
            "{host}: {error}: trying again in {:.1} s ({attempt} of {attempts})",
            delay.as_secs_f32()
        ),
        Event::NextMirror { host, error } => eprintln!("{error}: asking {host}"),
        _ => {}
    })
}

impl Copy {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let mut options = CopyOptions::default();
        (options.source, options.target) = self.transfer.options();
        options.platform = self.platform;
        if let Some(jobs) = self.transfer.jobs {
            options.jobs = jobs;
        }
        println!("{}", copy(&self.source, &self.target, &options)?);
        Ok(())
    }
}
