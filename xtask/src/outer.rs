//! The outer machine, for hosts whose own virtualisation does not run guests: QEMU emulates a
//! processor with AMD's virtualisation, and a stock Debian kernel offers /dev/kvm in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::setup::Archive;
use crate::shell;
use crate::system::install;

/// The modules of KVM with their options, in the order of loading.
///
/// With the virtual global interrupt flag of QEMU 7.2, a guest hung: its one processor waited for a
/// spin lock with interrupts off.
const KVM: [(&str, &str); 4] = [
    ("irqbypass.ko", ""),
    ("ccp.ko", ""),
    ("kvm.ko", ""),
    ("kvm-amd.ko", "vgif=0 vls=0"),
];

/// The beginning of the init of its system, a script of busybox: the applets, the kernel's file
/// systems and the loopback.
pub(crate) const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
ip link set lo up
";

/// A stock Debian kernel, and a system with its modules and busybox.
pub(crate) struct Outer {
    kernel: PathBuf,
    /// An unpacked Debian with the kernel's modules and a static busybox.
    system: PathBuf,
}

impl Outer {
    /// Unpacks a kernel and a busybox of Debian 12, unless that was done before.
    pub(crate) fn prepare() -> Result<Self> {
        let system = shell::target("vm-test/system");
        shell::make_once(&system, |folder| {
            println!("unpacking a Debian kernel and busybox for the outer machine");
            let archive = Archive::open("bookworm")?;
            // The kernel for clouds is half the size, has KVM and boots faster.
            let kernel = archive.first_dependency("linux-image-cloud-amd64")?;
            archive.unpack(&[&kernel, "busybox-static"], folder)
        })?;
        let kernel = fs::read_dir(system.join("boot"))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.to_string_lossy().contains("/vmlinuz-"))
            .context("no kernel in the kernel's package")?;
        Ok(Self { kernel, system })
    }

    /// Puts busybox, KVM's modules and `others` into the folder `root`. Returns the lines of a
    /// shell script that load the modules.
    pub(crate) fn install(&self, root: &Path, others: &[&str]) -> Result<String> {
        install(&self.system.join("bin/busybox"), &root.join("bin/busybox"))?;
        let mut lines = String::new();
        let others = others.iter().map(|&name| (name, ""));
        for (name, options) in KVM.into_iter().chain(others) {
            // Some kernels have a module built in, or do not need it.
            if let Some(module) = find(&self.system.join("lib/modules"), name)? {
                install(&module, &root.join("modules").join(name))?;
                lines += &format!("insmod /modules/{name} {options}\n");
            }
        }
        ensure!(lines.contains("kvm-amd.ko"), "the kernel has no kvm-amd");
        Ok(lines)
    }

    /// QEMU with this kernel, started by `wrapper`, and with more `parameters` for it than it needs
    /// on an emulated processor. The caller adds memory, an accelerator and disks; the first serial
    /// port is the console.
    pub(crate) fn command(&self, wrapper: &[&str], parameters: &str) -> Command {
        // Killed with the command that started it.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "TERM"])
            .args(wrapper)
            .arg("qemu-system-x86_64")
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-no-reboot", "-M", "q35", "-cpu", "max"])
            // One processor: with two, the emulated kernel sometimes oopses when it patches its own
            // code.
            .args(["-smp", "1", "-kernel"])
            .arg(&self.kernel)
            // An emulated timer may be late on a busy host, and the kernel would consider it
            // broken.
            .arg("-append")
            .arg(format!(
                "console=ttyS0 quiet panic=-1 oops=panic no_timer_check {parameters}"
            ));
        qemu
    }
}

/// The file called `name` somewhere under `dir`.
fn find(dir: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if let Some(found) = find(&entry.path(), name)? {
                return Ok(Some(found));
            }
        } else if entry.file_name() == name {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}
