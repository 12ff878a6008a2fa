//! The QEMU command line of a machine.

use blockbox_protocol::CONTROL_PORT;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::device::{Disk, MemoryBacking, text};
use super::super::{Accel, Arch, VmConfig, VmmError, streams};

/// An argument.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Arg {
    /// As it is.
    Text(String),
    /// A string followed by the number of the open file with this index.
    File(String, usize),
}

/// QEMU's own seccomp filter, which it applies once it has started.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The id of the memory object.
const MEMORY: &str = "memory";

/// Returns the arguments that boot `config`. Its open files have these indexes: 0 is QMP's socket,
/// followed by the network cards, the servers of shares, and the memory if it is shared. `balloon`
/// adds the device that returns freed memory.
pub(super) fn args(
    config: &VmConfig,
    accel: Accel,
    cmdline: &str,
    balloon: bool,
) -> Result<Vec<Arg>, VmmError> {
    let mut args = Args::new(config.arch);
    args.machine(config, accel)?;
    args.option("-kernel", text(&config.kernel)?);
    args.option("-append", cmdline);
    args.option("-display", "none");
    // Shares need the register layout of virtio 1.0.
    args.option("-global", "virtio-mmio.force-legacy=false");

    let console = format!("file,id=console,path={}", streams::STDOUT_PATH);
    args.option("-chardev", console);
    args.option("-chardev", "socket,id=control,fd=0");
    args.virtio("virtio-serial-device,max_ports=2");
    args.option("-device", "virtconsole,chardev=console");
    args.option(
        "-device",
        format!("virtserialport,chardev=control,name={CONTROL_PORT}"),
    );
    args.file("-chardev", "socket,id=qmp,fd=".to_owned(), 0);
    args.option("-mon", "chardev=qmp,mode=control");
    // Disks appear in this order: vda, vdb.
    for (index, disk) in config.disks.iter().enumerate() {
        args.disk(index, disk, config.is_removable(disk))?;
    }
    for (index, card) in config.networks.iter().enumerate() {
        args.file(
            "-netdev",
            format!("stream,id=net{index},server=off,addr.type=fd,addr.str="),
            1 + index,
        );
        let [a, b, c, d, e, f] = card.mac;
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        args.virtio(&format!("virtio-net-device,netdev=net{index},mac={mac}"));
    }
    for (index, share) in config.shares.iter().enumerate() {
        args.file(
            "-chardev",
            format!("socket,id=share{index},fd="),
            1 + config.networks.len() + index,
        );
        let tag = &share.tag;
        args.virtio(&format!(
            "vhost-user-fs-device,chardev=share{index},tag={tag}"
        ));
    }
    args.virtio("virtio-rng-device");
    if balloon {
        args.virtio("virtio-balloon-device,free-page-reporting=on");
    }
    if config.confine && cfg!(target_os = "linux") {
        args.option("-sandbox", SANDBOX);
    }
    if config.incoming {
        args.option("-incoming", "defer");
    }
    for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        args.list.push(Arg::Text(flag.to_owned()));
    }
    Ok(args.list)
}

struct Args {
    list: Vec<Arg>,
    arch: Arch,
    /// The number of slots for virtio devices that are in use.
    slots: usize,
}

impl Args {
    fn new(arch: Arch) -> Self {
        Self {
            list: Vec::new(),
            arch,
            slots: 0,
        }
    }

    fn option(&mut self, name: &str, value: impl Into<String>) {
        self.list.push(Arg::Text(name.to_owned()));
        self.list.push(Arg::Text(value.into()));
    }

    /// Adds a virtio device in the next slot, so that Linux finds the devices in this order.
    fn virtio(&mut self, device: &str) {
        let slot = self.slots;
        self.slots += 1;
        match self.arch {
            Arch::X86_64 => self.option("-device", device),
            // `virt` gives away its slots from the one with the highest address on, and Linux
            // begins with the lowest.
            Arch::Aarch64 => {
                self.option("-device", format!("{device},bus=virtio-mmio-bus.{slot}"));
            }
        }
    }

