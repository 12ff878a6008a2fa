//! `blockbox erofs build`

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use erofs_writer::{
    Addresses, Algorithm, BlockSize, Compression, InodeLayout, Label, Options, Uuid,
};
use serde::Serialize;

use super::super::input::input;
use super::super::output::{Format, bytes, print_json};
use super::super::size::size;
use crate::layer;
use crate::store::atomic;

/// Make an image of a layer's tar or of a folder.
#[derive(Debug, Args)]
pub(in crate::cli) struct Build {
    /// A tar archive, which may be gzip or zstd; `-` is standard input. OCI whiteouts become overlayfs ones
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "dir",
        conflicts_with = "dir"
    )]
    tar: Option<PathBuf>,
    /// A folder
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The image to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    options: ImageOptions,
    /// How to print what was made
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What can be chosen about an image. Only images of 512-byte blocks without compression and inline tails can be merged.
#[derive(Debug, Args)]
struct ImageOptions {
    /// The size of a block: a power of two from 512 to 65536
    #[arg(long, default_value = "512", value_parser = block_size, value_name = "BYTES")]
    block_size: BlockSize,
    /// Compress files: `lz4`, and a level from 0 (fast) to 12 (small)
    #[arg(long, value_parser = compression, value_name = "ALG[,LEVEL]")]
    compress: Option<Compression>,
    /// How much is compressed into one cluster at most [default: one block]
    #[arg(long, requires = "compress", value_parser = size, value_name = "SIZE")]
    cluster_size: Option<u64>,
    /// The volume's UUID [default: derived from the contents]
    #[arg(long, value_parser = uuid, value_name = "UUID")]
    uuid: Option<Uuid>,
    /// The volume's name, at most 15 bytes
    #[arg(long, default_value = "", value_parser = label, value_name = "NAME")]
    label: Label,
    /// `inline-tails`, `48bit`, `chunk-indexes`, `full-indexes`, `extended-inodes`
    #[arg(long, value_delimiter = ',', value_enum, value_name = "a,b,…")]
    features: Vec<Feature>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Feature {
    InlineTails,
    #[value(name = "48bit")]
    Bits48,
    ChunkIndexes,
    FullIndexes,
    ExtendedInodes,
}

fn block_size(text: &str) -> Result<BlockSize, String> {
    let bytes = text.parse::<u32>().map_err(|error| error.to_string())?;
    BlockSize::new(bytes).map_err(|error| error.to_string())
}

fn label(text: &str) -> Result<Label, String> {
    Label::new(text).map_err(|error| error.to_string())
}

fn compression(text: &str) -> Result<Compression, String> {
    let (algorithm, level) = text.split_once(',').unwrap_or((text, "0"));
    let algorithm = match algorithm {
        "lz4" => Algorithm::Lz4,
        other => return Err(format!("unknown algorithm {other:?}: use lz4")),
    };
    let mut compression = Compression::new(algorithm);
    compression.level = level
        .parse()
        .ok()
        .filter(|level| *level <= 12)
        .ok_or_else(|| format!("{level:?} is no level: use 0 to 12"))?;
    Ok(compression)
}

fn uuid(text: &str) -> Result<Uuid, String> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let number = u128::from_str_radix(&digits, 16)
        .ok()
        .filter(|_| digits.len() == 32);
    let number = number.ok_or_else(|| "not 32 hexadecimal digits".to_owned())?;
    Ok(Uuid::Given(number.to_be_bytes()))
}

impl ImageOptions {
    fn options(&self) -> anyhow::Result<Options> {
        let has = |feature| self.features.contains(&feature);
        let mut compression = self.compress;
        if let (Some(compression), Some(size)) = (&mut compression, self.cluster_size) {
            compression.cluster_size = u32::try_from(size).unwrap_or(u32::MAX);
        }
        // https://reproducible-builds.org/specs/source-date-epoch/
        let build_time = match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(text) => Some(
                text.parse()
                    .context("SOURCE_DATE_EPOCH is no number of seconds")?,
            ),
            Err(_) => None,
        };
        Ok(Options {
            block_size: self.block_size,
            compression,
            uuid: self.uuid.unwrap_or_default(),
            label: self.label,
            build_time,
            inline_tails: has(Feature::InlineTails),
            chunk_indexes: has(Feature::ChunkIndexes),
            full_indexes: has(Feature::FullIndexes),
            addresses: if has(Feature::Bits48) {
                Addresses::Bits48
            } else {
                Addresses::Bits32
            },
            inodes: if has(Feature::ExtendedInodes) {
                InodeLayout::Extended
            } else {
                InodeLayout::Auto
            },
            ..Options::default()
        })
    }
}

#[derive(Serialize)]
struct Report {
    /// The digest of the uncompressed tar.
    #[serde(skip_serializing_if = "Option::is_none")]
    diff_id: Option<String>,
    bytes: u64,
    inodes: u64,
    metadata_bytes: u64,
    deduplicated_bytes: u64,
    warnings: Vec<String>,
}

impl Build {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let output = &self.output;
        let options = self.options.options()?;
        let (diff_id, summary) = match (&self.tar, &self.dir) {
            (Some(tar), _) => {
                let (name, input) = input(tar)?;
                let mut tar = ocipull::decompress(input)?;
                let summary = atomic::write_file(output, |file| {
                    layer::write(&mut tar, &name, file.as_file(), options, output)
                })?;
                (Some(tar.finish()?.to_string()), summary)
            }
            (None, dir) => {
                let dir = dir.as_deref().unwrap_or(Path::new("."));
                let summary = atomic::write_file(output, |file| {
                    layer::write_folder(dir, file.as_file(), options, output)
                })?;
                (None, summary)
            }
        };
        let report = Report {
            diff_id,
            bytes: summary.image.bytes,
            inodes: summary.image.inodes,
            metadata_bytes: summary.image.metadata_bytes,
            deduplicated_bytes: summary.image.deduplicated_bytes,
            warnings: summary.warnings,
        };
        match self.format {
            Format::Json => print_json(&report),
            Format::Table => {
                report
                    .warnings
                    .iter()
                    .for_each(|warning| eprintln!("warning: {warning}"));
                if let Some(diff_id) = &report.diff_id {
                    println!("diff ID   {diff_id}");
                }
                println!("size      {}", bytes(report.bytes));
                println!("inodes    {}", report.inodes);
                println!("metadata  {}", bytes(report.metadata_bytes));
                println!(
                    "saved     {} of equal contents",
                    bytes(report.deduplicated_bytes)
                );
                Ok(())
            }
        }
    }
}
