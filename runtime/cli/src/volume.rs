//! `blockbox volume …`

use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use blockbox::store::Store;
use blockbox::volume::{self, Info, SIZE, Volume};
use clap::{Args, Subcommand, ValueEnum};

use super::damaged;
use super::each::each;
use super::input::input;
use super::outfile::{self, to_file};
use super::output::{Table, bytes, print_json};
use super::progress::Shown;
use super::size::volume_size;
use super::snapshot::length;
use super::template::{Output, print_each};

/// Named volumes: disks that outlive the sandboxes that mount them.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an empty volume, and print its name
    Create(Create),
    /// List the volumes
    Ls(Ls),
    /// Remove volumes and all that is in them
    Rm(Rm),
    /// Show details of volumes, and which sandboxes mount them
    Inspect(Inspect),
    /// Enlarge a volume, while no running sandbox uses it
    Grow(Grow),
    /// Remove all volumes that no sandbox mounts
    Prune(Prune),
    /// Write the files of a volume to a tar archive, or its disk to a file
    Export(Export),
    /// Make a volume from a tar archive, or from an exported disk
    Import(Import),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// The volume's name
    name: String,
    /// The size of its file system; it takes space on the host only as it is written [default: 16G]
    #[arg(long, value_parser = volume_size, value_name = "SIZE")]
    size: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct Ls {
    /// Print only the names
    #[arg(short, long)]
    quiet: bool,
    /// How to print them: table, json, or a template such as `{{.Name}}`
    #[arg(long, default_value = "table")]
    format: Output,
}

#[derive(Debug, Args)]
pub(super) struct Rm {
    /// The volumes
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The volumes
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// How to print them: json, or a template such as `{{.Path}}`
    #[arg(short, long, default_value = "json", value_name = "FORMAT")]
    format: Output,
}

#[derive(Debug, Args)]
pub(super) struct Grow {
    /// The volume
    name: String,
    /// The new size
    #[arg(long, value_parser = volume_size, value_name = "SIZE")]
    size: u64,
}

#[derive(Debug, Args)]
pub(super) struct Prune {
    /// Accepted for compatibility with docker: no question is asked
    #[arg(short, long, hide = true)]
    force: bool,
    /// How to print what was removed: table, json, or a template such as `{{.Name}}`
    #[arg(long, default_value = "table")]
    format: Output,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A tar archive of the files
    #[default]
    Tar,
    /// The ext4 image
    Ext4,
}

#[derive(Debug, Args)]
pub(super) struct Export {
    /// The volume
    name: String,
    /// The file to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What to write
    #[arg(long, value_enum, default_value_t)]
    kind: Kind,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Debug, Args)]
pub(super) struct Import {
    /// The volume to make
    name: String,
    /// The archive, which may be gzip or zstd; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The kind of file
    #[arg(long, value_enum, default_value_t)]
    kind: Kind,
    /// The size of the volume's file system [default: 16G, or the disk's]
    #[arg(long, value_parser = volume_size, value_name = "SIZE")]
    size: Option<u64>,
    #[command(flatten)]
    shown: Shown,
}

impl Command {
    /// Returns whether this needs no store where there is none yet.
    pub(super) fn only_reads(&self) -> bool {
        matches!(
            self,
            Self::Ls(_) | Self::Rm(_) | Self::Inspect(_) | Self::Grow(_) | Self::Export(_)
        )
    }

    pub(super) fn execute(self, store: &Store) -> anyhow::Result<ExitCode> {
        match self {
            Self::Create(create) => {
                let size = create.size.unwrap_or(SIZE);
                println!("{}", Volume::create(store, &create.name, size)?.name());
            }
            Self::Ls(ls) => {
                let listing = volume::infos(store)?;
                damaged::warn(&listing.damaged);
                let infos = listing.found;
                if ls.quiet {
                    infos.iter().for_each(|info| println!("{}", info.name));
                } else {
                    print(&infos, &ls.format)?;
                }
            }
            Self::Rm(rm) => {
                return each(&rm.names, |name| {
                    Volume::open(store, name)?.remove()?;
                    println!("{name}");
                    Ok(())
                });
            }
            Self::Inspect(inspect) => {
                let mut infos = Vec::new();
                let status = each(&inspect.names, |name| {
                    infos.push(Volume::open(store, name)?.info()?);
                    Ok(())
                })?;
                match inspect.format {
                    Output::Template(template) => print_each(&template, &infos)?,
                    _ => print_json(&infos)?,
                }
                return Ok(status);
            }
            Self::Grow(grow) => Volume::open(store, &grow.name)?.grow(grow.size)?,
            Self::Prune(prune) => {
                let removed = volume::prune(store)?;
                damaged::warn(&removed.damaged);
                print(&removed.found, &prune.format)?;
            }
            Self::Export(export) => export.execute(store)?,
            Self::Import(import) => import.execute(store)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Export {
    fn execute(self, store: &Store) -> anyhow::Result<()> {
        let volume = Volume::open(store, &self.name)?;
        let work = self.shown.work(format!("exporting {}", self.name), None);
        let meter = work.meter();
        match (self.output, self.kind) {
            (Some(path), Kind::Tar) => {
                to_file(&path, |out| Ok(volume.export(meter.measure(out))?))?;
            }
            (Some(path), Kind::Ext4) => {
                if std::fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
                    bail!("{} is not a regular file: a disk has holes", path.display());
                }
                outfile::write(&path, |file| -> anyhow::Result<()> {
                    Ok(volume.export_disk(file.as_file(), &meter)?)
                })?;
            }
            (None, Kind::Ext4) => bail!("name the file with --output: a disk has holes"),
            (None, Kind::Tar) if io::stdout().is_terminal() => {
                bail!("name the file with --output: this is a terminal")
            }
            (None, Kind::Tar) => volume.export(meter.measure(io::stdout().lock()))?,
        }
        work.finish();
        Ok(())
    }
}

impl Import {
    fn execute(self, store: &Store) -> anyhow::Result<()> {
        let what = format!("importing {}", self.file.display());
        let (work, volume) = match self.kind {
            Kind::Tar => {
                let (name, input) = input(&self.file)?;
                let size = self.size.unwrap_or(SIZE);
                let total = File::open(&self.file).ok().as_ref().and_then(length);
                let work = self.shown.work(what, total);
                let input = work.meter().measure(input);
                let volume = Volume::import(store, &self.name, size, input, &name)?;
                (work, volume)
            }
            Kind::Ext4 => {
                File::open(&self.file).with_context(|| self.file.display().to_string())?;
                let work = self.shown.work(what, None);
                let (name, meter) = (&self.name, &work.meter());
                let volume = Volume::import_disk(store, name, &self.file, self.size, meter)?;
                (work, volume)
            }
        };
        work.finish();
        println!("{}", volume.name());
        Ok(())
    }
}

fn print(infos: &[Info], format: &Output) -> anyhow::Result<()> {
    match format {
        Output::Json => print_json(&infos),
        Output::Template(template) => print_each(template, infos),
        Output::Table => {
            let mut table = Table::new(["NAME", "SIZE", "ALLOCATED", "SANDBOXES"]);
            for info in infos {
                let sandboxes = info.sandboxes.join(", ");
                let (size, allocated) = (bytes(info.size), bytes(info.allocated));
                table.row([info.name.clone(), size, allocated, sandboxes]);
            }
            table.print()
        }
    }
}
