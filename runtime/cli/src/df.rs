//! `blockbox df`

use blockbox::store::Store;
use blockbox::usage;
use clap::Args;

use super::output::{Table, bytes, print_json};
use super::template::{Output, print_each};

/// Show how much space images, layers, sandboxes and volumes take on this host.
#[derive(Debug, Args)]
pub(super) struct Df {
    /// How to print it: table, json, or a template such as `{{.Layers.Bytes}}`
    #[arg(long, default_value = "table")]
    format: Output,
}

impl Df {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        let report = usage::report(store)?;
        match &self.format {
            Output::Json => print_json(&report),
            Output::Template(template) => print_each(template, &[report]),
            Output::Table => {
                let mut table = Table::new(["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
                for (name, usage) in [
                    ("Images", report.images),
                    ("Layers", report.layers),
                    ("Sandboxes", report.sandboxes),
                    ("Volumes", report.volumes),
                    ("Kernels", report.kernels),
                ] {
                    let (count, active) = (usage.count.to_string(), usage.active.to_string());
                    let (size, free) = (bytes(usage.bytes), bytes(usage.reclaimable));
                    table.row([name.to_owned(), count, active, size, free]);
                }
                table.print()
            }
        }
    }
}
