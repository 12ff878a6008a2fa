//! `blockbox disk …`

use std::path::PathBuf;

use anyhow::bail;
use blockbox::convert::disk::{self, FileSystem, Options, Summary};
use blockbox::image::Image;
use blockbox::store::Store;
use clap::{Args, Subcommand, ValueEnum};
use erofs_writer::Compression;
use serde::Serialize;

use super::erofs::compression;
use super::outfile;
use super::output::{Format, bytes, print_json};
use super::progress::Shown;
use super::size::size;
use super::uuid::{shown, uuid};

/// Make disks for other virtual machine monitors.
#[derive(Debug, Subcommand)]
pub(super) enum Disk {
    /// Make a raw disk with all files of an image
    ///
    /// A kernel booted with the printed parameters has the image's files as its root. Choose the
    /// program to start with `init=`: the disk does not hold the image's command.
    Create(Create),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// The image's name, or the beginning of its manifest digest
    image: String,
    /// The disk to write
    file: PathBuf,
    /// The file system: ext4, which can be written to, or EROFS, which is read-only without free
    /// space
    #[arg(long = "type", value_enum, default_value_t)]
    kind: Kind,
    /// The size of a disk with ext4; the file takes space only for what is written [default: twice
    /// the image's and 256M]
    #[arg(long, value_parser = size, value_name = "SIZE")]
    size: Option<u64>,
    /// Compress the files of an EROFS disk: `lz4`, `lz4hc` (LZ4 with a level), `zstd`, `deflate` or
    /// `lzma`
    #[arg(long, value_parser = compression, value_name = "ALG[,LEVEL]")]
    compress: Option<Compression>,
    /// Put the file system into a partition whose type is the root of the image's platform
    #[arg(long, value_enum, value_name = "KIND")]
    partition_table: Option<Table>,
    /// The file system's UUID, from which the partition's is derived [default: derived from the
    /// contents]
    #[arg(long, value_parser = uuid, value_name = "UUID")]
    uuid: Option<[u8; 16]>,
    #[command(flatten)]
    shown: Shown,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Kind {
    #[default]
    Ext4,
    Erofs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Table {
    Gpt,
}

#[derive(Serialize)]
struct Report {
    bytes: u64,
    file_system: &'static str,
    uuid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition_uuid: Option<String>,
    /// Kernel parameters that name the root.
    kernel_parameters: String,
}

impl Disk {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        match self {
            Self::Create(create) => create.execute(store),
        }
    }
}

impl Create {
    fn execute(self, store: &Store) -> anyhow::Result<()> {
        let file_system = match self.kind {
            Kind::Ext4 if self.compress.is_some() => bail!("--compress is for --type erofs"),
            Kind::Erofs if self.size.is_some() => {
                bail!("--size is for --type ext4: EROFS has no unused space")
            }
            Kind::Ext4 => FileSystem::Ext4 { size: self.size },
            Kind::Erofs => FileSystem::Erofs {
                compression: self.compress,
            },
        };
        let Self { file, format, .. } = self;
        // The size of compressed files is not known before.
        let compresses = self.compress.is_some();
        let options = Options::new(file_system)
            .partitioned(self.partition_table == Some(Table::Gpt))
            .uuid(self.uuid);
        // No other process removes the image meanwhile.
        let _access = store.share()?;
        let image = Image::find(store, &self.image)?;
        let total = (!compresses).then(|| image.bytes()).transpose()?;
        let work = self.shown.work(format!("making {}", file.display()), total);
        let options = options.meter(work.meter());
        let made = outfile::write(&file, |out| {
            disk::write(&image, out.as_file(), &options, &file)
        })?;
        work.finish();
        let report = Report::of(&made);
        match format {
            Format::Json => print_json(&report),
            Format::Table => {
                println!("size    {}", bytes(report.bytes));
                println!("UUID    {}", report.uuid);
                println!("kernel  {}", report.kernel_parameters);
                Ok(())
            }
        }
    }
}

impl Report {
    fn of(made: &Summary) -> Self {
        let partition_uuid = made.partition.as_ref().map(shown);
        // Linux calls the first virtio disk `vda`.
        let root = match &partition_uuid {
            Some(uuid) => format!("PARTUUID={uuid}"),
            None => "/dev/vda".to_owned(),
        };
        let mode = if made.file_system == "erofs" {
            "ro"
        } else {
            "rw"
        };
        Self {
            bytes: made.bytes,
            file_system: made.file_system,
            uuid: shown(&made.uuid),
            partition_uuid,
            kernel_parameters: format!("root={root} rootfstype={} {mode}", made.file_system),
        }
    }
}
