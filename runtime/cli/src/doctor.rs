//! `blockbox doctor`

use std::path::PathBuf;
use std::process::ExitCode;

use blockbox::kernel::{InstallOptions, Source};
use blockbox::platform_of;
use blockbox::store::Store;
use blockbox::vmm::hypervisor::Verdict;
use blockbox::vmm::{self, Capabilities, HostReport};
use clap::Args;
use serde::Serialize;

use super::output::{Format, print_json};
use super::progress::Shown;
use super::{hint, kernel};

/// Report what this host supports, and how to install what is missing. Fails if no sandbox can
/// boot.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Check this guest kernel instead of the one that is found
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Install a guest kernel if there is none, as `kernel install` does
    #[arg(long, conflicts_with = "kernel")]
    fix: bool,
    #[command(flatten)]
    shown: Shown,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// The report in JSON.
#[derive(Serialize)]
struct Diagnosis {
    #[serde(flatten)]
    report: HostReport,
    /// What to do about missing parts, one sentence each.
    advice: Vec<String>,
}

impl Doctor {
    /// Returns whether this needs no store where there is none yet.
    pub(super) fn only_reads(&self) -> bool {
        !self.fix
    }

    pub(super) fn execute(self, store: &Store) -> anyhow::Result<ExitCode> {
        // A kernel is made ready, and the verdict kept, in the store, if there is one.
        let aside = match store.kernels().is_dir() {
            true => None,
            false => Some(tempfile::tempdir()?),
        };
        let cache = aside
            .as_ref()
            .map_or_else(|| store.kernels(), |aside| aside.path().to_owned());
        let probe = || vmm::probe(self.kernel.as_deref(), store.root(), &cache, None);
        let mut report = probe();
        if self.fix && report.kernel.is_none() {
            let pull = ocipull::Options::default();
            let options = InstallOptions::default();
            kernel::install(store, &Source::Package, options, pull, self.shown)?;
            report = probe();
        }
        let mut advice = hint::advice(&report);
        if let Err(error) = store.references().read() {
            advice.push(format!("{}.", hint::text(&error.into())));
        }
        let status = if report.chosen.is_some() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
        if self.format == Format::Json {
            print_json(&Diagnosis { report, advice })?;
            return Ok(status);
        }
        println!("host       {} {}", report.os, report.arch);
        let hypervisor = match &report.hypervisor {
            Verdict::Works => "works".to_owned(),
            Verdict::Fails { reason } => format!("does not work: {reason}"),
        };
        println!("{:10} {hypervisor}", report.hypervisor_name);
        let kernel = report
            .kernel
            .as_ref()
            .map_or("not found".to_owned(), |path| path.display().to_string());
        println!("kernel     {kernel}");
        let qemu = match (&report.qemu, &report.qemu_version) {
            (Some(path), Some(version)) => format!("{} ({version})", path.display()),
            (Some(path), None) => format!("{} (does not run)", path.display()),
            (None, _) => "not found".to_owned(),
        };
        println!("QEMU       {qemu}");
        for (monitor, can) in &report.capabilities {
            println!("{monitor:10} {}", capabilities(can));
        }
        for emulation in &report.emulated {
            let name = platform_of(emulation.arch).architecture;
            let with = match (&emulation.qemu, &emulation.kernel, &emulation.problem) {
                (Some(qemu), Some(kernel), None) => {
                    format!("emulated by {} with {}", qemu.display(), kernel.display())
                }
                (_, _, problem) => {
                    let problem = problem.as_deref().unwrap_or_default();
                    let hint = hint::emulation(emulation).unwrap_or_default();
                    format!("not emulated: {problem}{hint}")
                }
            };
            println!("{name:10} {with}");
        }
        println!(
            "confined   {} (virtual machines, gateways)",
            report.confinement
        );
        println!("store      {}", store.root().display());
        println!(
            "boots with {}",
            report.chosen.as_deref().unwrap_or("nothing")
        );
        if let Some(problem) = &report.kernel_problem {
            println!("\nThe guest kernel is unusable: {problem}.");
        }
        for advice in &advice {
            println!("\n{advice}");
        }
        Ok(status)
    }
}

/// Describes the capabilities of a monitor in one line.
fn capabilities(can: &Capabilities) -> String {
    let devices = format!("{} disks, network cards and shares", can.devices);
    let mut words = vec![devices];
    let mut add = |has: bool, yes: &str, no: &str| {
        let word = if has { yes } else { no };
        if !word.is_empty() {
            words.push(word.to_owned());
        }
    };
    add(can.shares, "", "no shares without virtiofsd");
    add(can.memory_snapshots, "memory snapshots", "");
    add(can.free_page_reporting, "gives freed memory back", "");
    add(
        can.pauses_when_full,
        "pauses when the host's disk is full",
        "",
    );
    words.join(", ")
}
