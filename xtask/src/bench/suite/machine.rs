//! The machine that the contenders run in: this host if its virtualisation runs guests, else the
//! outer machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::guest::DONE;
use crate::bench::Setting;
use crate::bench::guest::{COUNTED, COUNTED_KHZ};
use crate::outer::{INIT, Outer};
use crate::shell::{self, Patience};
use crate::system::{inside, install, write_program};

/// How long a run may take; it prints almost nothing before its end, after some two minutes of a
/// processor. With a clock that counts instructions, QEMU 7.2 sometimes hangs: all its threads
/// wait, or one of them asks for the next timer for ever.
const PATIENCE: Patience = Patience {
    silent: Duration::from_secs(90 * 60),
    idle: Some(Duration::from_secs(60)),
    busy: Some(Duration::from_secs(10 * 60)),
};

/// The same for a contender that takes tens of times as long. One run of it did not end within an
/// hour and a half.
const MORE_PATIENCE: Patience = Patience {
    silent: Duration::from_secs(12 * 60 * 60),
    busy: None,
    ..PATIENCE
};

/// How often a run is tried, because machines sometimes hang.
const TRIES: u32 = 3;

/// The memory of the outer machine, in MiB: for a guest, and for the page cache of its disks.
const OUTER_MEMORY: u32 = 4096;

/// The script that runs a contender, in its folder.
const SCRIPT: &str = "run";

/// What the init of the outer machine goes on with. The kernel sets the variable `folder` from its
/// command line.
const MOUNTS: &str = r#"mkdir -p /dev/shm /dev/pts "$folder"
mount -t tmpfs shm /dev/shm
mount -t devpts devpts /dev/pts
mount -t ext4 /dev/nvme0n2 "$folder"
stty -F /dev/ttyS1 raw -echo
"#;

/// A folder with a script that runs a contender. Its path is the same in the outer machine.
pub(super) struct Place {
    folder: PathBuf,
    /// The folder as a disk, for the outer machine.
    disk: Option<PathBuf>,
}

pub(super) enum Machine {
    /// This host.
    Here,
    Outer(Emulated),
}

pub(super) struct Emulated {
    outer: Outer,
    folder: PathBuf,
}

impl Machine {
    /// Makes the system of the outer machine in the new folder `folder`, with the system libraries
    /// `libraries`, and with `programs` at their paths on this host.
    pub(super) fn outer(
        setting: &Setting,
        folder: &Path,
        programs: &[&Path],
        libraries: &Path,
    ) -> Result<Self> {
        let outer = Outer::prepare()?;
        let root = folder.join("root");
        for name in ["dev", "proc", "sys", "tmp", "run", "root"] {
            fs::create_dir_all(root.join(name))?;
        }
        let insmods = outer.install(&root, &[])?;
        for program in programs {
            let copy = inside(&root, program);
            install(program, &copy)?;
            let mut strip = Command::new("strip");
            let _ = strip.arg("--strip-debug").arg(&copy).status();
        }
        let mut copy = Command::new("cp");
        shell::output(copy.arg("-a").arg(libraries.join("usr")).arg(&root))?;
        for name in ["lib", "lib64"] {
            std::os::unix::fs::symlink(Path::new("usr").join(name), root.join(name))?;
        }
        let init = format!(
            "{INIT}{MOUNTS}{insmods}sh \"$folder/{SCRIPT}\" </dev/null >/dev/ttyS1\npoweroff -f\n"
        );
        write_program(&root.join("init"), &init)?;
        disk(setting, &folder.join("system"), &root)?;
        fs::remove_dir_all(&root)?;
        Ok(Self::Outer(Emulated {
            outer,
            folder: folder.to_owned(),
        }))
    }

