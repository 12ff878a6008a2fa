//! `blockbox erofs build`

use std::path::{Path, PathBuf};

use blockbox::{layer, reader, rebuild};
use clap::Args;
use ocipull::Digest;
use serde::Serialize;

use super::super::input::input;
use super::super::outfile;
use super::super::output::{Format, bytes, print_json};
use super::super::progress::Shown;
use super::options::ImageOptions;
use super::source::length_of;

/// Make an image of a layer's tar, of a folder or of another image.
#[derive(Debug, Args)]
#[group(id = "source", required = true, multiple = false, args = ["tar", "dir", "image"])]
pub(crate) struct Build {
    /// A tar archive, which may be gzip or zstd; `-` is standard input. OCI whiteouts become
    /// overlayfs ones
    #[arg(long, value_name = "FILE")]
    tar: Option<PathBuf>,
    /// A folder
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// An EROFS image, or a disk's VMDK: its contents are written anew, whiteouts and overlayfs
    /// marks unchanged
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// A device of that image's device table; give each, in order
    #[arg(long = "device", requires = "image", value_name = "FILE")]
    devices: Vec<PathBuf>,
    /// Write metadata only, and leave files' contents in the tar, which is the image's device and
    /// must not change, as `mkfs.erofs --tar=i`
    #[arg(
        long,
        requires = "tar",
        conflicts_with_all = ["dir", "image", "block_size", "compress", "chunk_size"]
    )]
    tar_index: bool,
    /// The digest of the uncompressed tar, if known: only the tar's headers are read then, so the
    /// digest is not verified
    #[arg(long, requires = "tar_index", value_name = "DIGEST")]
    diff_id: Option<Digest>,
    /// The image to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    options: ImageOptions,
    #[command(flatten)]
    shown: Shown,
    /// How to print the result
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
        let mut options = self.options.options()?;
        // What is read counts, or else what is written.
        let total = match (&self.tar, &self.image) {
            (Some(_), _) if self.tar_index => None,
            (Some(tar), _) => length_of([tar]),
            (None, Some(image)) => length_of([image].into_iter().chain(&self.devices)),
            (None, None) => None,
        };
        let work = self
            .shown
            .work(format!("making {}", output.display()), total);
        if self.tar_index || self.tar.is_none() && self.image.is_none() {
            options.meter = work.meter();
        }
        let (diff_id, summary) = match (&self.tar, &self.dir, &self.image) {
            (Some(tar), ..) if self.tar_index => {
                anyhow::ensure!(
                    tar.as_os_str() != "-",
                    "an index points into its tar, so that must be a file, not standard input"
                );
                let (diff_id, summary) = outfile::write(output, |file| {
                    layer::write_index(tar, self.diff_id, file.as_file(), options, output)
                })?;
                (Some(diff_id), summary)
            }
            (Some(tar), ..) => {
                let (name, input) = input(tar)?;
                let mut tar = ocipull::decompress(work.meter().measure(input))?;
                let summary = outfile::write(output, |file| {
                    layer::write(&mut tar, &name, file.as_file(), options, output)
                })?;
                (Some(tar.finish()?.to_string()), summary)
            }
            (None, _, Some(image)) => {
                let from = reader::open_metered(image, &self.devices, &work.meter())?;
                let summary = outfile::write(output, |file| {
                    rebuild::write(&from, image, file.as_file(), options, output)
                })?;
                let summary = layer::Summary {
                    image: summary,
                    warnings: Vec::new(),
                };
                (None, summary)
            }
            (None, dir, None) => {
                let dir = dir.as_deref().unwrap_or(Path::new("."));
                let summary = outfile::write(output, |file| {
                    layer::write_folder(dir, file.as_file(), options, output)
                })?;
                (None, summary)
            }
        };
        work.finish();
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
