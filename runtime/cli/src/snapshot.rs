//! `blockbox snapshot`

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use blockbox::store::Store;
use blockbox::{Error, Sandbox, Snapshot as Stored};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::damaged;
use super::each::each;
use super::fork::consistency;
use super::outfile::to_file;
use super::output::{Table, bytes, print_json};
use super::progress::Shown;
use super::template::{Output, print_each};
use super::time;

/// Save the state of sandboxes, and make sandboxes from it.
#[derive(Debug, Subcommand)]
pub(super) enum Snapshot {
    /// Save the disk of a sandbox, running or not, or its disk and memory
    Create(Create),
    /// List the snapshots
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Show details of snapshots
    Inspect(Inspect),
    /// Check the disks and memory of snapshots against their digests
    Verify(Verify),
    /// Remove snapshots
    Rm(Rm),
    /// Restore the disk of a stopped sandbox from a snapshot: later changes are lost
    Restore(Restore),
    /// Write a snapshot's disk to a file, without its image and its memory
    Export(Export),
    /// Read a snapshot from a file; its image must be in the store
    Import(Import),
}

/// `snapshot create`
#[derive(Debug, Args)]
pub(super) struct Create {
    /// The sandbox, by name or id
    #[arg(value_name = "NAME")]
    sandbox: String,
    /// The snapshot's name [default: the sandbox's name and the time]
    #[arg(short, long, value_name = "SNAPSHOT")]
    name: Option<String>,
    /// Copy the disk as after a power cut, without waiting for the guest
    #[arg(long)]
    crash: bool,
    /// Also save the memory of a running sandbox that was made with `--forkable`: sandboxes made
    /// from the snapshot continue from this moment, without a boot
    #[arg(long, conflicts_with = "crash")]
    memory: bool,
    #[command(flatten)]
    shown: Shown,
}

/// `snapshot ls`
#[derive(Debug, Args)]
pub(super) struct Ls {
    /// Print only the names
    #[arg(short, long)]
    quiet: bool,
    /// How to print them: table, json, or a template such as `{{.Name}}`
    #[arg(long, default_value = "table")]
    format: Output,
}

/// `snapshot inspect`
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The snapshots, by name or id
    #[arg(required = true, value_name = "SNAPSHOT")]
    names: Vec<String>,
    /// How to print them: json, or a template such as `{{.Id}}`
    #[arg(short, long, default_value = "json", value_name = "FORMAT")]
    format: Output,
}

/// `snapshot verify`
#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    snapshots: Names,
    #[command(flatten)]
    shown: Shown,
}

/// `snapshot rm`
#[derive(Debug, Args)]
pub(super) struct Rm {
    /// The snapshots, by name or id
    #[arg(required = true, value_name = "SNAPSHOT")]
    names: Vec<String>,
    /// Also remove snapshots whose record is damaged, and ignore names that do not exist
    #[arg(short, long)]
    force: bool,
}

/// Several snapshots.
#[derive(Debug, Args)]
pub(super) struct Names {
    /// The snapshots, by name or id
    #[arg(required = true, value_name = "SNAPSHOT")]
    names: Vec<String>,
}

/// `snapshot restore`
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The sandbox, by name or id
    #[arg(value_name = "NAME")]
    sandbox: String,
    /// The snapshot, by name or id
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    #[command(flatten)]
    shown: Shown,
}

/// `snapshot export`
#[derive(Debug, Args)]
pub(super) struct Export {
    /// The snapshot, by name or id
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    /// The file, or `-` for standard output
    #[arg(short, long, default_value = "-", value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    shown: Shown,
}

/// `snapshot import`
#[derive(Debug, Args)]
pub(super) struct Import {
    /// The file, or `-` for standard input
    #[arg(default_value = "-", value_name = "FILE")]
    input: PathBuf,
    /// A new name, instead of the one in the file
    #[arg(short, long, value_name = "SNAPSHOT")]
    name: Option<String>,
    #[command(flatten)]
    shown: Shown,
}

impl Snapshot {
    /// Returns whether this needs no store where there is none yet.
    pub(super) fn only_reads(&self) -> bool {
        matches!(
            self,
            Self::Ls(_) | Self::Inspect(_) | Self::Verify(_) | Self::Rm(_) | Self::Export(_)
        )
    }

