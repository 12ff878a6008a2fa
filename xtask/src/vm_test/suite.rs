//! `cargo xtask vm-test --test NAME`: an integration test of the command in the outer machine, where
//! libkrun runs its sandboxes.
//!
//! The outer machine has this host's files as its root, through virtio-fs. What it writes stays in
//! its memory.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::outer::{INIT, Outer};
use crate::share::Share;
use crate::system::{self, write_program};
use crate::{setup, shell, test_program};

/// The folder of the command's package.
const PACKAGE: &str = "runtime/cli";

/// How long the outer machine may be silent; it prints a line after each test.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// The memory of the outer machine, which holds its guests, their images and all that tests write,
/// in MiB.
const MEMORY: u32 = 8192;

/// Modules beside KVM's, in the order in which they are loaded.
const MODULES: [&str; 11] = [
    "virtio.ko",
    "virtio_ring.ko",
    "virtio_pci_legacy_dev.ko",
    "virtio_pci_modern_dev.ko",
    "virtio_pci.ko",
    "fuse.ko",
    "virtiofs.ko",
    "overlay.ko",
    "veth.ko",
    "loop.ko",
    "tun.ko",
];

/// The start of the line with the exit status of the tests.
const STATUS: &str = "vm-test: the tests ended with ";

/// Runs the integration test `test` with `arguments` for its harness.
pub(crate) fn run(test: &str, arguments: &[String]) -> Result<ExitCode> {
    ensure!(
        std::env::consts::ARCH == "x86_64" && std::env::consts::OS == "linux",
        "the outer machine is an x86-64 one, for Linux programs"
    );
    setup::run()?;
    let package = shell::repository().join(PACKAGE);
    let program = test_program::build(&package, test)?;
    let folder = shell::target("vm-test/suite");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let outer = Outer::prepare()?;
    let initramfs = pack(&outer, &folder, &script(&program, &package, arguments))?;

    // The path of a socket has to be short.
    let sockets = tempfile::Builder::new().prefix("vm-test").tempdir()?;
    // It cannot change its root from that folder to itself, as it does by default.
    let options = "cache=always,sandbox=chroot,log_level=err";
    let share = Share::start(Path::new("/"), &sockets.path().join("files"), options)?;
    let console = folder.join("console.log");
    let mut qemu = outer.command(&[], "");
    qemu.args(["-accel", "tcg,thread=multi", "-m", &format!("{MEMORY}M")])
        .arg("-initrd")
        .arg(&initramfs)
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-serial", "stdio"]);
    share.attach(&mut qemu, MEMORY, "vhost-user-fs-pci");
    println!("{test} runs in an outer machine that QEMU emulates");
    let watched = shell::watched_by(&mut qemu, LIMIT, |line| {
        if !line.starts_with(STATUS) {
            println!("{line}");
        }
    })?;
    drop(share);
    let status = watched
        .lines
        .iter()
        .find_map(|line| line.strip_prefix(STATUS));
    match status {
        Some("0") => Ok(ExitCode::SUCCESS),
        Some(status) => bail!("{test}: status {status}"),
        None => bail!(
            "the outer machine ended early; its console is {}",
            console.display()
        ),
    }
}

/// Returns the script that runs the tests within this host's files.
fn script(program: &Path, package: &Path, arguments: &[String]) -> String {
    let mut words = vec![
        shell::quoted(program.as_os_str()),
        "--test-threads=1".to_owned(),
    ];
    words.extend(arguments.iter().map(|word| shell::quoted(word.as_ref())));
    let mut path = OsString::from("PATH=");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    format!(
        "cd {}\n\
         /usr/bin/env -i {} HOME=/root CI=true BLOCKBOX_VMM=libkrun {} 2>&1 </dev/null\n\
         echo \"{STATUS}$?\"\n",
        shell::quoted(package.as_os_str()),
        shell::quoted(&path),
        words.join(" "),
    )
}

/// Writes the initramfs of the outer machine. Returns its path.
fn pack(outer: &Outer, folder: &Path, script: &str) -> Result<PathBuf> {
    let root = folder.join("root");
    for dir in ["dev", "proc", "sys", "host", "own", "all"] {
        fs::create_dir_all(root.join(dir))?;
    }
    let insmods = outer.install(&root, &MODULES)?;
    write_program(
        &root.join("init"),
        &format!(
            "{INIT}\
             {insmods}\
             mount -t virtiofs -o ro share /host\n\
             mount -t tmpfs own /own && mkdir /own/upper /own/work\n\
             mount -t overlay -o lowerdir=/host,upperdir=/own/upper,workdir=/own/work all /all\n\
             for name in proc sys dev; do mount --move /$name /all/$name; done\n\
             mkdir -p /all/dev/pts /all/dev/shm\n\
             mount -t devpts devpts /all/dev/pts\n\
             mount -t cgroup2 cgroup /all/sys/fs/cgroup\n\
             for name in dev/shm tmp run; do mount -t tmpfs tmpfs /all/$name; done\n\
             stty -F /all/dev/ttyS1 raw -echo\n\
             cp /tests /all/run/tests\n\
             chroot /all /bin/sh /run/tests >/all/dev/ttyS1\n\
             poweroff -f\n"
        ),
    )?;
    write_program(&root.join("tests"), script)?;
    let initramfs = folder.join("initramfs");
    system::initramfs(&root, &initramfs)?;
    Ok(initramfs)
}
