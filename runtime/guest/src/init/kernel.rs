//! Kernel file systems in the container, and settings below `/proc/sys`.

use std::fs;
use std::io::Write;
use std::path::Path;

use blockbox_protocol::Sysctl;
use rustix::mount::MountFlags;

use super::boot::make_dir;
use super::failure::{Failure, Step, Warnings};

/// The default settings of every guest, as docker's: any user may bind low ports and send ICMP echo
/// requests; the number of open files is limited for each process (`RLIMIT_NOFILE`) and not in
/// total.
const DEFAULTS: [(&str, &str); 3] = [
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
    ("fs/file-max", "9223372036854775807"),
];

/// Mounts the file systems of processes, devices and memory.
pub(crate) fn mount_filesystems(warnings: &mut Warnings) -> Result<(), Failure> {
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;

    mount_at("/proc", "proc", plain, "")?;
    mount_at("/sys", "sysfs", plain, "")?;
    mount_at("/dev", "devtmpfs", MountFlags::NOSUID, "mode=0755")?;
    mount_at(
        "/dev/pts",
        "devpts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        "gid=5,mode=0620,ptmxmode=0666",
    )?;
    mount_at("/dev/shm", "tmpfs", plain, "mode=1777")?;
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        match rustix::fs::symlink(target, link) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => warnings.tolerate(Err(errno).step(format!("making {link}"))),
        }
    }
    // File systems that a kernel may not support.
    if Path::new("/sys/fs/cgroup").is_dir() {
        // Each command is moved to a cgroup of its own. Without this option, of Linux 6.0, that
        // waits for a grace period of RCU.
        let mounted = mount_at("/sys/fs/cgroup", "cgroup2", plain, "favordynmods");
        let mounted = mounted.or_else(|_| mount_at("/sys/fs/cgroup", "cgroup2", plain, ""));
        warnings.tolerate(mounted);
    }
    if Path::new("/proc/sys/fs/mqueue").is_dir() {
        warnings.tolerate(mount_at("/dev/mqueue", "mqueue", plain, ""));
    }
    Ok(())
}

fn mount_at(target: &str, kind: &str, flags: MountFlags, options: &str) -> Result<(), Failure> {
    make_dir(Path::new(target), 0o755)?;
    let options = std::ffi::CString::new(options)
        .map_err(|error| Failure::new(format!("mounting {target}"), error.to_string()))?;
    rustix::mount::mount(kind, target, kind, flags, options.as_c_str())
        .step(format!("mounting {target}"))
}

/// Applies the default settings; a kernel may lack one.
pub(crate) fn set_defaults(warnings: &mut Warnings) {
    for (name, value) in DEFAULTS {
        warnings.tolerate(write(name, value).step(format!("setting {name}")));
    }
}

/// The file with which systemd requests as many process ids as a 64-bit kernel can have. Kernels
/// that were built small have fewer and refuse, and the system would boot as "degraded".
const PROCESS_IDS: &str = "sysctl.d/50-pid-max.conf";

/// Sets the number of process ids that an init will request, or keeps it from requesting it: a file
/// in `/run` overrides that in `/usr/lib`.
pub(crate) fn suit_init() -> std::io::Result<()> {
    let shipped = Path::new("/usr/lib").join(PROCESS_IDS);
    if !shipped.exists() || write("kernel/pid_max", "4194304").is_ok() {
        return Ok(());
    }
    let replacement = Path::new("/run").join(PROCESS_IDS);
    if replacement.exists() {
        return Ok(());
    }
    fs::create_dir_all(replacement.parent().unwrap_or(Path::new("/run")))?;
    fs::write(replacement, "# This kernel has fewer process ids.\n")
}

/// Applies the host's settings.
pub(crate) fn set_all(sysctls: &[Sysctl]) -> Result<(), Failure> {
    for Sysctl { name, value } in sysctls {
        let step = || format!("setting the sysctl {name}");
        let path = path(name).ok_or_else(|| Failure::new(step(), "not the name of a setting"))?;
        write(&path, value).step(step())?;
    }
    Ok(())
}

fn write(path: &str, value: &str) -> std::io::Result<()> {
    let path = format!("/proc/sys/{path}");
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    file.write_all(value.as_bytes())
}

/// Returns the path below `/proc/sys` of a name as in `sysctl(8)`: the first `.` or `/` is the
/// separator, and the other character stands for the separator's character within a name.
fn path(name: &str) -> Option<String> {
    let first = name.find(['.', '/'])?;
    let dots = name[first..].starts_with('.');
    let path: String = name
        .chars()
        .map(|c| match c {
            '.' if dots => '/',
            '/' if dots => '.',
            c => c,
        })
        .collect();
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    path.split('/').all(plain).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_named_with_dots_or_slashes() {
        let found = |name| path(name);
        assert_eq!(
            found("net.core.somaxconn").as_deref(),
            Some("net/core/somaxconn")
        );
        assert_eq!(
            found("net/core/somaxconn").as_deref(),
            Some("net/core/somaxconn")
        );
        assert_eq!(
            found("net.ipv4.conf.eth0/1.forwarding").as_deref(),
            Some("net/ipv4/conf/eth0.1/forwarding")
        );
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_not_a_setting() {
        for name in [
            "",
            "kernel",
            "/etc/passwd",
            "net/../../etc/passwd",
            "net..x",
            "a/",
        ] {
            assert_eq!(path(name), None, "{name}");
        }
    }
}
