//! microsandbox from PyPI, whose wheels contain the command and its guest kernel.
//!
//! The wheels are unpacked under `target/bench/microsandbox`, outside of the workspace.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::guest::{self, BENCH, MEMORY, SECONDS};
use crate::bench::Setting;
use crate::bench::input::Image;
use crate::registry::Registry;
use crate::setup::{self, Archive};
use crate::shell;

/// The versions beside the newest: an early one without FUSE, and the last one with FUSE.
const VERSIONS: [&str; 2] = ["0.4.6", SLOW];

/// The version that is only measured if it is named, because it takes long.
const SLOW: &str = "0.3.14";

/// The libraries that the programs load. Some versions need glibc 2.39, which Debian 13 has.
const LIBRARIES: [&str; 4] = ["libc6", "libgcc-s1", "libcap-ng0", "libdbus-1-3"];

/// An unpacked version.
pub(super) struct Version {
    /// `microsandbox` and the version.
    pub(super) name: String,
    /// The folder with `bin` and `lib`.
    bundle: PathBuf,
}

impl Version {
    /// Returns whether it takes tens of times as long as the others.
    pub(super) fn is_slow(&self) -> bool {
        self.name == name(SLOW)
    }
}

/// Returns the versions to measure, unpacked, and why others are not available.
pub(super) fn versions(setting: &Setting) -> (Vec<Version>, Vec<String>) {
    let (mut versions, mut skipped) = (Vec::new(), Vec::new());
    let named = |number: &&str| {
        setting.wants(&name(number)) && !(*number == SLOW && setting.only.is_empty())
    };
    let listed = VERSIONS.into_iter().filter(named).map(Some);
    for wanted in listed.chain([None]) {
        let version = wanted.map_or_else(newest, kept);
        match version {
            Ok(version) if setting.wants(&version.name) && !is_there(&versions, &version) => {
                versions.push(version);
            }
            Ok(_) => {}
            Err(error) => {
                let number = wanted.unwrap_or("of PyPI, the newest");
                skipped.push(format!("microsandbox {number}: {error:#}"));
            }
        }
    }
    (versions, skipped)
}

fn name(number: &str) -> String {
    format!("microsandbox {number}")
}

fn is_there(versions: &[Version], version: &Version) -> bool {
    versions.iter().any(|other| other.name == version.name)
}

fn folder(number: &str) -> PathBuf {
    shell::target("bench/microsandbox").join(number)
}

fn kept(number: &str) -> Result<Version> {
    let folder = folder(number);
    if !folder.exists() {
        let partial = folder.with_file_name("partial");
        fetch(&format!("microsandbox=={number}"), &partial)?;
        fs::rename(&partial, &folder)?;
    }
    version(number, &folder)
}

/// Fetches the newest version, whose number only the wheel's name says.
fn newest() -> Result<Version> {
    let partial = folder("partial");
    let wheel = fetch("microsandbox", &partial)?;
    // `microsandbox-VERSION-…`
    let number = wheel
        .split('-')
        .nth(1)
        .context("a wheel without a version")?;
    let folder = folder(number);
    if folder.exists() {
        fs::remove_dir_all(&partial)?;
    } else {
        fs::rename(&partial, &folder)?;
    }
    version(number, &folder)
}

fn fetch(wanted: &str, folder: &Path) -> Result<String> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder.parent().context("not the root")?)?;
    eprintln!("bench: fetching {wanted}");
    let wheel = setup::wheel(&[wanted.as_ref()], folder)?;
    Ok(wheel.to_string_lossy().into_owned())
}

fn version(number: &str, folder: &Path) -> Result<Version> {
    let bundle = folder.join("microsandbox/_bundled");
    fs::set_permissions(bundle.join("bin/msb"), fs::Permissions::from_mode(0o755))?;
    // The oldest version looks for its kernel under this name.
    let kernel = bundle.join("lib").join(setup::GUEST_KERNEL);
    if !kernel.exists() {
        let mut files = fs::read_dir(bundle.join("lib"))?.filter_map(Result::ok);
        let file = files.next().context("a wheel without a kernel")?;
        std::os::unix::fs::symlink(file.file_name(), &kernel)?;
    }
    Ok(Version {
        name: name(number),
        bundle,
    })
}

/// Returns the folder with the libraries that all versions load, unpacked if need be.
pub(super) fn libraries() -> Result<PathBuf> {
    let folder = shell::target("bench/trixie");
    shell::make_once(&folder, |folder| {
        Archive::open("trixie")?.unpack_closure(&LIBRARIES, folder)
    })?;
    Ok(folder)
}

/// A registry with the image, from which every version can pull.
pub(super) struct Source {
    /// Serves until this is dropped.
    _registry: Registry,
    /// The certificate of its authority.
    authority: PathBuf,
    reference: String,
}

impl Source {
    pub(super) fn start(
        setting: &Setting,
        folder: &Path,
        image: &Image,
        layout: &Path,
    ) -> Result<Self> {
        // The oldest version speaks HTTPS only.
        let (registry, authority) = Registry::start_with_tls(folder)?;
        let name = image.name.to_ascii_lowercase();
        let reference = format!("localhost:{}/{name}:bench", registry.port());
        let tag = image.tag.as_deref().unwrap_or("@0");
        let mut copy = setting.blockbox(&["copy", "--quiet"]);
        copy.arg(format!("oci:{}:{tag}", layout.display()))
            .arg(&reference)
            .env("SSL_CERT_FILE", &authority);
        shell::output(&mut copy)?;
        Ok(Self {
            _registry: registry,
            authority,
            reference,
        })
    }

    /// Pulls the image into the folder `home`, beside a copy of the version.
    pub(super) fn pull(&self, version: &Version, libraries: &Path, home: &Path) -> Result<()> {
        let mut copy = Command::new("cp");
        shell::output(copy.arg("-a").arg(version.bundle.join(".")).arg(home))?;
        let mut msb = Command::new(libraries.join("usr/lib64/ld-linux-x86-64.so.2"));
        msb.arg("--library-path")
            .arg(libraries.join("usr/lib/x86_64-linux-gnu"))
            .arg(home.join("bin/msb"))
            .args(["pull", "--quiet", &self.reference])
            .env("HOME", home)
            .env("SSL_CERT_FILE", &self.authority);
        shell::output(&mut msb)?;
        Ok(())
    }

    /// The script that runs the workloads in a new sandbox of the version in the folder `home`.
    pub(super) fn script(&self, version: &Version, home: &Path) -> String {
        let path = |name: &str| shell::quoted(home.join(name).as_os_str());
        let command = format!(
            "{} run --quiet --pull never --cpus 1 --memory {MEMORY}M --volume {}:{BENCH} {} -- /bin/sh -c {}",
            path("bin/msb"),
            path("bench"),
            self.reference,
            shell::quoted(guest::workloads("", "").as_ref()),
        );
        let home = shell::quoted(home.as_os_str());
        let seconds = if version.is_slow() {
            60 * SECONDS
        } else {
            SECONDS
        };
        guest::script(&format!("HOME={home}"), &command, seconds)
    }
}
