//! `blockbox image history`

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::Context;
use blockbox::image::Image;
use blockbox::stack;
use blockbox::store::Store;
use clap::Args;
use fsmerge::{DeviceNumber, Kind, Tree};
use serde::Serialize;

use super::output::{Table, bytes, print_json, printable};
use super::template::{Output, print_each};

/// Show the layers of an image, or those that define a path.
#[derive(Debug, Args)]
pub(super) struct History {
    /// The image's name, or the beginning of its manifest digest
    #[arg(value_name = "REFERENCE")]
    reference: String,
    /// A path in the image; symbolic links are not followed
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
    /// How to print it: table, json, or a template such as `{{.CreatedBy}}`
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    format: Output,
}

#[derive(Serialize)]
struct Layer {
    layer: usize,
    diff_id: String,
    bytes: u64,
    created_by: String,
}

#[derive(Serialize)]
struct Path {
    path: String,
    /// What each layer with this path records for it, lowest first.
    layers: Vec<Mention>,
    /// The layer of the path's inode; `None` if the merged tree has no such path, or no layer
    /// defines it.
    inode: Option<usize>,
    /// The layer that holds its contents.
    data: Option<usize>,
}

#[derive(Serialize)]
struct Mention {
    layer: usize,
    diff_id: String,
    says: String,
}

impl History {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        let image = Image::find(store, &self.reference)?;
        match &self.path {
            Some(path) => self.path(&image, path.as_os_str().as_bytes()),
            None => self.layers(&image),
        }
    }

    fn layers(&self, image: &Image) -> anyhow::Result<()> {
        // Entries of the history without a layer are left out.
        let made = image
            .config()
            .history()
            .iter()
            .filter(|entry| !entry.empty_layer());
        let mut commands = made.map(|entry| entry.created_by().unwrap_or_default().to_owned());
        let mut layers = Vec::new();
        for (layer, stored) in image.layers().iter().enumerate() {
            let len = std::fs::metadata(&stored.path).map(|meta| meta.len());
            layers.push(Layer {
                layer,
                diff_id: stored.diff_id.to_string(),
                bytes: len.with_context(|| stored.path.display().to_string())?,
                created_by: commands.next().unwrap_or_default(),
            });
        }
        match &self.format {
            Output::Json => print_json(&layers),
            Output::Template(template) => print_each(template, &layers),
            Output::Table => {
                let mut table = Table::new(["LAYER", "DIFF ID", "SIZE", "CREATED BY"]);
                for row in layers {
                    let (layer, size) = (row.layer.to_string(), bytes(row.bytes));
                    let created_by = printable(row.created_by.as_bytes());
                    table.row([layer, short(&row.diff_id), size, created_by]);
                }
                table.print()
            }
        }
    }

    fn path(&self, image: &Image, path: &[u8]) -> anyhow::Result<()> {
        let mut layers = Vec::new();
        for (layer, input) in image.stack().iter().enumerate() {
            let tree = stack::layer(input)?;
            if let Some(says) = says(&tree, path) {
                let diff_id = image.layers()[layer].diff_id.to_string();
                layers.push(Mention {
                    layer,
                    diff_id,
                    says,
                });
            }
        }
        let merged = stack::merge(&image.stack())?;
        let node = merged.lookup(path);
        let report = Path {
            path: printable(path),
            layers,
            inode: node.and_then(|node| merged.layer(node)).map(usize::from),
            data: node
                .and_then(|node| merged.data_layer(node))
                .map(usize::from),
        };
        anyhow::ensure!(
            node.is_some() || !report.layers.is_empty(),
            "no layer has {}",
            report.path
        );
        match &self.format {
            Output::Json => print_json(&report),
            Output::Template(template) => print_each(template, &report.layers),
            Output::Table => {
                let mut table = Table::new(["LAYER", "DIFF ID", "SAYS", ""]);
                for row in &report.layers {
                    let shown = if report.inode == Some(row.layer) {
                        "shown"
                    } else {
                        ""
                    };
                    let (layer, diff_id) = (row.layer.to_string(), short(&row.diff_id));
                    table.row([layer, diff_id, row.says.clone(), shown.to_owned()]);
                }
                table.print()
            }
        }
    }
}

/// Describes a layer's entry for a path, if there is one.
fn says(layer: &Tree, path: &[u8]) -> Option<String> {
    let node = layer.lookup(path)?;
    Some(match layer.kind(node) {
        Kind::Directory { implied: true, .. } => "something below it".to_owned(),
        Kind::Directory { opaque: true, .. } => {
            "a directory, nothing of lower layers in it".to_owned()
        }
        Kind::Directory { .. } => "a directory".to_owned(),
        Kind::File { size, .. } => format!("a file of {size} bytes"),
        Kind::Symlink(target) => format!("a link to {}", printable(target)),
        Kind::CharDevice(DeviceNumber { major, minor }) => {
            format!("a character device {major}:{minor}")
        }
        Kind::BlockDevice(DeviceNumber { major, minor }) => {
            format!("a block device {major}:{minor}")
        }
        Kind::Fifo => "a named pipe".to_owned(),
        Kind::Socket => "a socket".to_owned(),
        Kind::Whiteout => "removed".to_owned(),
        Kind::LowerLink(target) => format!("a further name of /{}", printable(target)),
    })
}

fn short(digest: &str) -> String {
    digest
        .rsplit(':')
        .next()
        .unwrap_or(digest)
        .chars()
        .take(12)
        .collect()
}
