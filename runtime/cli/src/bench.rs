//! `blockbox bench`

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use blockbox::guest::{ExecSpec, FSBENCH};
use blockbox::sandbox::{Running, Sandbox, Upper};
use blockbox::store::Store;
use blockbox_fsbench::{ReadAhead, Report};
use clap::{Args, Subcommand};

use super::output::{Format, print_json};
use super::pull::Source;
use super::size::size;
use super::{boot, run};

/// Where the program is in the sandbox.
const PROGRAM: &str = "/.blockbox-fsbench";

/// Measure.
#[derive(Debug, Subcommand)]
pub(super) enum Bench {
    /// Scans, reads, writes and lookups, cold and warm, in a new sandbox of any image; or here
    Fs(Fs),
}

/// `bench fs`
#[derive(Debug, Args)]
pub(super) struct Fs {
    /// The image: its name, as for `pull`
    #[arg(value_name = "REFERENCE", required_unless_present_any = ["here", "program"])]
    reference: Option<String>,
    /// Measure the system below this folder instead, on this machine's kernel; as root, this empties its caches
    #[arg(long, value_name = "DIR", conflicts_with_all = ["reference", "program"])]
    here: Option<PathBuf>,
    /// Write the static program that measures, for use in a container or another machine: see its --help
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
    /// How often each workload runs, cold and warm each
    #[arg(long, default_value = "5", value_name = "N")]
    rounds: u32,
    /// Leave the kernel's caches alone: warm times only
    #[arg(long)]
    warm: bool,
    /// When the caches were emptied, fetch the beginning of this file or disk before the clock starts
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

    /// The same for the program in a guest.
    fn command(&self) -> ExecSpec {
        let mut args = vec![PROGRAM.into(), b"--json".to_vec()];
        let mut option = |name: &str, value: &[u8]| {
            args.extend([format!("--{name}").into_bytes(), value.to_vec()]);
        };
        option("rounds", self.rounds.to_string().as_bytes());
        for name in &self.only {
            option("only", name.as_bytes());
        }
        for (name, folder) in [("tree", &self.tree), ("scratch", &self.scratch)] {
            if let Some(folder) = folder {
                option(name, folder.as_os_str().as_encoded_bytes());
            }
        }
        args.extend(self.warm.then(|| b"--warm".to_vec()));
        ExecSpec::new(args)
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
        let image = run::image(store, &reference, &self.source)?;
        let upper = Upper {
            size: self.upper_size,
            programs: &[(PROGRAM, FSBENCH)],
        };
        let sandbox = Sandbox::create_with(store, None, &reference, &image, upper)?;
        let report = self
            .options
            .start(store, &sandbox, &image)
            .map_err(anyhow::Error::from)
            .and_then(|running| measure(running, &self.workloads.command()));
        sandbox.remove()?;
        report
    }
}

/// Runs the program to its end, and switches the machine off.
fn measure(running: Running, command: &ExecSpec) -> anyhow::Result<Report> {
    let mut output = Vec::new();
    let exec = running.exec(command);
    let status = exec.and_then(|exec| Ok(exec.stream(&mut output, &mut io::stderr().lock())?));
    let stopped = running.stop();
    let status = status?;
    ensure!(
        status.success(),
        "the bench ended with status {}",
        status.code()
    );
    stopped?;
    serde_json::from_slice(&output).context("the bench's report")
}
