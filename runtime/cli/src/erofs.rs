//! `blockbox erofs …`

mod build;
mod check;
mod inspect;
mod merge;
#[cfg(target_os = "linux")]
mod mount;
mod options;
mod source;

use std::process::ExitCode;

use clap::Subcommand;

pub(super) use options::compression;

/// Make and read EROFS images.
#[derive(Debug, Subcommand)]
pub(super) enum Erofs {
    /// Make an image of a layer's tar, of a folder or of another image
    Build(build::Build),
    /// Merge the metadata of layer images, or with `--full` layers of any kind to one
    /// self-contained image
    Merge(merge::Merge),
    /// List a directory
    Ls(inspect::Ls),
    /// Print a file's contents
    Cat(inspect::Cat),
    /// Show one inode
    Stat(inspect::Stat),
    /// Check an image for all kinds of damage
    Check(check::Check),
    /// Extract an image into a folder or a tar
    Extract(inspect::Extract),
    /// Print everything in an image except file contents
    Dump(inspect::Dump),
    /// Mount an image through FUSE until it is unmounted
    #[cfg(target_os = "linux")]
    Mount(mount::Mount),
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
            #[cfg(target_os = "linux")]
            Self::Mount(command) => command.execute(),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}
