//! Runs VMs with libkrun, which is linked in. libkrun takes over the process and never returns.

use std::ffi::{CString, c_char};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::process::ExitCode;
use std::ptr;

use blockbox_protocol::CONTROL_PORT;
use serde::{Deserialize, Serialize};

use super::confine::Rules;
use super::device::{Disk, DiskFormat, Share, text};
use super::{VmConfig, VmmError, handoff, streams};

/// The parameters of libkrun.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) kernel: String,
    pub(super) cmdline: String,
    pub(super) cpus: u8,
    pub(super) memory_mib: u32,
    /// The disks, in the guest's order.
    pub(super) disks: Vec<Drive>,
    /// The addresses of the network cards, whose sockets are the open files passed to the helper.
    pub(super) networks: Vec<[u8; 6]>,
    pub(super) shares: Vec<Folder>,
    pub(super) rules: Option<Rules>,
}

/// A virtio-blk device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Drive {
    serial: String,
    path: String,
    format: DiskFormat,
    read_only: bool,
}

impl Drive {
    pub(super) fn new(disk: &Disk) -> Result<Self, VmmError> {
        Ok(Drive {
            serial: disk.serial.clone(),
            path: text(&disk.path)?,
            format: disk.format,
            read_only: disk.read_only,
        })
    }
}

/// A virtio-fs device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Folder {
    tag: String,
    path: String,
    read_only: bool,
}

/// `KRUN_DISK_FORMAT_RAW`, `KRUN_DISK_FORMAT_QCOW2` and `KRUN_DISK_FORMAT_VMDK` of `libkrun.h`.
fn disk_format(format: DiskFormat) -> u32 {
    match format {
        DiskFormat::Raw => 0,
        DiskFormat::Qcow2 => 1,
        DiskFormat::Vmdk => 2,
    }
}

/// `LinuxSimplified` of krun-devices: files appear as owned by the guest user who accesses them, so
/// that all users of the guest can use a folder of the host's user.
const SIMPLIFIED_OWNERS: u32 = 1;

/// The kernel format [`kernel::prepare`](super::kernel::prepare) makes: `KRUN_KERNEL_FORMAT_ELF` on
/// x86-64, elsewhere `KRUN_KERNEL_FORMAT_RAW`.
const KERNEL_FORMAT: u32 = if cfg!(target_arch = "x86_64") { 1 } else { 0 };

/// `KRUN_LOG_LEVEL_WARN`, `KRUN_LOG_STYLE_NEVER` and `KRUN_LOG_OPTION_NO_ENV` of `libkrun.h`.
const LOG_WARN: u32 = 2;
const LOG_STYLE_NEVER: u32 = 2;
const LOG_NO_ENV: u32 = 1;

/// The control channel: standard input, a socket.
const CONTROL_FD: i32 = 0;

/// Returns the parameters of the VM that boots `config`.
pub(super) fn machine(
    config: &VmConfig,
    cmdline: String,
    rules: Option<Rules>,
) -> Result<Machine, VmmError> {
    let folder = |share: &Share| {
        Ok(Folder {
            tag: share.tag.clone(),
            path: text(&share.path)?,
            read_only: share.read_only,
        })
    };
    Ok(Machine {
        kernel: text(&config.kernel)?,
        cmdline,
        cpus: config.cpus,
        memory_mib: config.memory_mib,
        disks: config
            .disks
            .iter()
            .map(Drive::new)
            .collect::<Result<_, _>>()?,
        networks: config.networks.iter().map(|card| card.mac).collect(),
        shares: config
            .shares
            .iter()
            .map(folder)
            .collect::<Result<_, VmmError>>()?,
        rules,
    })
}

/// Makes this process the VM. Returns only if that fails.
pub(super) fn enter(machine: &Machine) -> Result<ExitCode, VmmError> {
    let sockets = handoff::receive(std::io::stdin(), machine.networks.len())
        .map_err(VmmError::io("cannot receive the VM's open files"))?;
    match start(machine, sockets) {
        Ok(never) => match never {},
        Err(failure) => Err(failure),
    }
}

enum Never {}

