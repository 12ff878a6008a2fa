//! `blockbox image verify`

use std::path::PathBuf;
use std::process::ExitCode;

use blockbox::image::{self, Image};
use blockbox::names;
use blockbox::repair;
use blockbox::store::{Error, Store};
use blockbox::verify::{Depth, Verifier};
use clap::Args;
use serde::Serialize;

use super::each::each;
use super::output::{Table, print_json};
use super::progress::Shown;
use super::pull::Source;
use super::template::{Output, print_each};

/// Check all files of images against the checksums recorded when they were made. The exit status is
/// 1 if one is damaged.
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The images: names, or the beginnings of manifest digests [default: all]
    #[arg(value_name = "REFERENCE")]
    references: Vec<String>,
    /// Restore damaged files: layers are fetched again by the image's name
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    shown: Shown,
    /// How to print damage: table, json, or a template such as `{{.Path}}`
    #[arg(long, default_value = "table")]
    format: Output,
}

#[derive(Serialize)]
struct Row {
    /// The image; `None` if the file belongs to no image.
    manifest_digest: Option<String>,
    path: PathBuf,
    damage: String,
}

impl Verify {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<ExitCode> {
        if self.repair {
            repair_names(store)?;
        }
        let digests = match self.references.is_empty() {
            true => image::list(store)?,
            false => {
                let resolved = self
                    .references
                    .iter()
                    .map(|name| Image::resolve(store, name));
                resolved.collect::<Result<_, _>>()?
            }
        };
        if self.repair {
            return self.repair(store, &digests);
        }
        // A file that every command reads.
        let table = match store.references().read() {
            Err(Error::References { path, source }) => Some(Row {
                manifest_digest: None,
                path,
                damage: format!("not a valid table of names: {source}"),
            }),
            other => other.map(|_| None)?,
        };
        // No other process removes what is being read.
        let _access = store.share()?;
        let verifier = Verifier::new(store, Depth::Contents);
        let work = self
            .shown
            .work("checking images", Some(verifier.bytes(&digests)));
        let mut verifier = verifier.meter(work.meter());
        let mut rows = Vec::from_iter(table);
        for digest in &digests {
            rows.extend(verifier.image(digest)?.into_iter().map(|finding| Row {
                manifest_digest: Some(digest.to_string()),
                damage: finding.damage.to_string(),
                path: finding.path,
            }));
        }
        work.finish();
        let status = ExitCode::from(u8::from(!rows.is_empty()));
        match &self.format {
            Output::Json => print_json(&rows)?,
            Output::Template(template) => print_each(template, &rows)?,
            Output::Table if rows.is_empty() => println!("{} images, none damaged", digests.len()),
            Output::Table => {
                let mut table = Table::new(["IMAGE", "FILE", "DAMAGE"]);
                for row in rows {
                    let digest = row.manifest_digest.as_deref().unwrap_or("sha256:-");
                    let (_, digits) = digest.split_once(':').unwrap_or_default();
                    let short = digits.chars().take(12).collect();
                    table.row([short, row.path.display().to_string(), row.damage]);
                }
                table.print()?;
            }
        }
        Ok(status)
    }

    fn repair(&self, store: &Store, digests: &[ocipull::Digest]) -> anyhow::Result<ExitCode> {
        let (bars, mut options) = (self.shown.bars(), self.source.options());
        options.check = Depth::Contents;
        options.source.events = Some(bars.events());
        let names: Vec<_> = digests.iter().map(ToString::to_string).collect();
        each(&names, |name| {
            let digest = name.parse()?;
            let verifier = Verifier::new(store, Depth::Contents);
            let work = bars.work(format!("checking {name}"), Some(verifier.bytes([&digest])));
            let found = verifier.meter(work.meter()).image(&digest)?;
            work.finish();
            if !found.is_empty() {
                repair::repair(store, &digest, found, &options, &bars)?;
            }
            println!("{name}");
            Ok(())
        })
    }
}

fn repair_names(store: &Store) -> anyhow::Result<()> {
    let Some(repaired) = names::repair(store)? else {
        return Ok(());
    };
    println!(
        "{}: {} names, {} of them known by sandboxes alone; the damaged file is {}",
        store.references().path().display(),
        repaired.names,
        repaired.names - repaired.read,
        repaired.aside.display()
    );
    let table = store.references().read()?;
    for digest in image::list(store)? {
        let digest = digest.to_string();
        if !table.values().any(|named| named.manifest_digest == digest) {
            eprintln!(
                "warning: {digest} has no name: `blockbox tag {digest} NAME` before `gc` removes it"
            );
        }
    }
    Ok(())
}
