//! The `blockbox` command: one module per subcommand, each a thin layer over the library.

#[macro_use]
mod print;

mod attach;
mod bench;
mod boot;
mod change;
mod commit;
mod convert;
mod copy;
mod cp;
mod create;
mod damaged;
mod df;
mod diff;
mod disk;
mod doctor;
mod duration;
mod each;
mod env_file;
mod erofs;
mod events;
mod exec;
mod export;
mod ext4;
mod foreground;
mod fork;
mod gc;
mod hint;
mod history;
mod image;
mod images;
mod input;
mod inspect;
mod kernel;
mod load;
mod login;
mod logs;
mod manual;
mod mask;
mod net;
mod network;
mod open_files;
mod outfile;
mod output;
mod patches;
mod port;
mod progress;
mod prune;
mod ps;
mod pull;
mod rmi;
mod run;
mod save;
mod signals;
mod size;
mod snapshot;
mod start;
mod stats;
mod stop;
mod storage;
mod streams;
mod tag;
mod template;
mod terminal;
mod time;
mod uuid;
mod verify;
mod vmdk;
mod volume;
mod warm;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use blockbox::store::Store;
use clap::{CommandFactory, Parser, Subcommand};

/// The exit status of blockbox's own errors while running a sandbox, as docker's.
const EXIT_RUN_FAILED: u8 = 125;

/// Turn container images into disks, and boot them in microVMs.
#[derive(Debug, Parser)]
#[command(name = "blockbox", version, max_term_width = 100)]
// The last of an option that is given twice counts, as docker has it.
#[command(args_override_self = true)]
struct Arguments {
    /// The folder of images and sandboxes [default: $BLOCKBOX_HOME, else blockbox in the XDG data
    /// folder]
    #[arg(long, global = true, value_name = "DIR")]
    home: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
// Builds the options of the given command only: building those of all takes longer than many a
// command itself.
#[command(defer = true)]
enum Command {
    /// Pull an image and make its disks
    Pull(pull::Pull),
    /// Run a command in a new sandbox
    Run(Box<run::Run>),
    /// Make a sandbox without starting it
    Create(Box<create::Create>),
    /// Start a sandbox, or run another command in it
    Start(Box<start::Start>),
    /// Run a command in a running sandbox
    Exec(exec::Exec),
    /// Connect to the command of a running sandbox
    Attach(attach::Attach),
    /// Show what the command of a sandbox wrote
    Logs(logs::Logs),
    /// Stop sandboxes
    Stop(stop::Stop),
    /// Stop sandboxes and start them again
    Restart(stop::Restart),
    /// Send a signal to the commands of sandboxes
    Kill(stop::Kill),
    /// Wait until sandboxes have ended
    Wait(stop::Wait),
    /// Copy files between this host and a sandbox
    Cp(cp::Cp),
    /// List what changed in a sandbox since its image
    Diff(diff::Diff),
    /// Write all files of a sandbox as a tar archive
    Export(export::Export),
    /// Make an image of a sandbox
    Commit(commit::Commit),
    /// Load all images of an archive
    Load(load::Load),
    /// Write images to an archive that docker, podman and skopeo load
    Save(save::Save),
    /// Copy an image between registries, layouts and archives unchanged
    Copy(copy::Copy),
    /// Make the EROFS-native form of an image
    Convert(Box<convert::Convert>),
    /// Push an image of the store as an EROFS-native image
    Push(Box<convert::Push>),
    /// Check credentials with a registry, and store them
    Login(login::Login),
    /// Remove the stored credentials for a registry
    Logout(login::Logout),
    /// List the images
    Images(images::Images),
    /// Show and manage images
    #[command(subcommand)]
    Image(image::Image),
    /// Remove images
    Rmi(rmi::Rmi),
    /// Give an image another name
    Tag(tag::Tag),
    /// Remove what is no longer needed: images without a name, layers of interrupted pulls,
    /// temporary files
    Gc(gc::Gc),
    /// Show how much space images, layers and sandboxes take
    Df(df::Df),
    /// List the sandboxes
    Ps(ps::Ps),
    /// Remove sandboxes
    Rm(stop::Rm),
    /// Show details of sandboxes, images and volumes
    Inspect(inspect::Inspect),
    /// Show what running sandboxes use
    Stats(stats::Stats),
    /// List the processes of a running sandbox
    Top(stats::Top),
    /// Show where ports are published
    Port(port::Port),
    /// Show connections and denials
    Net(net::Net),
    /// Give a sandbox another name
    Rename(stop::Rename),
    /// Save the state of sandboxes, and make sandboxes from it
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    /// Make sandboxes with a copy of another sandbox's disk
    Fork(fork::Fork),
    /// Keep a warmed-up machine of an image, for `run --from-pool`
    Warm(Box<warm::Warm>),
    /// Show what happens to sandboxes
    Events(events::Events),
    /// Named volumes: disks that outlive sandboxes
    #[command(subcommand)]
    Volume(volume::Command),
    /// Report what this host supports, and how to install what is missing
    Doctor(doctor::Doctor),
    /// Install and list guest kernels
    #[command(subcommand)]
    Kernel(kernel::Kernel),
    /// Measure performance in a sandbox
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Make disks for other virtual machine monitors
    #[command(subcommand)]
    Disk(disk::Disk),
    /// Make and read EROFS images
    #[command(subcommand)]
    Erofs(erofs::Erofs),
    /// Make ext4 images
    #[command(subcommand)]
    Ext4(ext4::Ext4),
    /// Make and read VMDK disks
    #[command(subcommand)]
    Vmdk(vmdk::Vmdk),
    /// Print the completions of a shell
    Completion(manual::Completion),
    /// Write the man pages
    Man(manual::Man),
}

impl Command {
    /// Returns whether this writes to the store and has no handler of signals of its own.
    fn writes_store(&self) -> bool {
        matches!(
            self,
            Self::Pull(_)
                | Self::Create(_)
                | Self::Cp(_)
                | Self::Commit(_)
                | Self::Load(_)
                | Self::Convert(_)
                | Self::Push(_)
                | Self::Image(_)
                | Self::Snapshot(_)
                | Self::Fork(_)
                | Self::Volume(_)
                | Self::Kernel(_)
        )
    }

