//! The machine that mounts the stacks: QEMU as `blockbox run` starts it, with the same kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::root::{BARE_INIT, INIT, Root};
use crate::bench::Setting;
use crate::share::Share;
use crate::shell::Patience;
use crate::{setup, shell};

/// How long a machine may be silent, because it writes its report at the end. QEMU 7.2 sometimes
/// hangs when it counts instructions: all its threads wait, or one of them asks for the next timer
/// for ever.
const PATIENCE: Patience = Patience {
    silent: Duration::from_secs(30 * 60),
    idle: Some(Duration::from_secs(60)),
    busy: Some(Duration::from_secs(10 * 60)),
};

/// How often a machine that hangs is restarted.
const TRIES: u32 = 3;

/// The memory of a machine in MiB, `blockbox run`'s default.
const MEMORY: u32 = 1024;

/// The machine options of `blockbox run`.
const MACHINE: &str = "microvm,acpi=off,isa-serial=off,rtc=on,auto-kernel-cmdline=on";

/// The options for a guest without a hypervisor: its clock counts instructions, each of which takes
/// a nanosecond, and follows the host's only while the guest waits. Times of translated code would
/// say more about QEMU's translation than about the file system.
pub(in crate::bench) const COUNTED: [&str; 2] = ["-icount", "shift=0,align=off,sleep=on"];

/// The rate of the processor's time stamp counter in that mode, which the kernel cannot measure on
/// a machine of this type.
pub(in crate::bench) const COUNTED_KHZ: u32 = 1_000_000;

/// A disk of the machine.
#[derive(Clone)]
pub(super) struct Disk {
    driver: &'static str,
    path: PathBuf,
}

impl Disk {
    pub(super) fn raw(path: &Path) -> Self {
        let (driver, path) = ("raw", path.to_owned());
        Self { driver, path }
    }

    pub(super) fn vmdk(path: &Path) -> Self {
        let (driver, path) = ("vmdk", path.to_owned());
        Self { driver, path }
    }
}

pub(in crate::bench) struct Machine {
    qemu: PathBuf,
    /// The version that QEMU reports.
    version: String,
    kernel: PathBuf,
    /// The release that the kernel reports.
    release: String,
    /// Whether the host's hypervisor runs the guest; otherwise QEMU emulates it.
    kvm: bool,
    folder: PathBuf,
}

impl Machine {
    /// Boots a first machine. All files are in `folder`.
    pub(in crate::bench) fn prepare(setting: &Setting, root: &Root, folder: &Path) -> Result<Self> {
        let home = folder.join("home/kernel");
        fs::create_dir_all(&home)?;
        let library = setup::guest_kernel();
        let copied = fs::copy(&library, home.join(setup::GUEST_KERNEL));
        copied.with_context(|| library.display().to_string())?;
        let mut doctor = setting.blockbox(&["doctor", "--format", "json"]);
        doctor.env("BLOCKBOX_HOME", folder.join("home"));
        let doctor: Value = serde_json::from_str(&shell::output(&mut doctor)?)?;
        let text = |name: &str| doctor[name].as_str().map(str::to_owned);
        let mut machine = Self {
            qemu: text("qemu").context("no QEMU")?.into(),
            version: text("qemu_version").unwrap_or_default(),
            kernel: kernel(&home)?,
            release: String::new(),
            kvm: doctor["hypervisor"] == "works",
            folder: folder.to_owned(),
        };
        let lines = machine.boot(setting, root, "uname -r\n", &[], None, false)?;
        machine.release = lines.into_iter().next().context("no release")?;
        Ok(machine)
    }

    /// Returns the conditions that the times depend on.
    pub(super) fn notes(&self) -> Vec<String> {
        let how = match self.kvm {
            true => "hardware virtualisation, two processors",
            false => "one processor, which QEMU translates for",
        };
        let clock = match self.kvm {
            true => "",
            false => {
                " Its clock counts instructions, a nanosecond for each, and goes with the host's while it waits: times are millions of \
                 instructions."
            }
        };
        vec![
            format!(
                "Every run is a machine of its own: {} (microvm, {how}, {MEMORY} MiB), Linux {}.{clock}",
                self.version, self.release,
            ),
            "The guest's caches are emptied before every cold run, and the host's are not: the disks are in the host's memory, \
             as they are where many machines run an image."
                .to_owned(),
            "Layers with disks of their own are partitions of one, since such a machine has eight virtio devices at most."
                .to_owned(),
        ]
    }

    /// Boots from a new disk with the system `root`, followed by `disks`, and counts instructions
    /// if QEMU emulates. Returns what `script` wrote to standard output.
    pub(super) fn run(
        &self,
        setting: &Setting,
        root: &Root,
        script: &str,
        disks: &[Disk],
        share: Option<&Path>,
    ) -> Result<Vec<String>> {
        self.boot(setting, root, script, disks, share, !self.kvm)
    }

