//! Turns container images into disks and boots them in microVMs.
//!
//! This is the library behind the `blockbox` command. Follow an image in one direction: [`convert`] gets it and makes its
//! disks ([`pull`], [`layer`], [`stack`]), [`store`] keeps them, [`sandbox`] makes a writable disk ([`ext4_writer`]) and boots
//! both ([`vmm`]), and [`guest`] talks to the guest's init.
//!
//! A virtual machine runs in a process of its own. A program that boots any either begins its `main` with
//! [`vmm::helper::run_if_asked`] or names another program that does: see [`vmm::helper::locate`].
//!
//! ```no_run
//! use blockbox::{pull, store::Store};
//!
//! let store = Store::open("/var/lib/blockbox")?;
//! let reference = "docker.io/library/debian:bookworm".parse()?;
//! let image = pull::pull(&store, &reference, &pull::PullOptions::default(), &())?;
//! println!("{}", image.disk().display());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod boot;
mod builder;
mod child;
mod create;
mod error;
pub mod events;
mod exec;
pub mod helper;
pub mod log;
mod monitor;
pub mod process;
pub mod remove;
mod sandbox;
mod stats;

pub use blockbox_convert as convert;
pub use blockbox_convert::{
    image, layer, populate, progress, pull, reader, rebuild, squash, stack,
};
pub use blockbox_store as store;
pub use blockbox_store::{spec, state};
pub use blockbox_vmm as vmm;
pub use blockbox_vmm::guest;
pub use boot::{LEAST_MEMORY, check as check_machine, check_hostname};
pub use builder::Builder;
pub use child::{Child, Detacher};
pub use error::{Error, Result};
pub use exec::ExecOptions;
pub use monitor::Ended;
pub use sandbox::{Boot, Booted, Canceller, Completion, Sandbox, StartOptions};
pub use stats::{ProcessInfo, Stats};
