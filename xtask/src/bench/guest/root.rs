//! The system that a machine of the benchmark boots: busybox, the measuring program, and programs
//! that mount stacks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::bench::Setting;
use crate::bench::fs::writable;
use crate::{shell, system};

/// The path of the first process, and that of one that only reports that it runs.
pub(super) const INIT: &str = "/init";
pub(super) const BARE_INIT: &str = "/bare";

/// Standard output is passed to the host, everything else to the console.
const INIT_SCRIPT: &str = "\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mkdir /dev/shm
mount -t tmpfs shm /dev/shm
sh -e /script > /dev/vport0p1 || echo \"the script ended with status $?\"
reboot -f
";

/// When it ends, the kernel panics, which ends the machine.
const BARE_SCRIPT: &str = "\
#!/bin/busybox sh
echo runs > /dev/vport0p1
";

/// A folder with the system, for a disk.
pub(in crate::bench) struct Root {
    folder: PathBuf,
}

impl Root {
    /// Writes the system to the new folder `folder`.
    pub(in crate::bench) fn prepare(setting: &Setting, folder: &Path) -> Result<Self> {
        for name in ["bin", "dev", "proc", "sys", "tmp", "upper", "work", "tree"] {
            fs::create_dir_all(folder.join(name))?;
        }
        let busybox = shell::program("busybox").context("no busybox")?;
        system::install(&busybox, &folder.join("bin/busybox"))?;
        let program = folder.join("bin/fsbench");
        let mut bench = setting.blockbox(&["bench", "fs", "--program"]);
        shell::output(bench.arg(&program))?;
        if let Some(peer) = shell::program("fuse-overlayfs") {
            system::install(&peer, &folder.join("bin/fuse-overlayfs"))?;
            for library in system::libraries(&[peer])? {
                system::install(&library, &system::inside(folder, &library))?;
            }
        }
        for (path, script) in [(INIT, INIT_SCRIPT), (BARE_INIT, BARE_SCRIPT)] {
            system::write_program(&system::inside(folder, Path::new(path)), script)?;
        }
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// Makes a writable disk with the system, which runs `script`.
    pub(in crate::bench) fn disk(
        &self,
        setting: &Setting,
        disk: &Path,
        script: &str,
    ) -> Result<()> {
        fs::write(self.folder.join("script"), script)?;
        writable(setting, disk, Some(&self.folder))
    }
}