    /// Describes the clock and the machine, for the report.
    pub(super) fn note(&self) -> &'static str {
        match self {
            Self::Here => "All guests run on this host's virtualisation.",
            Self::Outer(_) => {
                "All guests run in a machine of their own, whose processor, with AMD's virtualisation, QEMU emulates. Its clock counts \
                 instructions, a nanosecond for each, of the guest and of its monitor alike: times are millions of instructions."
            }
        }
    }

    /// Adds the script to a contender's `folder`. For the outer machine, the folder becomes a disk
    /// and is removed.
    pub(super) fn place(&self, setting: &Setting, folder: &Path, script: &str) -> Result<Place> {
        fs::write(folder.join(SCRIPT), script)?;
        let disk = match self {
            Self::Here => None,
            Self::Outer(machine) => {
                let name = folder.file_name().context("a folder has a name")?;
                let image = machine.folder.join(name);
                disk(setting, &image, folder)?;
                fs::remove_dir_all(folder)?;
                Some(image)
            }
        };
        Ok(Place {
            folder: folder.to_owned(),
            disk,
        })
    }

    /// Runs a contender's script; `slow` ones may take long. Returns the lines that it printed.
    pub(super) fn run(&self, place: &Place, slow: bool) -> Result<Vec<String>> {
        let patience = if slow { MORE_PATIENCE } else { PATIENCE };
        for _ in 0..TRIES {
            let mut command = self.command(place)?;
            let watched = shell::watched(&mut command, patience)?;
            if watched.lines.last().is_some_and(|line| line == DONE) {
                return Ok(watched.lines);
            }
            eprintln!(
                "bench: {} does not end, and is started again",
                place.folder.display()
            );
        }
        bail!("it does not end{}", self.last_words())
    }

    fn command(&self, place: &Place) -> Result<Command> {
        let machine = match self {
            Self::Here => {
                let mut shell = Command::new("/bin/sh");
                shell.arg(place.folder.join(SCRIPT));
                return Ok(shell);
            }
            Self::Outer(machine) => machine,
        };
        let folder = place.folder.to_str().context("a path that is not UTF-8")?;
        ensure!(!folder.contains([' ', '"']), "{folder}: a path with spaces");
        let parameters = format!(
            "root=/dev/nvme0n1 rootfstype=ext4 rw init=/init folder={folder} \
             tsc=reliable tsc_early_khz={COUNTED_KHZ}"
        );
        let mut qemu = machine.outer.command(&[], &parameters);
        qemu.args(COUNTED)
            .args(["-accel", "tcg,thread=single"])
            .args(["-m", &format!("{OUTER_MEMORY}M")])
            .args(["-device", "nvme,id=disks,serial=disks"])
            // QEMU keeps the changes of snapshot disks there.
            .env("TMPDIR", &machine.folder);
        let disk = place.disk.as_deref().context("no disk")?;
        for (number, disk) in [&machine.folder.join("system"), disk].iter().enumerate() {
            let path = disk.to_str().context("a path that is not UTF-8")?;
            let path = path.replace(',', ",,");
            qemu.arg("-drive")
                .arg(format!(
                    "if=none,id=disk{number},format=raw,snapshot=on,file={path}"
                ))
                .arg("-device")
                .arg(format!(
                    "nvme-ns,drive=disk{number},bus=disks,nsid={}",
                    number + 1
                ));
        }
        qemu.arg("-serial")
            .arg(format!("file:{}", machine.console().display()))
            .args(["-serial", "stdio"]);
        Ok(qemu)
    }

    fn last_words(&self) -> String {
        let Self::Outer(machine) = self else {
            return String::new();
        };
        let console = fs::read(machine.console()).unwrap_or_default();
        let text = String::from_utf8_lossy(&console);
        let lines: Vec<_> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(10)..].join("\n");
        format!("; the outer machine's console ends in:\n{end}")
    }
}

impl Emulated {
    fn console(&self) -> PathBuf {
        self.folder.join("console")
    }
}

/// Makes an ext4 disk with the contents of `folder` and free space.
fn disk(setting: &Setting, disk: &Path, folder: &Path) -> Result<()> {
    let mut create = setting.blockbox(&["ext4", "create", "--size", "64G", "--output"]);
    shell::output(create.arg(disk).arg("--dir").arg(folder)).map(drop)
}
