//! The `blockbox` command: one module per subcommand, each a thin layer over the library.

mod attach;
mod bench;
mod boot;
mod doctor;
mod erofs;
mod ext4;
mod hint;
mod history;
mod image;
mod images;
mod input;
mod output;
mod progress;
mod ps;
mod pull;
mod rm;
mod rmi;
mod run;
mod size;
mod start;
mod vmdk;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use blockbox::store::Store;
use clap::{Parser, Subcommand};

/// The exit status of an error of blockbox itself while running a sandbox, as docker's.
const EXIT_RUN_FAILED: u8 = 125;

/// Turn container images into disks, and boot them in microVMs.
#[derive(Debug, Parser)]
#[command(name = "blockbox", version, max_term_width = 100)]
struct Arguments {
    /// The folder of images and sandboxes [default: blockbox in the XDG data folder]
    #[arg(
        long,
        global = true,
        env = "BLOCKBOX_HOME",
        value_name = "DIR",
        hide_env_values = true
    )]
    home: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Get an image and make its disks
    Pull(pull::Pull),
    /// Run a command in a new sandbox
    Run(run::Run),
    /// Run a command in a sandbox that is there already
    Start(start::Start),
    /// List the images
    Images(images::Images),
    /// Show one image
    #[command(subcommand)]
    Image(image::Image),
    /// Remove images
    Rmi(rmi::Rmi),
    /// List the sandboxes
    Ps(ps::Ps),
    /// Remove sandboxes
    Rm(rm::Rm),
    /// Say what this host can do, and how to get what is missing
    Doctor(doctor::Doctor),
    /// Measure what programs in a sandbox feel
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Make and read EROFS images
    #[command(subcommand)]
    Erofs(erofs::Erofs),
    /// Make ext4 images
    #[command(subcommand)]
    Ext4(ext4::Ext4),
    /// Make and read VMDK disks
    #[command(subcommand)]
    Vmdk(vmdk::Vmdk),
}

/// Runs the command line of this process.
fn main() -> ExitCode {
    if let Some(status) = blockbox::vmm::helper::run_if_asked() {
        return status;
    }
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("BLOCKBOX_LOG")
                .unwrap_or_else(|_| "warn".into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
    let failed = if matches!(arguments.command, Command::Run(_) | Command::Start(_)) {
        EXIT_RUN_FAILED
    } else {
        1
    };
    match execute(arguments) {
        Ok(status) => status,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let hint = hint::hint(&error).map_or_else(String::new, |hint| format!(": {hint}"));
            eprintln!("blockbox: {}{hint}", output::message(&error));
            ExitCode::from(failed)
        }
    }
}

fn execute(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let home = arguments.home;
    let store = || -> anyhow::Result<Store> {
        let root = home
            .or_else(Store::default_root)
            .ok_or_else(|| anyhow::anyhow!("no home folder: set BLOCKBOX_HOME"))?;
        Ok(Store::open(root)?)
    };
    match arguments.command {
        Command::Pull(command) => command.execute(&store()?),
        Command::Run(command) => return command.execute(&store()?),
        Command::Start(command) => return command.execute(&store()?),
        Command::Images(command) => command.execute(&store()?),
        Command::Image(command) => command.execute(&store()?),
        Command::Rmi(command) => command.execute(&store()?),
        Command::Ps(command) => command.execute(&store()?),
        Command::Rm(command) => command.execute(&store()?),
        Command::Doctor(command) => return command.execute(&store()?),
        Command::Bench(command) => command.execute(store),
        Command::Erofs(command) => return command.execute(),
        Command::Ext4(command) => command.execute(),
        Command::Vmdk(command) => command.execute(),
    }?;
    Ok(ExitCode::SUCCESS)
}
