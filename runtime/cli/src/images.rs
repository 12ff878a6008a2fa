//! `blockbox images`

use std::collections::HashMap;

use blockbox::image;
use blockbox::store::Store;
use clap::Args;
use serde::Serialize;

use super::output::{Table, bytes, print_json};
use super::template::{Output, print_each};

/// Shown in place of a missing name.
const UNNAMED: &str = "<none>";

/// List the images. If a name was pulled again and is another image now, the earlier image is
/// listed as `<none>`.
#[derive(Debug, Args)]
pub(super) struct Images {
    /// Accepted for compatibility with docker: images without a name are always listed
    #[arg(short, long)]
    all: bool,
    /// Print only the manifest digests
    #[arg(short, long)]
    quiet: bool,
    /// How to print them: table, json, or a template such as `{{.Reference}}`
    #[arg(long, default_value = "table")]
    format: Output,
}

#[derive(Serialize)]
struct Row {
    /// `None` for an image without a name.
    reference: Option<String>,
    manifest_digest: String,
    /// `None` if the image is damaged.
    layers: Option<usize>,
    /// Bytes of the layers' images and of the merged metadata; `None` if the image is damaged.
    bytes: Option<u64>,
}

impl Images {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        let rows = rows(store)?;
        if self.quiet {
            for row in rows {
                println!("{}", row.manifest_digest);
            }
            return Ok(());
        }
        match &self.format {
            Output::Json => print_json(&rows),
            Output::Template(template) => print_each(template, &rows),
            Output::Table => {
                let mut table = Table::new(["REFERENCE", "DIGEST", "LAYERS", "SIZE"]);
                let damaged = || "damaged".to_owned();
                for row in rows {
                    let (_, digits) = row.manifest_digest.split_once(':').unwrap_or_default();
                    let short = digits.chars().take(12).collect();
                    let layers = row.layers.map_or_else(damaged, |layers| layers.to_string());
                    let size = row.bytes.map_or_else(damaged, bytes);
                    let reference = row.reference.unwrap_or_else(|| UNNAMED.to_owned());
                    table.row([reference, short, layers, size]);
                }
                table.print()
            }
        }
    }
}

/// Returns the images by name, followed by those without a name.
fn rows(store: &Store) -> anyhow::Result<Vec<Row>> {
    let mut names = HashMap::<_, Vec<_>>::new();
    for (name, target) in store.references().read()? {
        names.entry(target.manifest_digest).or_default().push(name);
    }
    let mut rows = Vec::new();
    for digest in image::list(store)? {
        // A damaged image is listed, because it can be pulled again or removed.
        let image = image::Image::open(store, &digest).ok().flatten();
        let manifest_digest = digest.to_string();
        let row = |reference| Row {
            reference,
            manifest_digest: manifest_digest.clone(),
            layers: image.as_ref().map(|image| image.layers().len()),
            bytes: image.as_ref().and_then(|image| image.bytes().ok()),
        };
        match names.remove(&manifest_digest) {
            Some(names) => rows.extend(names.into_iter().map(|name| row(Some(name)))),
            None => rows.push(row(None)),
        }
    }
    rows.sort_by(|a, b| {
        (a.reference.is_none(), &a.reference).cmp(&(b.reference.is_none(), &b.reference))
    });
    Ok(rows)
}
