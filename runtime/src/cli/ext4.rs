//! `blockbox ext4 …`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use ext4_writer::{Builder, Options};

use super::input::input;
use super::size::size;
use crate::error::Error;
use crate::populate;
use crate::store::atomic;

/// Make ext4 images.
#[derive(Debug, Subcommand)]
pub(super) enum Ext4 {
    /// Make an image, empty or holding a tar or a folder
    Create(Create),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// The file system's size; the file takes room only where something was written
    #[arg(long, value_parser = size, value_name = "SIZE")]
    size: u64,
    /// A tar archive to put into it, which may be gzip or zstd; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "dir")]
    tar: Option<PathBuf>,
    /// A folder to put into it
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The image to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

impl Ext4 {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let Self::Create(create) = self;
        create.execute()
    }
}

impl Create {
    fn execute(self) -> anyhow::Result<()> {
        let output = &self.output;
        atomic::write_file(output, |file| -> anyhow::Result<()> {
            let failed = |source| Error::Ext4 {
                path: output.clone(),
                source,
            };
            let mut image = Builder::new(file, Options::new(self.size)).map_err(failed)?;
            if let Some(tar) = &self.tar {
                let (name, input) = input(tar)?;
                populate::from_tar(ocipull::decompress(input)?, &name, &mut image, output)?;
            }
            if let Some(dir) = &self.dir {
                populate::from_folder(dir, &mut image, output)?;
            }
            image.finish().map_err(failed)?;
            Ok(())
        })
    }
}
