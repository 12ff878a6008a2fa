//! libkrun, linked in. It takes over the process it is started in and never returns it.

use std::ffi::{CString, c_char};
use std::path::Path;
use std::process::ExitCode;
use std::ptr;

use blockbox_protocol::{CONTROL_PORT, IMAGE_SERIAL, UPPER_SERIAL};
use serde::{Deserialize, Serialize};

use super::{VmConfig, VmmError, helper};

/// Everything libkrun is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) kernel: String,
    pub(super) cmdline: String,
    pub(super) cpus: u8,
    pub(super) memory_mib: u32,
    /// In the order the guest finds them.
    pub(super) disks: Vec<Disk>,
}

/// A virtio-blk device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Disk {
    serial: String,
    path: String,
    format: Format,
}

impl Disk {
    /// A raw image, writable.
    pub(super) fn raw(serial: &str, path: &Path) -> Result<Self, VmmError> {
        Ok(Disk {
            serial: serial.to_owned(),
            path: text(path)?,
            format: Format::Raw,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Format {
    /// A flat VMDK descriptor, read-only.
    Vmdk,
    /// A raw image, writable.
    Raw,
}

/// `KRUN_DISK_FORMAT_RAW` of `libkrun.h`.
const DISK_FORMAT_RAW: u32 = 0;
/// `KRUN_DISK_FORMAT_VMDK` of `libkrun.h`.
const DISK_FORMAT_VMDK: u32 = 2;

/// The kernel format [`kernel::prepare`](super::kernel::prepare) makes: `KRUN_KERNEL_FORMAT_ELF` on x86-64, elsewhere
/// `KRUN_KERNEL_FORMAT_RAW`.
const KERNEL_FORMAT: u32 = if cfg!(target_arch = "x86_64") { 1 } else { 0 };

/// `KRUN_LOG_LEVEL_WARN`, `KRUN_LOG_STYLE_NEVER` and `KRUN_LOG_OPTION_NO_ENV` of `libkrun.h`.
const LOG_WARN: u32 = 2;
const LOG_STYLE_NEVER: u32 = 2;
const LOG_NO_ENV: u32 = 1;

/// The control channel: standard input, a socket.
const CONTROL_FD: i32 = 0;

/// Plans the VM that boots `config`.
pub(super) fn machine(config: &VmConfig, cmdline: String) -> Result<Machine, VmmError> {
    Ok(Machine {
        kernel: text(&config.kernel)?,
        cmdline,
        cpus: config.cpus,
        memory_mib: config.memory_mib,
        disks: vec![
            Disk {
                serial: IMAGE_SERIAL.to_owned(),
                path: text(&config.disk)?,
                format: Format::Vmdk,
            },
            Disk::raw(UPPER_SERIAL, &config.upper)?,
        ],
    })
}

pub(super) fn text(path: &Path) -> Result<String, VmmError> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| VmmError::PathNotUtf8(path.to_owned()))
}

/// Makes this process the VM. Returns only when that fails.
pub(super) fn enter(machine: &Machine) -> Result<ExitCode, VmmError> {
    match start(machine) {
        Ok(never) => match never {},
        Err(failure) => Err(failure),
    }
}

enum Never {}

#[allow(unsafe_code)]
fn start(machine: &Machine) -> Result<Never, VmmError> {
    // SAFETY: called once, before anything logs; the target is the standard error stream, which stays open.
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
    // SAFETY: both strings are NUL-terminated and outlive the call, which copies them; a null initramfs means none.
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
        let (format, read_only) = match disk.format {
            Format::Vmdk => (DISK_FORMAT_VMDK, true),
            Format::Raw => (DISK_FORMAT_RAW, false),
        };
        // SAFETY: both strings are NUL-terminated and outlive the call, which copies them.
        check("krun_add_disk2", unsafe {
            krun::krun_add_disk2(context, serial.as_ptr(), path.as_ptr(), format, read_only)
        })?;
    }

    // hvc0 is the implicit console, pointed at our standard output: of libkrun's consoles only one with a terminal or
    // this one is announced to the guest as a console at all.
    let console = c_string(helper::STDOUT_PATH)?;
    // SAFETY: the string is NUL-terminated and outlives the call, which copies it.
    check("krun_set_console_output", unsafe {
        krun::krun_set_console_output(context, console.as_ptr())
    })?;

    // SAFETY: no pointers are passed; the function is only marked unsafe.
    let ports = unsafe { krun::krun_add_virtio_console_multiport(context) };
    check("krun_add_virtio_console_multiport", ports)?;
    let name = c_string(CONTROL_PORT)?;
    // SAFETY: the name is NUL-terminated and outlives the call, which copies it; the descriptor stays open.
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
