//! `blockbox erofs build`

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::super::input::input;
use super::super::output::{Format, bytes, print_json};
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
    /// How to print what was made
    #[arg(long, value_enum, default_value_t)]
    format: Format,
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
        let (diff_id, summary) = match (&self.tar, &self.dir) {
            (Some(tar), _) => {
                let (name, input) = input(tar)?;
                let mut tar = ocipull::decompress(input)?;
                let summary = atomic::write_file(output, |file| {
                    layer::write(&mut tar, &name, file.as_file(), output)
                })?;
                (Some(tar.finish()?.to_string()), summary)
            }
            (None, dir) => {
                let dir = dir.as_deref().unwrap_or(Path::new("."));
                let summary = atomic::write_file(output, |file| {
                    layer::write_folder(dir, file.as_file(), output)
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
