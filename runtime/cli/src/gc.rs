//! `blockbox gc`

use blockbox::collect::Collected;
use blockbox::store::Store;
use clap::Args;

use super::output::{bytes, print_json};
use super::template::{Output, print_each};

/// Remove what is no longer needed: images without a name that no sandbox uses, layers of
/// interrupted pulls, temporary files, kernels of other versions. Waits until no other process
/// pulls or removes.
#[derive(Debug, Args)]
pub(super) struct Gc {
    /// How to print what was removed: table, json, or a template such as `{{.Bytes}}`
    #[arg(long, default_value = "table")]
    format: Output,
}

impl Gc {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        print(&blockbox::collect::collect(store)?, &self.format)
    }
}

/// Prints what was removed.
pub(super) fn print(collected: &Collected, format: &Output) -> anyhow::Result<()> {
    for user in &collected.unknown_use {
        eprintln!("warning: all images are kept: the record of {user} cannot be read");
    }
    match format {
        Output::Json => return print_json(collected),
        Output::Template(template) => return print_each(template, &[collected]),
        Output::Table => {}
    }
    for name in collected.names.iter().chain(&collected.images) {
        println!("{name}");
    }
    for file in &collected.files {
        println!("{}", file.display());
    }
    println!("{} freed", bytes(collected.bytes));
    Ok(())
}
