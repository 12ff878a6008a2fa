//! Debian packages unpacked without being installed, from any suite and on any distribution that
//! has apt.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One suite of Debian's archive, with apt state separate from the machine's.
pub(crate) struct Archive {
    state: PathBuf,
    /// `None` is this machine's.
    architecture: Option<&'static str>,
}

impl Archive {
    /// Opens `suite`, fetching its package lists.
    pub(crate) fn open(suite: &str) -> Result<Self> {
        Self::open_for(suite, None)
    }

    /// As [`open`](Self::open), for packages of another architecture than this machine's.
    pub(crate) fn open_for(suite: &str, architecture: Option<&'static str>) -> Result<Self> {
        let name = architecture.map_or(suite.to_owned(), |other| format!("{suite}-{other}"));
        let archive = Self {
            state: shell::target(&format!("apt/{name}")),
            architecture,
        };
        for folder in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(archive.state.join(folder))?;
        }
        // This apt sees no installed packages, so it fetches every dependency.
        fs::write(archive.state.join("status"), "")?;
        fs::write(
            archive.state.join("sources.list"),
            format!("deb [signed-by={KEYRING}] {} {suite} main\n", mirror()?),
        )?;
        shell::output(archive.apt("apt-get").args(["update", "-qq"]))?;
        Ok(archive)
    }

    /// Returns the first package that the package `name` depends on, for meta-packages such as
    /// `linux-image-amd64`.
    pub(crate) fn first_dependency(&self, name: &str) -> Result<String> {
        let depends = shell::output(self.apt("apt-cache").args(["depends", name]))?;
        depends
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: "))
            .map(str::to_owned)
            .with_context(|| format!("{name} depends on nothing"))
    }

    /// Fetches `packages` and all their dependencies, and unpacks them into `root`.
    pub(crate) fn unpack_closure(&self, packages: &[&str], root: &Path) -> Result<()> {
        shell::output(
            self.apt("apt-get")
                .args(["install", "-y", "-qq", "--download-only"])
                .arg("--no-install-recommends")
                .args(packages),
        )?;
        self.unpack_fetched(&self.state.join("archives"), root)
    }

    /// Fetches only `packages` and unpacks them into `root`.
    pub(crate) fn unpack(&self, packages: &[&str], root: &Path) -> Result<()> {
        let folder = self.state.join("alone");
        fs::create_dir_all(&folder)?;
        shell::output(
            self.apt("apt-get")
                .args(["download", "-qq"])
                .args(packages)
                .current_dir(&folder),
        )?;
        self.unpack_fetched(&folder, root)
    }

    /// Unpacks every package in `folder` and removes it there.
    fn unpack_fetched(&self, folder: &Path, root: &Path) -> Result<()> {
        fs::create_dir_all(root)?;
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                shell::output(Command::new("dpkg").arg("-x").arg(&path).arg(root))?;
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn apt(&self, program: &str) -> Command {
        let mut apt = Command::new(program);
        for (key, value) in [
            ("Dir::Etc::SourceList", "sources.list"),
            ("Dir::State::Lists", "lists"),
            ("Dir::State::status", "status"),
            ("Dir::Cache::archives", "archives"),
        ] {
            let path = self.state.join(value);
            apt.arg("-o").arg(format!("{key}={}", path.display()));
        }
        for key in ["Architecture", "Architectures"] {
            let other = self.architecture.iter();
            apt.args(other.flat_map(|other| ["-o".to_owned(), format!("APT::{key}={other}")]));
        }
        apt.args([
            "-o",
            "Dir::Etc::SourceParts=-",
            "-o",
            "Dir::Cache::pkgcache=",
            "-o",
            "Dir::Cache::srcpkgcache=",
            "-o",
            "Acquire::Languages=none",
            // An outdated mirror can be used as well, because its signature is verified.
            "-o",
            "Acquire::Check-Valid-Until=false",
            // Run as root, apt would fetch as a user who cannot write to these folders.
            "-o",
            "APT::Sandbox::User=root",
        ]);
        apt
    }
}

/// Returns the dynamic loader and the library folder of an unpacked system, relative to `root`.
pub(crate) fn loader(root: &Path) -> Result<(String, String)> {
    let libraries = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let found = fs::read_dir(root.join(&libraries))?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.to_owned()))
        .find(|name| name.starts_with("ld-linux"))
        .with_context(|| format!("no dynamic loader in {}", root.display()))?;
    Ok((format!("{libraries}/{found}"), libraries))
}

/// Returns the Debian mirror that apt is configured with.
pub(crate) fn mirror() -> Result<String> {
    let mut targets = Command::new("apt-get");
    targets.args(["indextargets", "--format", "$(REPO_URI)"]);
    shell::output(targets.arg("Identifier: Packages"))?
        .lines()
        .map(|uri| uri.trim_end_matches('/'))
        // Security and third-party archives hold only some packages, and have other paths.
        .find(|uri| uri.ends_with("/debian"))
        .map(str::to_owned)
        .context("apt's sources name no Debian archive (an address that ends in /debian)")
}
