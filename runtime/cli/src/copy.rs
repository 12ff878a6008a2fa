//! `blockbox copy`

use std::num::NonZeroUsize;

use clap::Args;
use ocipull::{CopyOptions, Reference, copy};

use super::progress::{Bars, Shown, counted};
use super::{signals, size};

/// Copy an image between registries, layouts and archives unchanged: all digests stay the same.
#[derive(Debug, Args)]
pub(super) struct Copy {
    /// The image: as for `pull`
    #[arg(value_name = "SOURCE")]
    source: Reference,
    /// The target: `HOST/REPO[:TAG]`, `oci:DIR[:TAG]` or `oci-archive:FILE[:TAG]`
    #[arg(value_name = "TARGET")]
    target: Reference,
    #[command(flatten)]
    transfer: Transfer,
    /// Copy only the image for this platform [default: the image or index with all that it refers
    /// to]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<ocipull::Platform>,
}

/// How to access source and target, for all commands that write images.
#[derive(Debug, Args)]
pub(super) struct Transfer {
    /// Use HTTP, not HTTPS, with both registries
    #[arg(long)]
    plain_http: bool,
    /// Use HTTP with the source's registry
    #[arg(long)]
    source_plain_http: bool,
    /// Use HTTP with the target's registry
    #[arg(long)]
    target_plain_http: bool,
    /// The most bytes to upload in one request, for registries behind proxies with a limit
    /// [default: no limit]
    #[arg(long, value_parser = size::size, value_name = "SIZE")]
    upload_chunk: Option<u64>,
    /// How many blobs to move at once [default: 4]
    #[arg(long, value_name = "N")]
    pub(super) jobs: Option<NonZeroUsize>,
    #[command(flatten)]
    pub(super) shown: Shown,
}

impl Transfer {
    /// Returns the options for the source and for the target. `bars` report the transfer. From here
    /// on, a signal leaves no partial files in the target.
    pub(super) fn options(&self, bars: &Bars) -> (ocipull::Options, ocipull::Options) {
        signals::clean_up();
        let mut source = ocipull::Options::default();
        source.plain_http = self.plain_http || self.source_plain_http;
        let mut target = ocipull::Options::default();
        target.plain_http = self.plain_http || self.target_plain_http;
        target.upload_chunk = self.upload_chunk.unwrap_or(0);
        (source.events, target.events) = (Some(bars.events()), Some(bars.events()));
        (source, target)
    }
}

impl Copy {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let mut options = CopyOptions::default();
        let bars = self.transfer.shown.bars();
        (options.source, options.target) = self.transfer.options(&bars);
        options.platform = self.platform;
        if let Some(jobs) = self.transfer.jobs {
            options.jobs = jobs;
        }
        // Documents, too, may take long to fetch.
        let work = bars.work(format!("copying {}", self.source), None);
        options.target.progress = Some(counted(work.meter()));
        let digest = copy(&self.source, &self.target, &options)?;
        work.finish();
        println!("{digest}");
        Ok(())
    }
}
