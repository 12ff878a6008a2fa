//! `blockbox bench`

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use blockbox::Sandbox;
use blockbox::guest::FSBENCH;
use blockbox::patch::Patch;
use blockbox::process::Overrides;
use blockbox::spec::Network;
use blockbox::store::Store;
use blockbox_fsbench::{ReadAhead, Report};
use clap::{Args, Subcommand};

use super::output::{Format, print_json};
use super::progress::Shown;
use super::pull::Source;
use super::size::size;
use super::{boot, create};

/// Path of the measuring program in the sandbox.
const PROGRAM: &str = "/.blockbox-fsbench";

/// Measure performance.
#[derive(Debug, Subcommand)]
pub(super) enum Bench {
    /// Measure scans, reads, writes and lookups, cold and warm, in a new sandbox of any image or on
    /// this host
    Fs(Fs),
}

/// `bench fs`
#[derive(Debug, Args)]
pub(super) struct Fs {
    /// The image: its name, as for `pull`
    #[arg(value_name = "REFERENCE", required_unless_present_any = ["here", "program"])]
    reference: Option<String>,
    /// Measure on this host, below this folder, with this host's kernel; as root, this drops the
    /// kernel's caches
    #[arg(long, value_name = "DIR", conflicts_with_all = ["reference", "program"])]
    here: Option<PathBuf>,
    /// Write the static program that measures, to run it in a container or on another machine: see
    /// its `--help`
    #[arg(long, value_name = "FILE", conflicts_with = "reference")]
    program: Option<PathBuf>,
    #[command(flatten)]
    workloads: Workloads,
    /// How to print the times
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// The size of the writable disk
    #[arg(long, default_value = "4G", value_parser = size, value_name = "SIZE")]
    upper_size: u64,
    #[command(flatten)]
    options: boot::Options,
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, Args)]
struct Workloads {
    /// How often each workload runs, both cold and warm
    #[arg(long, default_value = "5", value_name = "N")]
    rounds: u32,
    /// Do not drop the kernel's caches: measure warm times only
    #[arg(long)]
    warm: bool,
    /// After dropping the caches, read the beginning of this file or disk before measuring
    #[arg(long, value_name = "FILE:BYTES", requires = "here")]
    read_ahead: Option<ReadAhead>,
    /// Only these workloads
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    only: Vec<String>,
    /// The folder to scan and read [default: the Python standard library]
    #[arg(long, value_name = "DIR")]
    tree: Option<PathBuf>,
    /// The folder to write in [default: /tmp]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

impl Workloads {
    fn options(self, root: &Path) -> blockbox_fsbench::Options {
        let mut options = blockbox_fsbench::Options::new(root);
        options.rounds = self.rounds;
        options.cold = !self.warm;
        options.read_ahead = self.read_ahead;
        options.only = self.only;
        options.tree = self.tree;
        options.scratch = self.scratch;
        options
    }

    /// Returns the same command for a guest, run as root whatever the image's user is.
    fn command(&self) -> Overrides {
        let mut arguments: Vec<OsString> = vec!["--json".into()];
        let mut option = |name: &str, value: &OsStr| {
            arguments.extend([format!("--{name}").into(), value.to_owned()]);
        };
        option("rounds", self.rounds.to_string().as_ref());
        for name in &self.only {
            option("only", name.as_ref());
        }
        for (name, folder) in [("tree", &self.tree), ("scratch", &self.scratch)] {
            if let Some(folder) = folder {
                option(name, folder.as_os_str());
            }
        }
        arguments.extend(self.warm.then(|| "--warm".into()));
        Overrides {
            entrypoint: Some(PROGRAM.into()),
            arguments,
            workdir: Some("/".into()),
            user: Some(String::new()),
            ..Overrides::default()
        }
    }
}

impl Bench {
    pub(super) fn execute(
        self,
        store: impl FnOnce() -> anyhow::Result<Store>,
    ) -> anyhow::Result<()> {
        let Self::Fs(bench) = self;
        bench.execute(store)
    }
}

impl Fs {
    fn execute(self, store: impl FnOnce() -> anyhow::Result<Store>) -> anyhow::Result<()> {
        if let Some(path) = &self.program {
            let write = fs::write(path, FSBENCH);
            return write
                .and_then(|()| fs::set_permissions(path, PermissionsExt::from_mode(0o755)))
                .with_context(|| path.display().to_string());
        }
        let format = self.format;
        let report = match &self.here {
            Some(folder) => {
                let folder = folder.clone();
                blockbox_fsbench::run(&self.workloads.options(&folder))?
            }
            None => self.in_sandbox(&store()?)?,
        };
        match format {
            Format::Json => print_json(&report),
            Format::Table => Ok(write!(io::stdout().lock(), "{report}")?),
        }
    }

    fn in_sandbox(self, store: &Store) -> anyhow::Result<Report> {
        let reference = self.reference.unwrap_or_default();
        let image = create::image(store, &reference, &self.source, Shown::default())?;
        let mut builder = Sandbox::builder(store, &reference, &image)
            .machine(self.options.machine(None)?)
            .upper_size(self.upper_size)
            .process(self.workloads.command())
            .network(Network::none())
            .patches([Patch::write(PROGRAM, FSBENCH).mode(0o755)])
            .remove_on_exit(true);
        if let Some(folders) = self.options.on_disk() {
            builder = builder.on_disk(folders);
        }
        let (_, boot) = builder.launch()?;
        let booted = boot.wait(&mut |_| ())?;
        let (child, completion) = booted.attach(false, None)?;
        let mut output = Vec::new();
        let status = child.stream(&mut output, &mut io::stderr().lock());
        let ended = completion.wait();
        let status = status?;
        ensure!(
            status.success(),
            "the bench ended with status {}",
            status.code()
        );
        if let Some(error) = ended?.error {
            bail!(error);
        }
        serde_json::from_slice(&output).context("the bench's report")
    }
}
