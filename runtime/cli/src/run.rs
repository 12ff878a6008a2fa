//! `blockbox run`

use std::process::ExitCode;

use blockbox::convert::Error;
use blockbox::image::Image;
use blockbox::pull::pull;
use blockbox::sandbox::Sandbox;
use blockbox::store::Store;
use clap::{Args, ValueEnum};

use super::boot;
use super::progress::Bars;
use super::pull::Source;
use super::size::size;

/// Run a command in a new sandbox. Its exit status is the command's: 127 where there is no such command, 126 where it
/// cannot be executed, 128 and the signal's number where a signal ended it, 125 where blockbox failed.
#[derive(Debug, Args)]
pub(super) struct Run {
    /// The image: its name, as for `pull`
    #[arg(value_name = "REFERENCE")]
    reference: String,
    #[command(flatten)]
    process: boot::Process,

    /// The sandbox's name [default: a random one]
    #[arg(long)]
    name: Option<String>,
    /// Remove the sandbox when the command ends
    #[arg(long)]
    rm: bool,
    /// The size of the writable disk; it takes room on the host only as it is written
    #[arg(long, default_value = "4G", value_parser = size, value_name = "SIZE")]
    upper_size: u64,
    #[command(flatten)]
    options: boot::Options,

    /// When to get the image
    #[arg(long, value_enum, default_value_t)]
    pull: Pull,
    #[command(flatten)]
    source: Source,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Pull {
    /// Where the store has none of this name
    #[default]
    Missing,
    /// Every time
    Always,
    /// Use the store only
    Never,
}

impl Run {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<ExitCode> {
        let image = self.image(store)?;
        let spec = self.process.spec(&image)?;
        let name = self.name.as_deref();
        let sandbox = Sandbox::create(store, name, &self.reference, &image, self.upper_size)?;
        let running = match self.options.start(store, &sandbox, &image) {
            Ok(running) => running,
            Err(error) => {
                // Its command never ran, so it holds nothing worth keeping.
                sandbox.remove()?;
                return Err(error.into());
            }
        };
        let status = boot::run(running, &spec);
        if self.rm {
            sandbox.remove()?;
        }
        Ok(ExitCode::from(status?))
    }

    fn image(&self, store: &Store) -> anyhow::Result<Image> {
        match self.pull {
            Pull::Missing => image(store, &self.reference, &self.source),
            Pull::Always => fetch(store, &self.reference, &self.source),
            Pull::Never => {
                let image = Image::find(store, &self.reference)?;
                Ok(self.source.checked(&self.reference, image)?)
            }
        }
    }
}

/// The image called `reference`, pulled where the store has none of this name for the platform. What local references name may
/// have changed, so it is looked at each time.
pub(super) fn image(store: &Store, reference: &str, source: &Source) -> anyhow::Result<Image> {
    if let Ok(name) = reference.parse::<ocipull::Reference>() {
        if name.is_local() {
            return fetch(store, reference, source);
        }
        if let Some(image) = Image::named(store, &name)? {
            return match image.runs_on(&source.options().source.platform) {
                true => Ok(image),
                false => fetch(store, reference, source),
            };
        }
    }
    match Image::find(store, reference) {
        Err(Error::NoImage(_)) => fetch(store, reference, source),
        found => Ok(source.checked(reference, found?)?),
    }
}

fn fetch(store: &Store, reference: &str, source: &Source) -> anyhow::Result<Image> {
    let parsed: ocipull::Reference = reference.parse()?;
    let (bars, mut options) = (Bars::new(), source.options());
    options.source.events = Some(bars.events());
    let image = pull(store, &parsed, &options, &bars)?;
    Ok(source.checked(reference, image)?)
}
