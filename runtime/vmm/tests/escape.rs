//! A program under the restrictions of a VM's process tries to escape.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use blockbox_vmm::confine::{Confinement, Landlock, Rules};
use blockbox_vmm::{Accel, Disk, DiskFormat, Share, VmConfig, Vmm};
use nix::unistd::Pid;
use testkit::denied;

/// The variable with the test's folder, for the program that tries to escape.
const FOLDER: &str = "ESCAPE_FOLDER";

/// The number of denied attempts, besides what the program must be able to do.
const ATTEMPTS: usize = 21;

fn monitors() -> [Vmm; 2] {
    [Vmm::Libkrun, Vmm::Qemu { accel: Accel::Tcg }]
}

fn config(folder: &Path) -> VmConfig {
    let path = |name| folder.join(name);
    VmConfig::new(path("kernel"), path("image/disk.vmdk"), path("upper"))
        .disk(Disk::raw("cow", path("disks/top.qcow2")).format(DiskFormat::Qcow2))
        .share(Share::new("share", path("share")))
        .share(Share::new("ro", path("ro")).read_only())
}

#[test]
fn program_confined_like_the_vm_reaches_nothing_outside() {
    if Confinement::of_host().landlock != Landlock::Full {
        testkit::skip("this kernel has no Landlock, or an old one");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name| folder.path().join(name);
    for name in ["image", "layers", "share", "ro", "disks", "bases"] {
        fs::create_dir(path(name)).unwrap();
    }
    for name in [
        "kernel",
        "upper",
        "secret",
        "layers/layer",
        "share/file",
        "ro/file",
        "qemu",
        "disks/other",
        "bases/base",
        "bases/other",
    ] {
        fs::write(path(name), name).unwrap();
    }
    let descriptor = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
                      createType=\"monolithicFlat\"\nRW 1 FLAT \"../layers/layer\" 0\n";
    fs::write(path("image/disk.vmdk"), descriptor).unwrap();
    let name = b"../bases/base";
    let mut qcow2 = [
        b"QFI\xfb\0\0\0\x03\0\0\0\0\0\0\0\x68\0\0\0\x0d",
        &[0; 84][..],
    ]
    .concat();
    qcow2.extend(name);
    fs::write(path("disks/top.qcow2"), qcow2).unwrap();
    symlink("/etc/passwd", path("share/passwd")).unwrap();
    let _unix = UnixListener::bind(path("socket")).unwrap();
    for monitor in ["libkrun", "qemu"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "try_to_escape", "--ignored", "--nocapture"])
            .env(FOLDER, folder.path())
            .env("ESCAPE_MONITOR", monitor)
            .env("BLOCKBOX_QEMU", path("qemu"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{monitor}: {text}{errors}");
        let denied = text
            .lines()
            .filter(|line| line.starts_with("denied: "))
            .count();
        assert_eq!(denied, ATTEMPTS, "{monitor}: {text}");
    }
}

/// The program that tries to escape, which is not a test.
#[test]
#[ignore = "lays rules on itself"]
fn try_to_escape() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    let [libkrun, qemu] = monitors();
    let of_libkrun = std::env::var("ESCAPE_MONITOR").unwrap() == "libkrun";
    let vmm = if of_libkrun { libkrun } else { qemu };
    let path = |name: &str| folder.join(name);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let parent = Pid::parent();
    let inherited = File::open(path("secret")).unwrap();
    // `cat` ends with its input, which this process holds.
    let mut other = Command::new("cat");
    let other = other.stdin(Stdio::piped()).spawn().unwrap();
    let other = (Pid::from_raw(i32::try_from(other.id()).unwrap()), other);

    let rules = Rules::of(vmm, &config(&folder)).unwrap();
    let confinement = rules.enforce().unwrap();
    assert_eq!(confinement.landlock, Landlock::Full);
    assert!(confinement.seccomp);

    // Files that a VM needs.
    for name in ["kernel", "image/disk.vmdk", "layers/layer", "bases/base"] {
        File::open(path(name)).unwrap();
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path("upper"))
        .unwrap();
    inherited.metadata().unwrap();
    if of_libkrun {
        fs::write(path("share/new"), "new").unwrap();
        fs::rename(path("share/new"), path("share/newer")).unwrap();
        fs::remove_file(path("share/newer")).unwrap();
        fs::read(path("ro/file")).unwrap();
    }
    std::thread::spawn(|| ()).join().unwrap();

    let home = std::env::var("HOME").unwrap_or_else(|_| "/root".to_owned());
    denied("open /etc/passwd", File::open("/etc/passwd"));
    denied("list the home folder", fs::read_dir(home));
    denied(
        "open another file of the folder",
        File::open(path("secret")),
    );
    denied("climb out of a share", File::open(path("share/../secret")));
    denied(
        "follow a link out of a share",
        File::open(path("share/passwd")),
    );
    // Landlock reports such a link as one across devices, so that `mv` copies instead.
    let linked = fs::hard_link(path("secret"), path("share/secret"));
    let linked = linked.map_err(|error| match error.kind() {
        io::ErrorKind::CrossesDevices => io::ErrorKind::PermissionDenied.into(),
        _ => error,
    });
    denied("link a file into a share", linked);
    for name in ["disks/other", "bases/other"] {
        denied("open what is beside a disk", File::open(path(name)));
    }
    denied("write to a read-only share", File::create(path("ro/new")));
    let layer = OpenOptions::new().write(true).open(path("layers/layer"));
    denied("write to a layer", layer);
    denied(
        "make a file",
        File::create(std::env::temp_dir().join("escaped")),
    );
    denied("connect by TCP", TcpStream::connect(address));
    denied("listen", TcpListener::bind("127.0.0.1:0"));
    denied("use UDP", UdpSocket::bind("127.0.0.1:0"));
    denied(
        "connect to a socket file",
        UnixStream::connect(path("socket")),
    );
    denied("execute", Command::new("/bin/true").spawn());
    denied("signal its parent", nix::sys::signal::kill(parent, None));
    denied("trace its parent", nix::sys::ptrace::attach(parent));
    let memory = File::open(format!("/proc/{parent}/mem"));
    denied("read its parent's memory", memory);
    denied("signal another", nix::sys::signal::kill(other.0, None));
    denied("trace another", nix::sys::ptrace::attach(other.0));
}
