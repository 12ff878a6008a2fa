//! Developer commands: `cargo xtask demo`, `cargo xtask test`, …
//!
//! Each command is one module. Commands that need programs of the system call [`setup`] first,
//! which does nothing if all are installed.

mod api;
mod bench;
mod blockbox;
#[cfg(test)]
mod circles;
mod containerd;
mod cross;
mod demo;
mod dist;
mod docker;
mod features;
mod fuzz;
mod image;
mod outer;
mod package;
mod registry;
mod service;
mod setup;
mod share;
mod shell;
mod stages;
mod stress;
mod system;
mod test;
mod test_program;
mod trial;
mod uml;
mod vm_test;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "Developer commands")]
enum Xtask {
    /// Install missing programs that the other commands need, with the reason for each
    Setup,
    /// Build an image, push it to a registry, pull it and run it
    Demo,
    /// Build the demo image (Debian, Python and small layers) as an OCI layout
    Image,
    /// Set up, then run every check and every test
    Test,
    /// Measure blockbox and its peers side by side
    Bench(bench::Bench),
    /// Run a command and print its time and memory in JSON; used by `bench`
    #[command(hide = true)]
    Measure {
        /// The file that the command writes
        #[arg(long)]
        output: Option<PathBuf>,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Build an archive of the command with its completions and man pages
    Dist,
    /// Test and build the published crates from their own archives, and with the oldest compilers
    Package,
    /// Check every published crate with each of its features alone
    Features,
    /// Upload the published crates to the registry
    Publish(package::Publish),
    /// Compare the public interfaces of the published libraries with the lists in docs/api
    Api(api::Api),
    /// Test the libraries for other processors under emulation, and check them for other systems
    Cross(cross::Cross),
    /// Pull, mount and run what blockbox pushes with containerd, and compare the trees
    Containerd(containerd::Containerd),
    /// Have a Docker engine load and run what blockbox saves, and blockbox take what it has
    Docker {
        /// The blockbox to test, instead of a release build
        #[arg(long)]
        blockbox: Option<PathBuf>,
    },
    /// Fuzz the parsers of untrusted bytes
    Fuzz(fuzz::Fuzz),
    /// Kill clients and monitors at random moments, and use many sandboxes at once, for some
    /// minutes
    Stress(stress::Stress),
    /// Run a program under User Mode Linux, a second kernel
    Uml {
        /// The time limit
        #[arg(long, default_value = "20")]
        minutes: u64,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
    /// Run tests that take too long for every run of the tests
    #[command(subcommand)]
    Trial(trial::Trial),
    /// Run sandboxes under the real libkrun, if needed in a machine that QEMU emulates
    VmTest {
        /// The blockbox to run, instead of a release build
        #[arg(long)]
        blockbox: Option<PathBuf>,
        /// Run only the checks whose rule contains this
        #[arg(long, value_name = "TEXT", default_value = "")]
        only: String,
        /// Run this integration test of the command instead, in the emulated machine
        #[arg(long, value_name = "NAME", conflicts_with_all = ["blockbox", "only"])]
        test: Option<String>,
        /// Arguments of that test's harness: parts of names, `--ignored`
        #[arg(last = true, requires = "test")]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    run(Xtask::parse()).unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(command: Xtask) -> Result<ExitCode> {
    match command {
        Xtask::Setup => {
            setup::run()?;
        }
        Xtask::Demo => demo::run()?,
        Xtask::Image => {
            setup::run()?;
            image::demo().build()?;
        }
        Xtask::Test => return test::run(),
        Xtask::Bench(bench) => bench::run(&bench)?,
        Xtask::Measure { output, command } => bench::helper(&command, output)?,
        Xtask::Dist => dist::run()?,
        Xtask::Package => {
            setup::compilers()?;
            package::run()?;
        }
        Xtask::Features => features::run()?,
        Xtask::Publish(options) => options.run()?,
        Xtask::Api(options) => {
            setup::compiler(api::COMPILER, "public interfaces are listed with it");
            options.run()?;
        }
        Xtask::Cross(cross) => cross.run()?,
        Xtask::Containerd(options) => return containerd::run(&options),
        Xtask::Docker { blockbox } => docker::run(blockbox.as_deref())?,
        Xtask::Fuzz(options) => fuzz::run(&options)?,
        Xtask::Stress(options) => stress::run(&options)?,
        Xtask::Uml { minutes, command } => {
            return uml::run(&command, Duration::from_secs(60 * minutes));
        }
        Xtask::Trial(trial) => return trial::run(trial),
        Xtask::VmTest {
            blockbox,
            only,
            test,
            arguments,
        } => {
            return match test {
                Some(test) => vm_test::suite::run(&test, &arguments),
                None => vm_test::run(blockbox, &only),
            };
        }
    }
    Ok(ExitCode::SUCCESS)
}
