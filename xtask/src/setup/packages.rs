//! Programs from the distribution's packages.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::shell;

/// A needed file, the package that contains it, and the reason.
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
    need("bash", "bash", "runs the guide's commands"),
    need(
        "qemu-system-x86_64",
        "qemu-system-x86",
        "the VMM where libkrun cannot run, and the outer machine of vm-test",
    ),
    need(
        "qemu-system-aarch64",
        "qemu-system-arm",
        "the VMM of arm64 guests where libkrun cannot run",
    ),
    need(
        "busybox",
        "busybox-static",
        "what runs in the guests of tests",
    ),
    need("qemu-img", "qemu-utils", "tests read VMDK disks with it"),
    need("qemu-io", "qemu-utils", "tests write VMDK disks with it"),
    need(
        "docker-registry",
        "docker-registry",
        "the demo and tests pull from a real registry on loopback",
    ),
    need("skopeo", "skopeo", "pushes images to that registry"),
    need(
        "podman",
        "podman",
        "tests have it load what we save, and load what it saves",
    ),
    need(
        "umoci",
        "umoci",
        "tests compare our trees with what it unpacks",
    ),
    need("bzip2", "bzip2", "tests read image archives it compressed"),
    need("mmdebstrap", "mmdebstrap", "makes the demo image's base"),
    need("e2fsck", "e2fsprogs", "tests check ext4 images with it"),
    need(
        "debugfs",
        "e2fsprogs",
        "tests look into ext4 images with it",
    ),
    need("dumpe2fs", "e2fsprogs", "tests ask it for ext4 features"),
    need("mke2fs", "e2fsprogs", "tests compare ext4 images with its"),
    need(
        "resize2fs",
        "e2fsprogs",
        "tests compare grown images with its",
    ),
    need("fio", "fio", "tests write to ext4 images with it"),
    need("cc", "gcc", "tests run a program of theirs in a guest"),
    need(
        "stress-ng",
        "stress-ng",
        "tests wear out ext4 images with it",
    ),
    need(
        "ip",
        "iproute2",
        "tests of the network gateway make namespaces with it",
    ),
    need(
        "ping",
        "iputils-ping",
        "tests send echo requests through the network gateway",
    ),
    need(
        "curl",
        "curl",
        "tests fetch through the network gateway with it",
    ),
    need(
        "iperf3",
        "iperf3",
        "tests run it in a sandbox, through the network gateway",
    ),
    need(
        "nghttpd",
        "nghttp2-server",
        "tests fetch over HTTP/2 through the network gateway from it",
    ),
    need(
        "/usr/lib/python3/dist-packages/websockets",
        "python3-websockets",
        "tests hold a WebSocket open through the network gateway with it",
    ),
    need(
        "wrk",
        "wrk",
        "tests load a sandbox's published port with it",
    ),
    need(
        "/usr/lib/python3/dist-packages/pip",
        "python3-pip",
        "tests install a package in a sandbox with it",
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
    need("xz", "xz-utils", "compresses a tar for mkfs.erofs"),
    need("tar", "tar", "tests read archives as it does"),
    need("openssl", "openssl", "makes the certificate of a registry"),
    need(
        "tmux",
        "tmux",
        "tests work with sandboxes at a terminal of it",
    ),
    need("strace", "strace", "tests see what is synced before what"),
    need("perl", "perl-base", "makes the password file of a registry"),
    need("cpio", "cpio", "packs the outer machine of vm-test"),
    #[cfg(target_arch = "x86_64")]
    need(
        "linux.uml",
        "user-mode-linux",
        "a kernel with quotas, in which tests write to ext4",
    ),
    need("sfdisk", "fdisk", "tests read partition tables with it"),
    need("sgdisk", "gdisk", "tests check partition tables with it"),
    need("mkfs.xfs", "xfsprogs", "tests make disks to boot from"),
    need("mkfs.btrfs", "btrfs-progs", "tests make disks to boot from"),
    need(
        "mksquashfs",
        "squashfs-tools",
        "tests make disks to boot from",
    ),
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

/// Programs and libraries to run and link programs of other machines, only for `cargo xtask cross`.
const CROSS: &[Need] = &[
    need(
        "qemu-aarch64",
        "qemu-user",
        "runs programs of other machines",
    ),
    need(
        "aarch64-linux-gnu-gcc",
        "gcc-aarch64-linux-gnu",
        "links programs for arm64",
    ),
    need(
        "/usr/aarch64-linux-gnu/include/stdio.h",
        "libc6-dev-arm64-cross",
        "the C library of arm64",
    ),
    need(
        "s390x-linux-gnu-gcc",
        "gcc-s390x-linux-gnu",
        "links programs for a big-endian machine",
    ),
    need(
        "/usr/s390x-linux-gnu/include/stdio.h",
        "libc6-dev-s390x-cross",
        "the C library of a big-endian machine",
    ),
    need(
        "i686-linux-gnu-gcc",
        "gcc-i686-linux-gnu",
        "links programs for a 32-bit machine",
    ),
    need(
        "/usr/i686-linux-gnu/include/stdio.h",
        "libc6-dev-i386-cross",
        "the C library of a 32-bit machine",
    ),
];

/// Installs missing packages of [`CROSS`]. Returns `false` if some are still missing.
pub(super) fn install_for_cross() -> Result<bool> {
    let absent = |need: &&Need| !present(need.file);
    let mut missing: BTreeMap<_, _> = CROSS
        .iter()
        .filter(absent)
        .map(|need| (need.package, need.why))
        .collect();
    if super::wheel::python_with_pip().is_none() {
        missing.insert("python3-pip", "fetches a C compiler for macOS from PyPI");
    }
    Ok(missing.is_empty() || install_packages(&missing)?)
}

/// Installs the missing packages. Returns `false` if some are still missing.
pub(super) fn install() -> Result<bool> {
    let mut missing = missing();
    let mut asked = BTreeMap::new();
    // A second time for packages that the first installation removed: those of one source that are
    // newer than the others.
    while !missing.is_empty() && missing != asked {
        if !install_packages(&missing)? {
            return Ok(false);
        }
        asked = std::mem::replace(&mut missing, self::missing());
    }
    if missing.is_empty() {
        println!("setup: every program is installed");
    }
    Ok(missing.is_empty())
}

/// Returns the missing packages, and why they are needed.
fn missing() -> BTreeMap<&'static str, &'static str> {
    let mut missing = BTreeMap::new();
    for need in NEEDS.iter().filter(|need| !present(need.file)) {
        missing.insert(need.package, need.why);
    }
    if super::kernel::needs_pip() {
        missing.insert("python3-pip", "fetches the guest kernel from PyPI");
    }
    missing
}

/// Installs packages, printing the reasons. Returns `false` if another user must do so.
fn install_packages(missing: &BTreeMap<&'static str, &'static str>) -> Result<bool> {
    println!("setup: missing here:");
    for (package, why) in missing {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    /// Returns the names passed to `oracle` in the Rust files below `folder`.
    fn oracles(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.ends_with("target") {
                oracles(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                for call in text.split("oracle(").skip(1) {
                    let name = call.trim_start().strip_prefix('"');
                    let name = name.and_then(|rest| Some(rest.split_once('"')?.0));
                    let is_name = |name: &&str| name.starts_with(|c: char| c.is_ascii_lowercase());
                    found.extend(name.filter(is_name).map(str::to_owned));
                }
            }
        }
    }

    #[test]
    fn every_program_that_a_test_needs_is_installed() {
        let mut asked = BTreeSet::new();
        oracles(shell::repository(), &mut asked);
        assert!(asked.contains("busybox"));
        let unpacked = super::super::oracles::PROGRAMS;
        let installed =
            |name: &str| NEEDS.iter().any(|need| need.file == name) || unpacked.contains(&name);
        asked.retain(|name| !installed(name));
        assert_eq!(asked, BTreeSet::new());
    }
}
