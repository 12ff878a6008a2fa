//! Turns container images into disks and boots them in microVMs.
//!
//! This is the library behind the `blockbox` command, which does nothing that a program could not
//! do with it. Follow an image in one direction: [`convert`] gets it and makes its disks ([`pull`],
//! [`layer`], [`stack`]), [`store`] keeps them, and a [`Sandbox`] is a writable disk over it that
//! [`vmm`] boots.
//!
//! A running sandbox lives in a process of its own, its monitor, which outlives the program that
//! started it; any number of programs use the sandbox through the monitor at a time.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use blockbox::{ExecOptions, Sandbox, pull, store::Store};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // Monitors and virtual machines are started through this very program.
//!     if let Some(code) = blockbox::helper::run_if_asked() {
//!         std::process::exit(if code == std::process::ExitCode::SUCCESS { 0 } else { 1 });
//!     }
//!     let store = Store::open("/var/lib/blockbox")?;
//!     let name = "docker.io/library/debian:bookworm";
//!     let image = pull::pull(&store, &name.parse()?, &pull::PullOptions::default(), &())?;
//!
//!     let sandbox = Sandbox::builder(&store, name, &image)
//!         .command(["sleep", "infinity"])
//!         .create()?;
//!     sandbox.start()?;
//!     let child = sandbox.exec(&ExecOptions::new(["uname", "-a"]))?;
//!     let status = child.stream(&mut std::io::stdout(), &mut std::io::stderr())?;
//!     println!("ended with {}", status.code());
//!     sandbox.stop(None, Some(Duration::from_secs(1)))?;
//!     sandbox.remove(false)?;
//!     Ok(())
//! }
//! ```
//!
//! Calls block. From asynchronous code, make them where blocking is allowed, such as
//! `tokio::task::spawn_blocking`, and end them from another thread: [`Canceller`] gives up a boot,
//! [`Detacher`] leaves a command, [`Sandbox::kill`] ends one.

#![forbid(unsafe_code)]

mod background;
mod boot;
mod bounds;
mod builder;
mod child;
mod choice;
pub mod collect;
mod copy;
mod create;
mod error;
pub mod events;
mod exec;
mod files;
pub mod helper;
pub mod kernel;
mod launched;
pub mod log;
mod monitor;
mod mounts;
mod name;
pub mod names;
mod network;
mod platform;
pub mod process;
mod question;
pub mod remove;
pub mod root;
mod sandbox;
mod secrets;
mod snapshot;
mod start;
mod stats;
mod upper;
pub mod usage;
pub mod volume;

pub use blockbox_archive as archive;
pub use blockbox_convert as convert;
pub use blockbox_convert::{
    commit, image, layer, load, patch, populate, progress, pull, reader, rebuild, repair, save,
    squash, stack, verify,
};
pub use blockbox_net as net;
pub use blockbox_store as store;
pub use blockbox_store::{spec, state};
pub use blockbox_vmm as vmm;
pub use blockbox_vmm::guest;
pub use boot::{check as check_machine, check_hostname};
pub use bounds::{LEAST_MEMORY, MOST_MEMORY};
pub use builder::Builder;
pub use child::{Child, Detacher};
pub use copy::CopyOptions;
pub use error::{Error, ImageUser, NoMemory, Result};
pub use exec::ExecOptions;
pub use files::hold::Consistency;
pub use launched::{Boot, Booted, Canceller, Completion};
pub use monitor::Ended;
pub use name::check_new_name as check_name;
pub use platform::{arch_of, check_platform, platform_of};
pub use sandbox::Sandbox;
pub use snapshot::{ForkOptions, Snapshot};
pub use start::StartOptions;
pub use stats::{ProcessInfo, Stats};