    /// Returns whether this needs no store where there is none yet.
    fn only_reads(&self) -> bool {
        match self {
            Self::Start(_)
            | Self::Exec(_)
            | Self::Attach(_)
            | Self::Logs(_)
            | Self::Stop(_)
            | Self::Restart(_)
            | Self::Kill(_)
            | Self::Wait(_)
            | Self::Cp(_)
            | Self::Diff(_)
            | Self::Export(_)
            | Self::Images(_)
            | Self::Df(_)
            | Self::Ps(_)
            | Self::Rm(_)
            | Self::Inspect(_)
            | Self::Stats(_)
            | Self::Top(_)
            | Self::Port(_)
            | Self::Net(_)
            | Self::Events(_) => true,
            Self::Doctor(doctor) => doctor.only_reads(),
            Self::Image(image) => image.only_reads(),
            Self::Volume(volume) => volume.only_reads(),
            Self::Snapshot(snapshot) => snapshot.only_reads(),
            Self::Kernel(kernel) => kernel.only_reads(),
            _ => false,
        }
    }
}

/// Runs the command line of this process.
fn main() -> ExitCode {
    if let Some(status) = blockbox::helper::run_if_asked() {
        return status;
    }
    open_files::allow_as_many_as_possible();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(error),
    };
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("BLOCKBOX_LOG")
                .unwrap_or_else(|_| "warn".into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        // If standard error cannot be written to, the logger would report that there, and panic.
        .log_internal_errors(false)
        .with_target(false)
        .init();
    let by_name = matches!(arguments.command, Command::Start(_) | Command::Attach(_));
    let failed = match arguments.command {
        Command::Run(_)
        | Command::Create(_)
        | Command::Start(_)
        | Command::Exec(_)
        | Command::Attach(_) => EXIT_RUN_FAILED,
        _ => 1,
    };
    match execute(arguments).and_then(|status| print::written().map(|()| status)) {
        Ok(status) => status,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            hint::print(&error);
            let none = |cause: &blockbox::Error| matches!(cause, blockbox::Error::NoSandbox(_));
            let mut causes = error.chain();
            match causes.any(|cause| cause.downcast_ref().is_some_and(none)) {
                // Docker's exit status for an unknown name, if no command was named.
                true if by_name => ExitCode::FAILURE,
                _ => ExitCode::from(failed),
            }
        }
    }
}

