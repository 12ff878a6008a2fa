//! `blockbox diff`

use std::io::{self, BufWriter, Write};

use blockbox::Sandbox;
use blockbox::store::Store;
use clap::Args;
use serde::Serialize;

use super::output::{Format, print_json, printable};

/// List what changed in a sandbox since its image: `A` added, `C` changed, `D` deleted. The disk of
/// a running sandbox is frozen meanwhile.
#[derive(Debug, Args)]
pub(super) struct Diff {
    /// The sandbox's name, or the beginning of its id
    #[arg(value_name = "NAME")]
    name: String,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
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
        if self.format == Format::Json {
            return print_json(&rows.collect::<Vec<_>>());
        }
        let mut out = BufWriter::new(io::stdout().lock());
        for row in rows {
            writeln!(out, "{} {}", row.kind, row.path)?;
        }
        Ok(out.flush()?)
    }
}
