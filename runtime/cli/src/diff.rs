//! `blockbox diff`

use std::io::{self, BufWriter, Write};

use blockbox::Sandbox;
use blockbox::store::Store;
use clap::Args;
use serde::Serialize;

use super::output::{print_json, printable};
use super::template::{Output, print_each};

/// List what changed in a sandbox since its image: `A` added, `C` changed, `D` deleted. The disk of
/// a running sandbox is frozen meanwhile.
#[derive(Debug, Args)]
pub(super) struct Diff {
    /// The sandbox's name, or the beginning of its id
    #[arg(value_name = "NAME")]
    name: String,
    /// How to print it: table, json, or a template such as `{{.Path}}`
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    format: Output,
}

#[derive(Serialize)]
struct Row {
    kind: char,
    path: String,
}

impl Diff {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        let changes = Sandbox::open(store, &self.name)?.changes()?;
        let rows = changes.into_iter().map(|change| Row {
            kind: change.kind.letter(),
            path: format!("/{}", printable(&change.path)),
        });
        match &self.format {
            Output::Json => return print_json(&rows.collect::<Vec<_>>()),
            Output::Template(template) => return print_each(template, &rows.collect::<Vec<_>>()),
            Output::Table => {}
        }
        let mut out = BufWriter::new(io::stdout().lock());
        for row in rows {
            writeln!(out, "{} {}", row.kind, row.path)?;
        }
        Ok(out.flush()?)
    }
}