/// Prints help, or an error of usage. For subcommands whose exit status is that of a command in a
/// sandbox, an error of usage has docker's exit status for blockbox's own errors.
fn usage(mut error: clap::Error) -> ExitCode {
    use clap::error::{ContextKind, ErrorKind};

    let name = std::env::args_os()
        .skip(1)
        .find(|arg| !arg.as_encoded_bytes().starts_with(b"-"));
    let runs = ["run", "create", "start", "exec", "attach"]
        .into_iter()
        .any(|command| name.as_deref() == Some(command.as_ref()));
    if runs && error.kind() == ErrorKind::UnknownArgument {
        // clap would suggest passing docker's options to the command.
        error.remove(ContextKind::Suggested);
    }
    let text = error.render().to_string();
    let masked = mask::masked(text.clone());
    if masked == text {
        // The terminal may be gone.
        let _ = error.print();
    } else {
        eprint!("{masked}");
    }
    match error.exit_code() {
        0 => ExitCode::SUCCESS,
        _ if runs => ExitCode::from(EXIT_RUN_FAILED),
        code => ExitCode::from(u8::try_from(code).unwrap_or(2)),
    }
}

fn execute(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let home = arguments.home;
    let root = || {
        home.or_else(Store::default_root)
            .ok_or_else(|| anyhow::anyhow!("no home folder: set BLOCKBOX_HOME"))
    };
    // Commands that make nothing do not make a store either, for instance where a mistyped path
    // leads.
    let reads = arguments.command.only_reads();
    let store = || -> anyhow::Result<Store> {
        Ok(match reads {
            true => Store::open_existing(root()?)?,
            false => Store::open(root()?)?,
        })
    };
    if arguments.command.writes_store() {
        signals::clean_up();
    }
    match arguments.command {
        Command::Pull(command) => command.execute(&store()?),
        Command::Run(command) => return command.execute(&store()?),
        Command::Create(command) => command.execute(&store()?),
        Command::Start(command) => return command.execute(&store()?),
        Command::Exec(command) => return command.execute(&store()?),
        Command::Attach(command) => return command.execute(&store()?),
        Command::Logs(command) => command.execute(&store()?),
        Command::Stop(command) => return command.execute(&store()?),
        Command::Restart(command) => return command.execute(&store()?),
        Command::Kill(command) => return command.execute(&store()?),
        Command::Wait(command) => return command.execute(&store()?),
        Command::Inspect(command) => return command.execute(&store()?),
        Command::Stats(command) => command.execute(&store()?),
        Command::Top(command) => command.execute(&store()?),
        Command::Port(command) => command.execute(&store()?),
        Command::Net(command) => command.execute(&store()?),
        Command::Rename(command) => command.execute(&store()?),
        Command::Snapshot(command) => return command.execute(&store()?),
        Command::Fork(command) => command.execute(&store()?),
        Command::Warm(command) => return command.execute(&store()?),
        Command::Events(command) => command.execute(&store()?),
        Command::Cp(command) => command.execute(&store()?),
        Command::Diff(command) => command.execute(&store()?),
        Command::Export(command) => command.execute(&store()?),
        Command::Commit(command) => command.execute(&store()?),
        Command::Load(command) => command.execute(&store()?),
        Command::Save(command) => command.execute(&store()?),
        Command::Copy(command) => command.execute(),
        Command::Convert(command) => command.execute(&store()?),
        Command::Push(command) => command.execute(&store()?),
        Command::Login(command) => command.execute(),
        Command::Logout(command) => command.execute(),
        Command::Images(command) => command.execute(&store()?),
        Command::Image(command) => return command.execute(&store()?),
        Command::Rmi(command) => return command.execute(&store()?),
        Command::Tag(command) => command.execute(&store()?),
        Command::Gc(command) => command.execute(&store()?),
        Command::Df(command) => command.execute(&store()?),
        Command::Ps(command) => command.execute(&store()?),
        Command::Rm(command) => return command.execute(&store()?),
        Command::Volume(command) => return command.execute(&store()?),
        Command::Doctor(command) => return command.execute(&store()?),
        Command::Kernel(command) => command.execute(&store()?),
        Command::Disk(command) => command.execute(&store()?),
        Command::Bench(command) => command.execute(store),
        Command::Erofs(command) => return command.execute(),
        Command::Ext4(command) => command.execute(),
        Command::Vmdk(command) => command.execute(),
        Command::Completion(command) => command.execute(Arguments::command()),
        Command::Man(command) => command.execute(Arguments::command()),
    }?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::collections::BTreeSet;

    use super::*;

    /// Commands without progress: those that read or write metadata alone (as those that list,
    /// remove and grow), whose output shows what happens, or that wait for something else. All
    /// that reads or writes as much as there is in an image or on a disk shows progress.
    const NO_PROGRESS: [&str; 51] = [
        "attach",
        "bench fs",
        "completion",
        "df",
        "diff",
        "erofs cat",
        "erofs dump",
        "erofs ls",
        "erofs mount",
        "erofs stat",
        "events",
        "exec",
        "ext4 grow",
        "ext4 info",
        "gc",
        "image history",
        "image inspect",
        "image ls",
        "image prune",
        "image rm",
        "images",
        "inspect",
        "kernel ls",
        "kill",
        "login",
        "logout",
        "logs",
        "man",
        "net",
        "port",
        "ps",
        "rename",
        "restart",
        "rm",
        "rmi",
        "snapshot inspect",
        "snapshot ls",
        "snapshot rm",
        "start",
        "stats",
        "stop",
        "tag",
        "top",
        "vmdk info",
        "volume create",
        "volume grow",
        "volume inspect",
        "volume ls",
        "volume prune",
        "volume rm",
        "wait",
    ];

    /// Returns the names of the commands at and below `command` that do things.
    fn leaves(command: &clap::Command, above: &str, found: &mut Vec<(String, bool)>) {
        // clap adds it at each level.
        if command.get_name() == "help" {
            return;
        }
        let name = format!("{above} {}", command.get_name()).trim().to_owned();
        for below in command.get_subcommands() {
            leaves(below, &name, found);
        }
        if !command.is_subcommand_required_set() {
            let has = |long: &str| {
                command
                    .get_arguments()
                    .any(|arg| arg.get_long() == Some(long))
            };
            found.push((name, has("progress") && has("quiet")));
        }
    }

    #[test]
    fn every_command_shows_progress_or_is_known_to_be_short() {
        let mut found = Vec::new();
        let mut all = Arguments::command();
        all.build();
        for command in all.get_subcommands() {
            leaves(command, "", &mut found);
        }
        let without = found.iter().filter(|(_, shows)| !shows);
        let without: BTreeSet<_> = without.map(|(name, _)| name.as_str()).collect();
        assert_eq!(without, BTreeSet::from(NO_PROGRESS));
    }
}
