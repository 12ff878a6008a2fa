//! `blockbox erofs …`

mod build;
mod inspect;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::stack::{self, Input};

/// Make and read EROFS images.
#[derive(Debug, Subcommand)]
pub(super) enum Erofs {
    /// Make an image of a layer's tar or of a folder
    Build(build::Build),
    /// Merge the metadata of layer images
    Merge(Merge),
    /// List a directory
    Ls(inspect::Ls),
    /// Print a file's contents
    Cat(inspect::Cat),
    /// Show one inode
    Stat(inspect::Stat),
    /// Check an image for every kind of damage
    Check(inspect::Check),
    /// Extract an image into a folder or a tar
    Extract(inspect::Extract),
    /// Print everything an image holds but files' contents
    Dump(inspect::Dump),
}

#[derive(Debug, Args)]
pub(super) struct Merge {
    /// The layer images, lowest first
    #[arg(required = true, value_name = "LAYER")]
    layers: Vec<PathBuf>,
    /// The image to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Also write a disk of the merged image and the layers
    #[arg(long, value_name = "FILE")]
    vmdk: Option<PathBuf>,
}

impl Merge {
    fn execute(self) -> anyhow::Result<()> {
        let input = |path: PathBuf| {
            let tag = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            Input { path, tag }
        };
        let layers: Vec<_> = self.layers.into_iter().map(input).collect();
        stack::write(&layers, &self.output)?;
        if let Some(vmdk) = &self.vmdk {
            stack::write_disk(vmdk, &self.output, &layers)?;
        }
        Ok(())
    }
}

impl Erofs {
    pub(super) fn execute(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Build(command) => command.execute(),
            Self::Merge(command) => command.execute(),
            Self::Ls(command) => command.execute(),
            Self::Cat(command) => command.execute(),
            Self::Stat(command) => command.execute(),
            Self::Check(command) => return command.execute(),
            Self::Extract(command) => command.execute(),
            Self::Dump(command) => command.execute(),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}