    fn file(&mut self, name: &str, value: String, index: usize) {
        self.list.push(Arg::Text(name.to_owned()));
        self.list.push(Arg::File(value, index));
    }

    fn machine(&mut self, config: &VmConfig, accel: Accel) -> Result<(), VmmError> {
        let memory = memory_object(config)?;
        let mut machine = machine_type(self.arch).to_owned();
        if let MemoryBacking::Shared(_) = &config.memory {
            let size = config.memory_mib;
            self.file(
                "-object",
                format!(
                    "memory-backend-file,id={MEMORY},size={size}M,share=on,mem-path={}/",
                    streams::FILES_PATH
                ),
                1 + config.networks.len() + config.shares.len(),
            );
        }
        if let Some(memory) = &memory {
            self.option("-object", memory.to_string());
        }
        if memory.is_some() || matches!(config.memory, MemoryBacking::Shared(_)) {
            machine.push_str(",memory-backend=");
            machine.push_str(MEMORY);
        }
        self.option("-machine", machine);
        self.option("-accel", accelerator(accel, self.arch));
        self.option("-cpu", cpu(accel, self.arch));
        self.option("-smp", config.cpus.to_string());
        self.option("-m", format!("{}M", config.memory_mib));
        Ok(())
    }

    fn disk(&mut self, index: usize, disk: &Disk, removable: bool) -> Result<(), VmmError> {
        let name = format!("disk{index}");
        if removable {
            let below = below(&name);
            self.option("-blockdev", node(&below, disk)?.to_string());
            self.option("-blockdev", above(&name, &below).to_string());
        } else {
            self.option("-blockdev", node(&name, disk)?.to_string());
        }
        // If the host's disk is full, the guest is paused; other errors are reported to the guest.
        let errors = "werror=enospc,rerror=report";
        let serial = &disk.serial;
        self.virtio(&format!(
            "virtio-blk-device,drive=disk{index},serial={serial},{errors}"
        ));
        Ok(())
    }
}

/// Returns the block node of a disk's file.
pub(crate) fn node(name: &str, disk: &Disk) -> Result<serde_json::Value, VmmError> {
    // `discard`: blocks that the guest frees become holes in a sparse file on the host.
    let discard = if disk.read_only { "ignore" } else { "unmap" };
    Ok(json!({
        "node-name": name,
        "driver": disk.format.name(),
        "read-only": disk.read_only,
        "discard": discard,
        "file": {
            "driver": "file",
            "filename": text(&disk.path)?,
            "discard": discard,
        },
    }))
}

/// Returns the name of the node below that of a disk that can be detached.
pub(crate) fn below(name: &str) -> String {
    format!("{name}-file")
}

/// Returns a read-only node on top of another one, with the same bytes.
pub(crate) fn above(name: &str, below: &str) -> serde_json::Value {
    json!({"node-name": name, "driver": "raw", "read-only": true, "file": below})
}

/// Returns the memory object; `None` for QEMU's default.
fn memory_object(config: &VmConfig) -> Result<Option<serde_json::Value>, VmmError> {
    let size = u64::from(config.memory_mib) << 20;
    let file = |path, share| -> Result<_, VmmError> {
        Ok(Some(json!({
            "qom-type": "memory-backend-file", "id": MEMORY,
            "size": size, "mem-path": text(path)?, "share": share,
        })))
    };
    match &config.memory {
        MemoryBacking::File(path) => file(path, true),
        MemoryBacking::CopyOf(path) => file(path, false),
        // A share's server maps the guest's memory.
        MemoryBacking::Private if !config.shares.is_empty() => Ok(Some(json!({
            "qom-type": "memory-backend-memfd", "id": MEMORY, "size": size, "share": true,
        }))),
        MemoryBacking::Private | MemoryBacking::Shared(_) => Ok(None),
    }
}