    fn boot(
        &self,
        setting: &Setting,
        root: &Root,
        script: &str,
        disks: &[Disk],
        share: Option<&Path>,
        counted: bool,
    ) -> Result<Vec<String>> {
        for _ in 0..TRIES {
            let writable = self.folder.join("writable");
            root.disk(setting, &writable, script)?;
            let mut qemu = self.command(counted, INIT);
            disk(&mut qemu, 0, &Disk::raw(&writable), false)?;
            for (number, image) in disks.iter().enumerate() {
                disk(&mut qemu, number + 1, image, true)?;
            }
            let files = self.folder.join("virtiofsd");
            let server = share.map(|share| Share::start(share, &files, "cache=auto"));
            let server = server.transpose()?;
            if let Some(server) = &server {
                server.attach(&mut qemu, MEMORY, "vhost-user-fs-device");
            }
            let watched = shell::watched(&mut qemu, PATIENCE)?;
            if let Some(status) = watched.status {
                ensure!(status.success(), "{}: {status}", shell::line(&qemu));
                ensure!(
                    !watched.lines.is_empty(),
                    "the machine ended and wrote nothing; its console ends in:\n{}",
                    self.last_words()
                );
                return Ok(watched.lines);
            }
            eprintln!("bench: the machine stands still, and is started again");
        }
        bail!(
            "the machine stands still each time; its console ends in:\n{}",
            self.last_words()
        )
    }

    /// Returns QEMU with the host's clock, which boots from the new disk `writable` into a program
    /// that writes a line at once.
    pub(in crate::bench) fn bare(
        &self,
        setting: &Setting,
        root: &Root,
        writable: &Path,
    ) -> Result<Command> {
        root.disk(setting, writable, "")?;
        let mut qemu = self.command(false, BARE_INIT);
        disk(&mut qemu, 0, &Disk::raw(writable), false)?;
        Ok(qemu)
    }

    /// Returns QEMU with a network card and the host's clock, booting from `root`.
    pub(in crate::bench) fn networked(&self, root: &Path, netdev: &str) -> Result<Command> {
        let mut qemu = self.command(false, INIT);
        disk(&mut qemu, 0, &Disk::raw(root), false)?;
        qemu.args(["-netdev", netdev]).args([
            "-device",
            "virtio-net-device,netdev=net0,mac=02:62:6c:6b:00:02",
        ]);
        Ok(qemu)
    }

    /// Returns the last output of the console.
    pub(in crate::bench) fn last_words(&self) -> String {
        let console = fs::read(self.console()).unwrap_or_default();
        let text = String::from_utf8_lossy(&console);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    fn console(&self) -> PathBuf {
        self.folder.join("console")
    }

    fn command(&self, counted: bool, init: &str) -> Command {
        // As many processors as `blockbox run` uses; those of an emulated guest take turns, so it
        // gets one.
        let (accelerator, cpu, processors) = if self.kvm {
            ("kvm", "host", "2")
        } else {
            ("tcg,thread=single", "max", "1")
        };
        let mut parameters = format!(
            "console=hvc0 quiet panic=-1 reboot=t root=/dev/vda rootfstype=ext4 rw init={init}"
        );
        if counted {
            parameters += &format!(" tsc=reliable tsc_early_khz={COUNTED_KHZ}");
        }
        let mut qemu = Command::new(&self.qemu);
        if counted {
            qemu.args(COUNTED);
        }
        qemu.args(["-machine", MACHINE, "-accel", accelerator])
            .args(["-cpu", cpu, "-smp", processors])
            .args(["-m", &format!("{MEMORY}M"), "-append", &parameters])
            .arg("-kernel")
            .arg(&self.kernel)
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-chardev"])
            .arg(format!("file,id=console,path={}", self.console().display()))
            // Not /dev/stdout, which may be a file on a host where a program has replaced it.
            .args(["-chardev", "file,id=report,path=/proc/self/fd/1"])
            .args(["-device", "virtio-serial-device,max_ports=2"])
            .args(["-device", "virtconsole,chardev=console"])
            .args(["-device", "virtserialport,chardev=report"])
            .args(["-device", "virtio-rng-device"]);
        qemu
    }
}

/// Returns the kernel that blockbox has prepared.
fn kernel(folder: &Path) -> Result<PathBuf> {
    let mut files = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let name = |path: &PathBuf| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
    };
    files
        .find(|path| name(path).is_some_and(|name| name.starts_with("kernel-")))
        .context("no guest kernel (cargo xtask setup)")
}

/// Disks appear in this order: vda, vdb, and so on.
fn disk(qemu: &mut Command, number: usize, disk: &Disk, read_only: bool) -> Result<()> {
    let path = disk.path.to_str().context("a path that is not UTF-8")?;
    let mut block = serde_json::json!({
        "node-name": format!("disk{number}"), "driver": disk.driver, "read-only": read_only,
        "file": {"driver": "file", "filename": path},
    });
    if !read_only {
        block["discard"] = "unmap".into();
        block["file"]["discard"] = "unmap".into();
    }
    qemu.args(["-blockdev", &block.to_string()])
        .args(["-device", &format!("virtio-blk-device,drive=disk{number}")]);
    Ok(())
}