    pub(super) fn execute(self, store: &Store) -> anyhow::Result<ExitCode> {
        match self {
            Self::Create(command) => command.execute(store)?,
            Self::Ls(command) => command.execute(store)?,
            Self::Inspect(command) => return command.execute(store),
            Self::Verify(Verify { snapshots, shown }) => {
                return each(&snapshots.names, |name| {
                    let snapshot = Stored::open(store, name)?;
                    let total = snapshot.allocated_bytes()?;
                    let work = shown.work(format!("checking {name}"), Some(total));
                    snapshot.verify(&work.meter())?;
                    work.finish();
                    println!("{name}: sound");
                    Ok(())
                });
            }
            Self::Rm(Rm { names, force }) => {
                return each(&names, |name| {
                    let removed = match force {
                        true => Stored::discard(store, name),
                        false => Stored::open(store, name).and_then(Stored::remove),
                    };
                    match removed {
                        Err(Error::NoSnapshot(_)) if force => return Ok(()),
                        removed => removed?,
                    }
                    println!("{name}");
                    Ok(())
                });
            }
            Self::Restore(command) => {
                let snapshot = Stored::open(store, &command.snapshot)?;
                let sandbox = Sandbox::open(store, &command.sandbox)?;
                let what = format!("restoring {}", command.sandbox);
                let work = command.shown.work(what, None);
                sandbox.restore(&snapshot, &work.meter())?;
                work.finish();
                println!("{}", command.sandbox);
            }
            Self::Export(command) => command.execute(store)?,
            Self::Import(command) => command.execute(store)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Create {
    fn execute(self, store: &Store) -> anyhow::Result<()> {
        let sandbox = Sandbox::open(store, &self.sandbox)?;
        let name = self.name.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let seconds = now.map_or(0, |since| since.as_secs());
            // Names have at most 63 characters.
            let mut name = sandbox.name().to_owned();
            name.truncate(48);
            format!("{name}-{seconds}")
        });
        let work = self.shown.work(format!("copying {}", self.sandbox), None);
        let (snapshot, _) = match self.memory {
            true => sandbox.snapshot_with_memory(&name)?,
            false => sandbox.snapshot(&name, consistency(self.crash), &work.meter())?,
        };
        work.finish();
        println!("{}", snapshot.record().name);
        Ok(())
    }
}

impl Ls {
    fn execute(self, store: &Store) -> anyhow::Result<()> {
        let listing = Stored::list(store)?;
        damaged::warn(&listing.damaged);
        let snapshots = listing.found;
        if self.quiet {
            for snapshot in snapshots {
                println!("{}", snapshot.record().name);
            }
            return Ok(());
        }
        let rows = snapshots
            .iter()
            .map(shown)
            .collect::<anyhow::Result<Vec<_>>>()?;
        match &self.format {
            Output::Json => print_json(&rows),
            Output::Template(template) => print_each(template, &rows),
            Output::Table => {
                let mut table =
                    Table::new(["NAME", "IMAGE", "SANDBOX", "CREATED", "HOLDS", "SIZE"]);
                for snapshot in &snapshots {
                    let record = snapshot.record();
                    table.row([
                        record.name.clone(),
                        record.spec.image.asked.clone(),
                        record.spec.name.clone(),
                        time::ago(record.created_ns),
                        match record.memory {
                            Some(_) if record.warm => "disk, memory, for the pool",
                            Some(_) => "disk, memory",
                            None => "disk",
                        }
                        .to_owned(),
                        bytes(snapshot.allocated_bytes()?),
                    ]);
                }
                table.print()
            }
        }
    }
}

impl Inspect {
    fn execute(self, store: &Store) -> anyhow::Result<ExitCode> {
        let mut found = Vec::new();
        let status = each(&self.names, |name| {
            found.push(shown(&Stored::open(store, name)?)?);
            Ok(())
        })?;
        match &self.format {
            Output::Template(template) => print_each(template, &found)?,
            _ => print_json(&found)?,
        }
        Ok(status)
    }
}

/// Returns the document that `inspect` shows for a snapshot.
fn shown(snapshot: &Stored) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(snapshot.record())?;
    if let Value::Object(fields) = &mut value {
        fields.insert("bytes".to_owned(), json!(snapshot.allocated_bytes()?));
    }
    Ok(value)
}

impl Export {
    fn execute(self, store: &Store) -> anyhow::Result<()> {
        let snapshot = Stored::open(store, &self.snapshot)?;
        if snapshot.record().memory.is_some() {
            let name = &snapshot.record().name;
            eprintln!("blockbox: snapshot {name} is exported without its memory");
        }
        let work = self
            .shown
            .work(format!("exporting {}", self.snapshot), None);
        let meter = work.meter();
        to_file(&self.output, |out| Ok(snapshot.export(meter.measure(out))?))?;
        work.finish();
        Ok(())
    }
}

impl Import {
    fn execute(self, store: &Store) -> anyhow::Result<()> {
        let name = self.name.as_deref();
        let what = format!("importing {}", self.input.display());
        let (work, snapshot) = if self.input == Path::new("-") {
            let work = self.shown.work(what, None);
            let input = work.meter().measure(io::stdin().lock());
            (work, Stored::import(store, name, input)?)
        } else {
            let file = File::open(&self.input).with_context(|| self.input.display().to_string())?;
            let work = self.shown.work(what, length(&file));
            let input = work.meter().measure(file);
            (work, Stored::import(store, name, input)?)
        };
        work.finish();
        println!("{}", snapshot.record().name);
        Ok(())
    }
}

/// Returns the length of a regular file in bytes.
pub(super) fn length(file: &File) -> Option<u64> {
    let found = file.metadata().ok()?;
    found.is_file().then_some(found.len())
}