/// Returns the accelerator.
fn accelerator(accel: Accel, arch: Arch) -> &'static str {
    match (accel, arch) {
        // The CPUs of an emulated guest take turns in one thread. With a thread each, one may
        // continue to run translated code that another CPU has patched since, and Linux, which
        // patches its own code whenever a static key changes, dies of a stale breakpoint (within
        // seconds if a socket option changes a key that traffic on the other CPU checks).
        (Accel::Tcg, Arch::X86_64) => "tcg,thread=single",
        // Linux patches arm64 code without breakpoints: either instruction is right at any time.
        (Accel::Tcg, Arch::Aarch64) => "tcg,thread=multi",
        (other, _) => other.name(),
    }
}

/// Returns the CPU model that the guest sees.
pub(crate) fn cpu(accel: Accel, arch: Arch) -> &'static str {
    match (accel, arch) {
        (Accel::Tcg, Arch::X86_64) => "max",
        // The algorithm of the architecture to sign pointers takes most of an emulated guest's
        // time.
        (Accel::Tcg, Arch::Aarch64) => "max,pauth-impdef=on",
        _ => "host",
    }
}

pub(crate) fn machine_type(arch: Arch) -> &'static str {
    match arch {
        // Without ACPI, the devices are named on the kernel command line, and the kernel needs no
        // ACPI interpreter.
        Arch::X86_64 => "microvm,acpi=off,isa-serial=off,rtc=on,auto-kernel-cmdline=on",
        // The newest supported interrupt controller: a hypervisor offers only the host's.
        Arch::Aarch64 => "virt,gic-version=max",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn lines(config: &VmConfig) -> String {
        let args = args(config, Accel::Tcg, "quiet", true).unwrap();
        let mut text = String::new();
        for arg in args {
            let (word, file) = match arg {
                Arg::Text(text) => (text, String::new()),
                Arg::File(text, index) => (text, format!("<file {index}>")),
            };
            text += if word.starts_with('-') { "\n" } else { " " };
            text += &word;
            text += &file;
        }
        text
    }

    #[test]
    fn emulated_x86_cpus_share_one_thread() {
        assert_eq!(accelerator(Accel::Tcg, Arch::X86_64), "tcg,thread=single");
        assert_eq!(accelerator(Accel::Kvm, Arch::X86_64), "kvm");
    }

    /// Returns a machine of `arch` with a device of each kind.
    fn machine(arch: Arch) -> VmConfig {
        use std::os::unix::net::UnixStream;

        use crate::{DiskFormat, NetworkCard, Share};

        let (socket, _other) = UnixStream::pair().unwrap();
        VmConfig::new("/kernel", "/image/disk.vmdk", "/upper,with=comma.ext4")
            .arch(arch)
            .disk(Disk::raw("data", "/data.img").read_only())
            .disk(Disk::raw("cow", "/cow.qcow2").format(DiskFormat::Qcow2))
            .network(NetworkCard::new(socket, [2, 0, 0, 0, 0, 10]))
            .share(Share::new("work", "/work"))
    }

    #[test]
    fn every_device_has_its_arguments() {
        insta::assert_snapshot!(lines(&machine(Arch::X86_64)));
    }

    #[test]
    fn devices_of_an_arm64_machine_are_in_slots_of_their_order() {
        insta::assert_snapshot!(lines(&machine(Arch::Aarch64)));
    }

    #[test]
    fn memory_in_a_file_is_shared_with_it_and_a_copy_is_not() {
        let mut config = VmConfig::new("/kernel", "/disk.vmdk", "/upper.ext4");
        assert_eq!(memory_object(&config).unwrap(), None);
        for (memory, share) in [
            (MemoryBacking::File("/ram".into()), true),
            (MemoryBacking::CopyOf("/ram".into()), false),
        ] {
            config.memory = memory;
            let object = memory_object(&config).unwrap().unwrap();
            assert_eq!(object["share"], share);
            assert_eq!(object["mem-path"], "/ram");
            assert_eq!(object["size"], 512 << 20);
        }
    }
}