#[allow(unsafe_code)]
fn start(machine: &Machine, sockets: Vec<OwnedFd>) -> Result<Never, VmmError> {
    // SAFETY: called once, before anything logs; the target is the standard error stream, which
    // stays open.
    check("krun_init_log", unsafe {
        krun::krun_init_log(2, LOG_WARN, LOG_STYLE_NEVER, LOG_NO_ENV)
    })?;
    let context = krun::krun_create_ctx();
    check("krun_create_ctx", context)?;
    let context = context as u32;
    check(
        "krun_set_vm_config",
        krun::krun_set_vm_config(context, machine.cpus, machine.memory_mib),
    )?;
    check(
        "krun_disable_implicit_vsock",
        krun::krun_disable_implicit_vsock(context),
    )?;

    // An empty environment: a NULL one would send the host's to the guest.
    let environment: [*const c_char; 1] = [ptr::null()];
    // SAFETY: the array is terminated by a null pointer and outlives the call, which copies it.
    check("krun_set_env", unsafe {
        krun::krun_set_env(context, environment.as_ptr())
    })?;

    let kernel = c_string(&machine.kernel)?;
    let cmdline = c_string(&machine.cmdline)?;
    // SAFETY: both strings are NUL-terminated and outlive the call, which copies them; a null
    // initramfs means none.
    check("krun_set_kernel", unsafe {
        krun::krun_set_kernel(
            context,
            kernel.as_ptr(),
            KERNEL_FORMAT,
            ptr::null(),
            cmdline.as_ptr(),
        )
    })?;

    for disk in &machine.disks {
        let serial = c_string(&disk.serial)?;
        let path = c_string(&disk.path)?;
        let (format, read_only) = (disk_format(disk.format), disk.read_only);
        // SAFETY: both strings are NUL-terminated and outlive the call, which copies them.
        check("krun_add_disk2", unsafe {
            krun::krun_add_disk2(context, serial.as_ptr(), path.as_ptr(), format, read_only)
        })?;
    }

    for (mac, socket) in machine.networks.iter().zip(sockets) {
        // SAFETY: a null path means the descriptor, which is libkrun's from here on; the address is
        // 6 bytes and is copied.
        check("krun_add_net_unixstream", unsafe {
            let socket = socket.into_raw_fd();
            krun::krun_add_net_unixstream(context, ptr::null(), socket, mac.as_ptr(), 0, 0)
        })?;
    }

    for share in &machine.shares {
        let tag = c_string(&share.tag)?;
        let path = c_string(&share.path)?;
        // SAFETY: both strings are NUL-terminated and outlive the call, which copies them; 0 is no
        // window of shared memory.
        check("krun_add_virtiofs4", unsafe {
            let (tag, path) = (tag.as_ptr(), path.as_ptr());
            krun::krun_add_virtiofs4(context, tag, path, 0, share.read_only, SIMPLIFIED_OWNERS)
        })?;
    }

    // hvc0 is the implicit console, redirected to our standard output: libkrun only announces a
    // console to the guest if it has a terminal, or if it is this one.
    let console = c_string(streams::STDOUT_PATH)?;
    // SAFETY: the string is NUL-terminated and outlives the call, which copies it.
    check("krun_set_console_output", unsafe {
        krun::krun_set_console_output(context, console.as_ptr())
    })?;

    // SAFETY: no pointers are passed; the function is only marked unsafe.
    let ports = unsafe { krun::krun_add_virtio_console_multiport(context) };
    check("krun_add_virtio_console_multiport", ports)?;
    let name = c_string(CONTROL_PORT)?;
    // SAFETY: the name is NUL-terminated and outlives the call, which copies it; the descriptor
    // stays open.
    check("krun_add_console_port_inout", unsafe {
        krun::krun_add_console_port_inout(
            context,
            ports as u32,
            name.as_ptr(),
            CONTROL_FD,
            CONTROL_FD,
        )
    })?;

    check("krun_start_enter", krun::krun_start_enter(context))?;
    Err(failed("krun_start_enter", 0))
}

fn c_string(text: &str) -> Result<CString, VmmError> {
    CString::new(text).map_err(|error| VmmError::io("a NUL byte in a path")(error.into()))
}

/// libkrun's functions return a negative `errno` when they fail.
fn check(function: &'static str, result: i32) -> Result<(), VmmError> {
    if result < 0 {
        Err(failed(function, result))
    } else {
        Ok(())
    }
}

fn failed(function: &'static str, result: i32) -> VmmError {
    let errno = result.saturating_neg();
    VmmError::io(function)(std::io::Error::from_raw_os_error(errno))
}
