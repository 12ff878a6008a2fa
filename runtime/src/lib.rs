//! Turns container images into disks and boots them in microVMs.
//!
//! This is the library behind the `blockbox` command, and the one place where the format libraries meet. Follow an image
//! in one direction: [`pull`] gets it ([`ocipull`]), [`layer`] converts each layer's tar ([`fsmerge`]) to an EROFS image
//! ([`erofs_writer`]), [`stack`] merges the layers' metadata and describes the disk ([`vmdk`]), [`sandbox`] makes a writable
//! disk ([`ext4_writer`]) and boots both ([`vmm`]), and [`guest`] talks to the guest's init.
//!
//! Beside this way, [`squash`] makes one self-contained image of layers of any kind, [`rebuild`] makes an image again with
//! other options, and [`layer::write_index`] makes an image over a tar that stays as it is.
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

pub mod cli;
mod error;
pub mod process;
pub mod remove;
pub mod sandbox;

pub use blockbox_convert as convert;
pub use blockbox_convert::{
    image, layer, populate, progress, pull, reader, rebuild, squash, stack,
};
pub use blockbox_store as store;
pub use blockbox_vmm as vmm;
pub use blockbox_vmm::guest;
pub use error::{Error, Result};
