//! `blockbox images`

use blockbox::image;
use blockbox::store::Store;
use clap::Args;
use serde::Serialize;

use super::output::{Format, Table, bytes, print_json};

/// List the images.
#[derive(Debug, Args)]
pub(super) struct Images {
    /// How to print them
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct Row {
    reference: String,
    manifest_digest: String,
    layers: usize,
    /// The bytes of the layers' images and of the merged metadata.
    bytes: u64,
}

impl Images {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        let mut rows = Vec::new();
        for (reference, target) in store.references().read()? {
            let Some(image) = image::Image::open(store, &target.manifest_digest.parse()?)? else {
                continue;
            };
            rows.push(Row {
                reference,
                layers: image.layers().len(),
                bytes: image.bytes()?,
                manifest_digest: target.manifest_digest,
            });
        }
        match self.format {
            Format::Json => print_json(&rows),
            Format::Table => {
                let mut table = Table::new(["REFERENCE", "DIGEST", "LAYERS", "SIZE"]);
                for row in rows {
                    let short = row
                        .manifest_digest
                        .rsplit(':')
                        .next()
                        .unwrap_or("")
                        .chars()
                        .take(12);
                    let (layers, size) = (row.layers.to_string(), bytes(row.bytes));
                    table.row([row.reference, short.collect(), layers, size]);
                }
                table.print()
            }
        }
    }
}
