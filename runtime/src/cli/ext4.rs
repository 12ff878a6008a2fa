//! `blockbox ext4 …`

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use ext4_writer::{Builder, Options};
use serde::Serialize;

use super::input::input;
use super::output::{Format, print_json, printable};
use super::size::size;
use crate::error::Error;
use crate::populate;
use crate::store::atomic;

/// Make ext4 images.
#[derive(Debug, Subcommand)]
pub(super) enum Ext4 {
    /// Make an image, empty or holding a tar or a folder
    Create(Create),
    /// Make a file system larger in place, while it is not mounted
    Grow(Grow),
    /// Show what an image's superblock says
    Info(Info),
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
        match self {
            Self::Create(create) => create.execute(),
            Self::Grow(grow) => grow.execute(),
            Self::Info(info) => info.execute(),
        }
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
            // Made longer by a byte written at its end, it would take a block more.
            file.as_file()
                .set_len(self.size)
                .map_err(Error::io(output))?;
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

#[derive(Debug, Args)]
pub(super) struct Grow {
    /// The image
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The file system's new size
    #[arg(long, value_parser = size, value_name = "SIZE")]
    size: u64,
}

impl Grow {
    fn execute(self) -> anyhow::Result<()> {
        let path = &self.file;
        let file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(Error::io(path))?;
        if let Some(device) = attached(path) {
            anyhow::bail!(
                "{} is attached to {device}: detach it first",
                path.display()
            );
        }
        let info = ext4_writer::grow(&file, self.size).map_err(|source| Error::Ext4 {
            path: path.clone(),
            source,
        })?;
        file.sync_all().map_err(Error::io(path))?;
        println!("{} blocks of {} bytes", info.blocks, info.block_size);
        Ok(())
    }
}

/// The loop device that `path` is attached to. A file system that is mounted must not be written to by anybody else, and
/// looks like one that was not unmounted in order.
fn attached(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    fs::read_dir("/sys/block")
        .ok()?
        .flatten()
        .find_map(|device| {
            let backing = fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
            let name = device.file_name().to_string_lossy().into_owned();
            (Path::new(backing.trim_end_matches('\n')) == path).then(|| format!("/dev/{name}"))
        })
}

#[derive(Debug, Args)]
pub(super) struct Info {
    /// The image
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct Report {
    label: String,
    uuid: String,
    clean: bool,
    bytes: u64,
    block_size: u32,
    blocks: u64,
    free_blocks: u64,
    inodes: u32,
    free_inodes: u32,
    groups: u64,
    features: Vec<String>,
}

impl Info {
    fn execute(self) -> anyhow::Result<()> {
        let path = &self.file;
        let file = File::open(path).map_err(Error::io(path))?;
        let info = ext4_writer::Info::read(file).map_err(|source| Error::Ext4 {
            path: path.clone(),
            source,
        })?;
        let hex: String = info.uuid.iter().map(|byte| format!("{byte:02x}")).collect();
        let uuid = [
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..],
        ]
        .join("-");
        let report = Report {
            label: printable(&info.label),
            uuid,
            clean: info.clean,
            bytes: info.blocks * u64::from(info.block_size),
            block_size: info.block_size,
            blocks: info.blocks,
            free_blocks: info.free_blocks,
            inodes: info.inodes,
            free_inodes: info.free_inodes,
            groups: info.groups,
            features: info.features.names().collect(),
        };
        match self.format {
            Format::Json => print_json(&report),
            Format::Table => {
                println!("label     {}", report.label);
                println!("UUID      {}", report.uuid);
                println!(
                    "state     {}",
                    if report.clean { "clean" } else { "not clean" }
                );
                println!(
                    "size      {} bytes, blocks of {}",
                    report.bytes, report.block_size
                );
                println!("blocks    {} free of {}", report.free_blocks, report.blocks);
                println!("inodes    {} free of {}", report.free_inodes, report.inodes);
                println!("groups    {}", report.groups);
                println!("features  {}", report.features.join(" "));
                Ok(())
            }
        }
    }
}
