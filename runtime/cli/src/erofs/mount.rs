//! An image as a directory, through FUSE: the same tree as the kernel's mount, without its
//! privileges.

#[cfg(test)]
mod tests;
mod tree;

use std::path::{Path, PathBuf};
use std::thread;

use anyhow::Context;
use blockbox::convert::Error;
use clap::Args;
use fuser::{Config, MountOption, Session, SessionACL};
use signal_hook::consts::signal::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use self::tree::Tree;
use super::source::Source;

/// Mount an image through FUSE until it is unmounted.
#[derive(Debug, Args)]
pub(crate) struct Mount {
    #[command(flatten)]
    source: Source,
    /// The directory to mount on
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
}

impl Mount {
    /// Returns after the file system is unmounted: by another process, or on SIGINT or SIGTERM.
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let failed = |source| Error::Read {
            path: self.source.image.clone(),
            source,
        };
        let image = self.source.open()?;
        let tree = Tree::new(image).map_err(failed)?;
        let context = || self.mountpoint.display().to_string();
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let mut session = Session::new(tree, &self.mountpoint, &config(&self.source.image))
            .with_context(context)?;
        let mut unmounter = session.unmount_callable();
        let handle = signals.handle();
        let mountpoint = self.mountpoint.clone();
        let waiting = thread::spawn(move || {
            for _ in signals.forever() {
                if let Err(e) = unmounter.unmount() {
                    eprintln!("blockbox: {}: {e}", mountpoint.display());
                }
            }
        });
        let ended = session.run().with_context(context);
        handle.close();
        let _ = waiting.join();
        ended
    }
}

fn config(image: &Path) -> Config {
    let mut config = Config::default();
    // A comma in the name would begin another mount option.
    let name = image.display().to_string().replace([',', '\\'], "_");
    config.mount_options = vec![
        MountOption::RO,
        MountOption::FSName(name),
        MountOption::Subtype("erofs".to_owned()),
        MountOption::DefaultPermissions,
        // The image is not trusted.
        MountOption::NoDev,
        MountOption::NoSuid,
    ];
    // Only root may let other users access a mount, unless the administrator allows it.
    if rustix::process::geteuid().is_root() {
        config.acl = SessionACL::All;
    }
    config.n_threads = thread::available_parallelism().ok().map(Into::into);
    config.clone_fd = true;
    config
}
