//! `blockbox erofs …`

mod build;
mod inspect;
#[cfg(target_os = "linux")]
mod mount;
mod source;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use fsmerge::Merged;
use serde::Serialize;

use super::output::{Format, Table, bytes, print_json, printable};
use crate::error::Error;
use crate::stack::{self, Input};
use crate::store::atomic;

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
    /// Mount an image through FUSE until it is unmounted
    #[cfg(target_os = "linux")]
    Mount(mount::Mount),
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
    /// Also write a line for every name: the layers that its inode and its contents are from, and its path
    #[arg(long, value_name = "FILE")]
    provenance: Option<PathBuf>,
    /// How to print what was made
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct MergeReport {
    bytes: u64,
    inodes: u64,
    compact_inodes: u64,
    layers: Vec<LayerReport>,
}

#[derive(Serialize)]
struct LayerReport {
    path: String,
    /// How many of the merged inodes are this layer's.
    inodes: u64,
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
        let (merged, summary) = stack::write(&layers, &self.output)?;
        if let Some(vmdk) = &self.vmdk {
            stack::write_disk(vmdk, &self.output, &layers)?;
        }
        if let Some(path) = &self.provenance {
            atomic::write_file(path, |file| {
                write_provenance(&merged, file).map_err(Error::io(path))
            })?;
        }
        let mut from = vec![0_u64; layers.len()];
        for layer in merged.nodes().filter_map(|node| merged.layer(node)) {
            from[usize::from(layer)] += 1;
        }
        let names = layers.iter().map(|layer| layer.path.display().to_string());
        let report = MergeReport {
            bytes: summary.bytes,
            inodes: summary.inodes,
            compact_inodes: summary.compact_inodes,
            layers: names
                .zip(from)
                .map(|(path, inodes)| LayerReport { path, inodes })
                .collect(),
        };
        match self.format {
            Format::Json => print_json(&report),
            Format::Table => {
                println!("size    {}", bytes(report.bytes));
                println!("inodes  {}", report.inodes);
                let mut table = Table::new(["INODES FROM", "LAYER"]);
                for layer in report.layers {
                    table.row([layer.inodes.to_string(), layer.path]);
                }
                table.print()
            }
        }
    }
}

/// A line for every name: the layer its inode is from, the layer its contents are in, its path; `-` for none.
fn write_provenance(merged: &Merged, out: &mut impl Write) -> io::Result<()> {
    let mut out = io::BufWriter::new(out);
    let shown = |layer: Option<u16>| layer.map_or("-".to_owned(), |layer| layer.to_string());
    for (path, node) in merged.walk() {
        let (inode, data) = (shown(merged.layer(node)), shown(merged.data_layer(node)));
        writeln!(out, "{inode}\t{data}\t/{}", printable(&path))?;
    }
    out.flush()
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
