//! `blockbox ext4 …`

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use blockbox::convert::Error;
use blockbox::populate;
use blockbox::squash::Layer;
use blockbox_files::open_disk;
use clap::{Args, Subcommand};

use ext4_writer::{BlockSize, Builder, Journal, Options};
use serde::Serialize;

use super::input::input;
use super::outfile;
use super::output::{Format, print_json, printable};
use super::progress::Shown;
use super::size::size;
use super::uuid::{shown, uuid};

/// Make ext4 images.
#[derive(Debug, Subcommand)]
pub(super) enum Ext4 {
    /// Make an image, empty or holding a tar or a folder
    Create(Create),
    /// Enlarge a file system in place, while it is not mounted
    Grow(Grow),
    /// Show an image's superblock
    Info(Info),
}

/// Options of the file system.
#[derive(Debug, Args)]
struct Kind {
    /// The block size: 1024, 2048 or 4096
    #[arg(long, value_parser = block_size, value_name = "BYTES", default_value = "4096")]
    block_size: BlockSize,
    /// The volume's label
    #[arg(long, default_value = "", hide_default_value = true)]
    label: String,
    /// The UUID [default: derived from the contents and options]
    #[arg(long, value_parser = uuid, value_name = "UUID")]
    uuid: Option<[u8; 16]>,
    /// The journal's size, or `none`
    #[arg(long, value_parser = journal, value_name = "SIZE")]
    journal: Option<Journal>,
    /// Bytes of the file system for each inode
    #[arg(long, value_parser = size, value_name = "BYTES", default_value = "16K")]
    inode_ratio: u64,
    /// The least number of inodes, whatever the size
    #[arg(long, value_name = "NUMBER", conflicts_with = "inode_ratio")]
    inodes: Option<u32>,
    /// How many percent of the blocks are reserved for root
    #[arg(long, value_name = "PERCENT", default_value = "0")]
    reserved: u8,
    /// Features, as mke2fs names them, separated by commas; `^` before a name turns it off
    #[arg(short = 'O', long, value_delimiter = ',', value_parser = feature, value_name = "NAME")]
    features: Vec<(Feature, bool)>,
}

impl Kind {
    fn options(&self, size: u64) -> Options {
        let mut options = Options::new(size)
            .block_size(self.block_size)
            .label(self.label.clone().into_bytes())
            .uuid(self.uuid)
            .journal(self.journal.unwrap_or_default())
            .inode_ratio(self.inode_ratio)
            .inode_count(self.inodes)
            .reserved_percent(self.reserved);
        for (set, on) in &self.features {
            set(&mut options, *on);
        }
        options
    }
}

/// Turns a feature on or off.
type Feature = fn(&mut Options, bool);

const FEATURES: [(&str, Feature); 11] = [
    ("ea_inode", |options, on| options.ea_inode = on),
    ("has_journal", |options, on| {
        options.journal = match on {
            true => options.journal,
            false => Journal::None,
        }
    }),
    ("inline_data", |options, on| options.inline_data = on),
    ("large_dir", |options, on| options.large_dir = on),
    ("meta_bg", |options, on| options.meta_bg = on),
    ("orphan_file", |options, on| options.orphan_file = on),
    ("project", |options, on| options.project = on),
    ("quota", |options, on| options.quota = on),
    ("read-only", |options, on| options.read_only = on),
    ("resize_inode", |options, on| {
        options.reserved_gdt_blocks = if on { None } else { Some(0) }
    }),
    ("verity", |options, on| options.verity = on),
];

fn feature(text: &str) -> Result<(Feature, bool), String> {
    let (name, on) = match text.strip_prefix('^') {
        Some(name) => (name, false),
        None => (text, true),
    };
    FEATURES
        .into_iter()
        .find(|(known, _)| *known == name)
        .map(|(_, set)| (set, on))
        .ok_or_else(|| format!("use {}", FEATURES.map(|(name, _)| name).join(", ")))
}

fn block_size(text: &str) -> Result<BlockSize, String> {
    let all = [BlockSize::B1024, BlockSize::B2048, BlockSize::B4096];
    let bytes = size(text)?;
    all.into_iter()
        .find(|block_size| u64::from(block_size.bytes()) == bytes)
        .ok_or_else(|| "use 1024, 2048 or 4096".to_owned())
}

fn journal(text: &str) -> Result<Journal, String> {
    match text {
        "none" => Ok(Journal::None),
        text => Ok(Journal::Size(size(text)?)),
    }
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// The file system's size; the file takes space only for what is written
    #[arg(long, value_parser = size, value_name = "SIZE")]
    size: u64,
    /// A tar archive to put into it, which may be gzip or zstd; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dir", "layer"])]
    tar: Option<PathBuf>,
    /// A folder to put into it
    #[arg(long, value_name = "DIR", conflicts_with = "layer")]
    dir: Option<PathBuf>,
    /// A layer to put into it, on top of those given before: an OCI layer's tar, an EROFS image, a
    /// folder, or an image's disk.vmdk
    #[arg(long, value_name = "LAYER")]
    layer: Vec<PathBuf>,
    #[command(flatten)]
    kind: Kind,
    /// The image to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    shown: Shown,
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
        let what = format!("making {}", output.display());
        let work = self.shown.work(what, None);
        outfile::write(output, |file| -> anyhow::Result<()> {
            let failed = |source| Error::Ext4 {
                path: output.clone(),
                source,
            };
            // Made longer by a byte written at its end, it would take a block more.
            file.as_file()
                .set_len(self.size)
                .map_err(Error::io(output))?;
            let file = work.meter().measure(file);
            let mut image = Builder::new(file, self.kind.options(self.size)).map_err(failed)?;
            if let Some(tar) = &self.tar {
                let (name, input) = input(tar)?;
                populate::from_tar(ocipull::decompress(input)?, &name, &mut image, output)?;
            }
            if let Some(dir) = &self.dir {
                populate::from_folder(dir, &mut image, output)?;
            }
            if !self.layer.is_empty() {
                let layers = self.layer.iter().map(|path| Layer::open(path));
                let layers = layers.collect::<Result<Vec<_>, _>>()?;
                populate::from_layers(&layers, &mut image, output)?;
            }
            image.finish().map_err(failed)?;
            Ok(())
        })?;
        work.finish();
        Ok(())
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

/// Returns the loop device that `path` is attached to. A mounted file system must not be written to
/// by another process, and it looks like one that was not unmounted cleanly.
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
        let file = open_disk(path).map_err(Error::io(path))?;
        let info = ext4_writer::Info::read(file).map_err(|source| Error::Ext4 {
            path: path.clone(),
            source,
        })?;
        let report = Report {
            label: printable(&info.label),
            uuid: shown(&info.uuid),
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
