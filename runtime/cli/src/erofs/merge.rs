//! `blockbox erofs merge`

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use blockbox::convert::Error;
use blockbox::squash::{self, Layer};
use blockbox::stack::{self, Input};
use blockbox::store::Meter;
use clap::Args;
use erofs_writer::Addresses;
use fsmerge::Merged;
use serde::Serialize;

use super::super::outfile;
use super::super::output::{Format, Table, bytes, print_json, printable};
use super::super::progress::Shown;
use super::options::ImageOptions;

/// Merge layers.
#[derive(Debug, Args)]
pub(crate) struct Merge {
    /// The layer images, lowest first, or indexes of tars, each followed by its tar as the next
    /// device; with `--full` also other EROFS images, disks' VMDKs, tars and folders
    #[arg(required = true, value_name = "LAYER")]
    layers: Vec<PathBuf>,
    /// The image to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Also copy files' contents: the image needs no layers, and supports all options below, which,
    /// except `--features 48bit`, need `--full`
    #[arg(long, conflicts_with = "vmdk")]
    full: bool,
    /// Also write a disk of the merged image and the layers
    #[arg(long, value_name = "FILE")]
    vmdk: Option<PathBuf>,
    /// Also write a line for each name: the layers of its inode and of its contents, and its path
    #[arg(long, value_name = "FILE")]
    provenance: Option<PathBuf>,
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
    bytes: u64,
    inodes: u64,
    compact_inodes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    deduplicated_bytes: Option<u64>,
    layers: Vec<LayerReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct LayerReport {
    path: String,
    /// How many of the merged inodes come from this layer.
    inodes: u64,
}

impl Merge {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let output = self.output.display();
        let work = self.shown.work(format!("making {output}"), None);
        let (merged, summary, warnings) = if self.full {
            self.squash(work.meter())?
        } else {
            let addresses = self.options.nothing_but_addresses().context(
                "options of the image are for --full, all but `--features 48bit`: merged metadata has its layers' blocks, and no contents",
            )?;
            self.merge(addresses)?
        };
        work.finish();
        if let Some(path) = &self.provenance {
            outfile::write(path, |file| {
                write_provenance(&merged, file).map_err(Error::io(path))
            })?;
        }
        let mut from = vec![0_u64; self.layers.len()];
        for layer in merged.nodes().filter_map(|node| merged.layer(node)) {
            from[usize::from(layer)] += 1;
        }
        let names = self.layers.iter().map(|layer| layer.display().to_string());
        let report = Report {
            bytes: summary.bytes,
            inodes: summary.inodes,
            compact_inodes: summary.compact_inodes,
            deduplicated_bytes: self.full.then_some(summary.deduplicated_bytes),
            layers: names
                .zip(from)
                .map(|(path, inodes)| LayerReport { path, inodes })
                .collect(),
            warnings,
        };
        match self.format {
            Format::Json => print_json(&report),
            Format::Table => {
                for warning in &report.warnings {
                    eprintln!("warning: {warning}");
                }
                println!("size    {}", bytes(report.bytes));
                println!("inodes  {}", report.inodes);
                if let Some(saved) = report.deduplicated_bytes {
                    println!("saved   {} of equal contents", bytes(saved));
                }
                let mut table = Table::new(["INODES FROM", "LAYER"]);
                for layer in report.layers {
                    table.row([layer.inodes.to_string(), layer.path]);
                }
                table.print()
            }
        }
    }

    /// Merges the metadata of layer images.
    fn merge(&self, addresses: Addresses) -> anyhow::Result<Made> {
        let input = |path: &PathBuf| {
            let tag = path.file_stem().unwrap_or_default();
            Input {
                tag: tag.to_string_lossy().into_owned(),
                path: path.clone(),
            }
        };
        let layers: Vec<_> = self.layers.iter().map(input).collect();
        let (merged, summary) = stack::write_with(&layers, &self.output, addresses)?;
        if let Some(vmdk) = &self.vmdk {
            stack::write_disk(vmdk, &self.output, &layers)?;
        }
        Ok((merged, summary, Vec::new()))
    }

    /// Merges layers of any kind with their contents.
    fn squash(&self, meter: Meter) -> anyhow::Result<Made> {
        let mut options = self.options.options()?;
        options.meter = meter;
        let open = |path: &PathBuf| Layer::open(Path::new(path));
        let layers = self
            .layers
            .iter()
            .map(open)
            .collect::<Result<Vec<_>, _>>()?;
        let output = &self.output;
        let (merged, summary) = outfile::write(output, |file| {
            squash::write(&layers, file.as_file(), options, output)
        })?;
        Ok((merged, summary.image, summary.warnings))
    }
}

/// The merged tree, the summary of its image, and warnings.
type Made = (Merged, erofs_writer::Summary, Vec<String>);

/// Writes a line for each name: the layer of its inode, the layer of its contents, and its path;
/// `-` for no layer.
fn write_provenance(merged: &Merged, out: &mut impl Write) -> io::Result<()> {
    let mut out = io::BufWriter::new(out);
    let shown = |layer: Option<u16>| layer.map_or("-".to_owned(), |layer| layer.to_string());
    for (path, node) in merged.walk() {
        let (inode, data) = (shown(merged.layer(node)), shown(merged.data_layer(node)));
        writeln!(out, "{inode}\t{data}\t/{}", printable(&path))?;
    }
    out.flush()
}
