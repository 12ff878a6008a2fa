//! `blockbox pull`

use blockbox::convert::Error;
use blockbox::image::Image;
use blockbox::pull::{PullOptions, pull_name};
use blockbox::spec::Arch;
use blockbox::store::Store;
use blockbox::verify::Depth;
use clap::Args;

use super::progress::Shown;

/// Pull an image and make its disks.
#[derive(Debug, Args)]
pub(super) struct Pull {
    /// `HOST/REPO[:TAG|@DIGEST]`, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`,
    /// `docker-archive:FILE[:TAG]`, `dir:DIR` or `docker-daemon:NAME[:TAG]`; FILE may be
    /// compressed, and `-` is standard input
    #[arg(value_name = "REFERENCE", value_parser = name)]
    reference: String,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    shown: Shown,
}

/// How to pull an image, shared by `pull` and `run`.
#[derive(Debug, Args)]
pub(super) struct Source {
    /// Use HTTP, not HTTPS, with the registry
    #[arg(long)]
    plain_http: bool,
    /// The platform to choose from an image for several [default: linux on this host's
    /// architecture]; sandboxes of linux/arm64 and linux/amd64 images run on hosts of the other
    /// architecture as well, slowly: QEMU emulates the processor
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<ocipull::Platform>,
    /// Fetch layers that must not be distributed ("foreign") from the URLs that the image names
    #[arg(long)]
    allow_nondistributable_artifacts: bool,
    /// How many layers to fetch and convert at once [default: one per core]
    #[arg(long, value_name = "N")]
    jobs: Option<std::num::NonZeroUsize>,
}

/// Checks an image's name and returns it as written: `registries.conf` may resolve a name without a
/// host otherwise than docker does.
fn name(text: &str) -> Result<String, ocipull::Error> {
    text.parse::<ocipull::Reference>()?;
    Ok(text.to_owned())
}

impl Source {
    pub(super) fn options(&self) -> PullOptions {
        let mut options = PullOptions::default();
        // A start must be quick: only `pull` and `image verify` read all bytes.
        options.check = Depth::Lengths;
        options.source.plain_http = self.plain_http;
        options.source.foreign_layers = self.allow_nondistributable_artifacts;
        if let Some(platform) = &self.platform {
            options.source.platform = platform.clone();
        }
        if let Some(jobs) = self.jobs {
            options.jobs = jobs;
        }
        options
    }

    /// Returns whether `--platform` is given.
    pub(super) fn names_platform(&self) -> bool {
        self.platform.is_some()
    }

    /// Returns the architecture to emulate for an image, called `name`, of the platform that
    /// `--platform` asks for; `None` if it is the host's. Fails if no sandbox runs such images.
    pub(super) fn arch(&self, name: &str) -> Result<Option<Arch>, blockbox::Error> {
        match &self.platform {
            Some(platform) => blockbox::check_platform(name, platform),
            None => Ok(None),
        }
    }

    /// Returns `image`, called `name`, or an error if `--platform` asks for another platform.
    pub(super) fn checked(&self, name: &str, image: Image) -> Result<Image, Error> {
        if let Some(wanted) = &self.platform
            && let Some(found) = ocipull::Platform::of_config(image.config())
            && !found.runs_on(wanted)
        {
            return Err(Error::OtherPlatform {
                image: name.to_owned(),
                found: Box::new(found),
                wanted: Box::new(wanted.clone()),
            });
        }
        Ok(image)
    }
}

impl Pull {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        let mut options = self.source.options();
        options.check = Depth::Contents;
        let bars = self.shown.bars();
        options.source.events = Some(bars.events());
        let image = pull_name(store, &self.reference, &options, &bars)?;
        println!("{}", image.digest());
        Ok(())
    }
}
