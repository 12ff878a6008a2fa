//! `blockbox ps`

use blockbox::sandbox;
use blockbox::store::Store;
use clap::Args;

use super::output::{Format, Table, bytes, print_json};

/// List the sandboxes.
#[derive(Debug, Args)]
pub(super) struct Ps {
    /// How to print them
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Print only the names
    #[arg(short, long)]
    quiet: bool,
}

impl Ps {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        let sandboxes = sandbox::list(store)?;
        if self.quiet {
            sandboxes
                .iter()
                .for_each(|sandbox| println!("{}", sandbox.name));
            return Ok(());
        }
        match self.format {
            Format::Json => print_json(&sandboxes),
            Format::Table => {
                let mut table = Table::new(["NAME", "IMAGE", "STATUS", "WRITTEN"]);
                for sandbox in sandboxes {
                    let status = if sandbox.is_running(store)? {
                        "running"
                    } else {
                        "stopped"
                    };
                    let written = bytes(sandbox.allocated_bytes(store)?);
                    table.row([sandbox.name, sandbox.image, status.to_owned(), written]);
                }
                table.print()
            }
        }
    }
}
