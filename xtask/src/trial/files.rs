//! `cargo xtask trial files`: other projects' file system tests in a sandbox.
//!
//! fsx makes random reads, writes, truncations and mappings of one file and compares what it reads.
//! pjdfstest checks that system calls on files follow POSIX. A test that fails in the sandbox must
//! also fail on the host's file system of the same kind.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::blockbox::Blockbox;
use crate::{image, setup, shell};

/// From crates.io.
const PROGRAMS: [(&str, &str); 2] = [("fsx", "0.3.2"), ("pjdfstest", "0.2.2")];

/// The features that pjdfstest checks, and the users that it runs as.
const CONFIGURATION: &str = r#"[features]
posix_fallocate = {}
rename_ctime = {}
utimensat = {}
utime_now = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"], ["bin", "bin"]]
"#;

const SANDBOX: &str = "trial-files";

#[derive(Args)]
pub(crate) struct Files {
    /// The blockbox to run, instead of a release build
    #[arg(long)]
    blockbox: Option<PathBuf>,
    /// How many operations fsx makes in each place
    #[arg(long, default_value = "5000")]
    operations: u32,
    /// The seed of fsx's random numbers
    #[arg(long, default_value = "1")]
    seed: u32,
}

/// A folder of the sandbox.
struct Place {
    name: &'static str,
    path: &'static str,
    /// The host's file system of the same kind.
    host: Host,
    /// Tests that may fail though they pass on the host.
    may_fail: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Host {
    Folder,
    /// In an overlay a character device 0:0, which the tests make, is a whiteout.
    Overlay,
}

const PLACES: [Place; 3] = [
    Place {
        name: "root",
        path: "/srv/files",
        host: Host::Overlay,
        may_fail: &[],
    },
    Place {
        name: "share",
        path: "/share",
        host: Host::Folder,
        // FUSE releases a closed file after `close` has returned.
        may_fail: &["open::etxtbsy"],
    },
    Place {
        name: "volume",
        path: "/volume",
        host: Host::Folder,
        may_fail: &[],
    },
];

pub(super) fn run(options: &Files) -> Result<ExitCode> {
    setup::run()?;
    let folder = shell::target("trial/files");
    fs::create_dir_all(&folder)?;
    let programs = install(&folder)?;
    fs::write(folder.join("pjdfstest.toml"), CONFIGURATION)?;
    let program = match &options.blockbox {
        Some(blockbox) => fs::canonicalize(blockbox)?,
        None => shell::release_build()?,
    };
    let image = image::demo().build()?;
    let blockbox = Blockbox::prepare(&program, shell::target("trial/home"))?;
    let scratch = tempfile::tempdir_in(&folder)?;
    fs::set_permissions(scratch.path(), Permissions::from_mode(0o755))?;
    let on_host = |host| failures_on_host(host, &folder, &programs, scratch.path());
    let (in_folder, under_overlay) = (on_host(Host::Folder)?, on_host(Host::Overlay)?);

    let sandbox = Sandbox(&blockbox);
    sandbox.start(&folder, &programs, scratch.path(), &image)?;
    let mut failed = false;
    for place in &PLACES {
        let known = match place.host {
            Host::Folder => &in_folder,
            Host::Overlay => &under_overlay,
        };
        match sandbox.try_out(place, known, options) {
            Ok(line) => println!("passed  {:7} {line}", place.name),
            Err(error) => {
                failed = true;
                println!("FAILED  {:7} {error:#}", place.name);
            }
        }
    }
    Ok(ExitCode::from(u8::from(failed)))
}

/// Builds the programs without shared libraries, unless they are built. Returns their folder.
fn install(folder: &Path) -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    for (name, version) in PROGRAMS {
        let mut cargo = shell::cargo();
        cargo
            .args(["install", "--quiet", "--locked", "--target", &target])
            .arg("--root")
            .arg(folder)
            .arg(format!("{name}@{version}"))
            .env("CARGO_TARGET_DIR", folder.join("build"))
            .env("RUSTFLAGS", "-C target-feature=+crt-static");
        shell::run(&mut cargo)?;
    }
    Ok(folder.join("bin"))
}

/// Returns the tests of pjdfstest that fail on a file system of the host.
fn failures_on_host(
    host: Host,
    folder: &Path,
    programs: &Path,
    scratch: &Path,
) -> Result<BTreeSet<String>> {
    let root = scratch.join(match host {
        Host::Folder => "folder",
        Host::Overlay => "overlay",
    });
    for part in ["", "lower", "upper", "work", "merged"] {
        fs::create_dir_all(root.join(part))?;
    }
    let mount = match host {
        Host::Folder => "",
        Host::Overlay => {
            "mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged && "
        }
    };
    // The mount ends with its namespace.
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--mount", "sh", "-c"])
        .arg(format!(
            "{mount}cd merged && chmod 777 . && {} -c {} -p . 2>&1 || :",
            shell::quoted(programs.join("pjdfstest").as_os_str()),
            shell::quoted(folder.join("pjdfstest.toml").as_os_str()),
        ))
        .current_dir(&root);
    Ok(Report::read(&shell::output(&mut unshare)?)?.failed)
}

/// The report of pjdfstest.
#[derive(Debug, PartialEq, Eq)]
struct Report {
    failed: BTreeSet<String>,
    passed: usize,
}

impl Report {
    fn read(text: &str) -> Result<Self> {
        let ended = |how: &str| -> BTreeSet<String> {
            text.lines()
                .filter_map(|line| {
                    let (name, end) = line.split_once(char::is_whitespace)?;
                    (name.contains("::") && end.trim() == how).then(|| name.to_owned())
                })
                .collect()
        };
        let (failed, passed) = (ended("FAILED"), ended("ok").len());
        // The summary follows all tests.
        let failures = failed.len();
        ensure!(
            text.contains(&format!("Summary: {failures} failed,")),
            "pjdfstest: {text}"
        );
        Ok(Self { failed, passed })
    }
}

/// The sandbox of the trial.
struct Sandbox<'a>(&'a Blockbox);

impl Sandbox<'_> {
    fn start(&self, folder: &Path, programs: &Path, scratch: &Path, image: &Path) -> Result<()> {
        self.remove();
        let share = scratch.join("share");
        fs::create_dir(&share)?;
        let copy = |to: &str, from: &Path| format!("copy:{to}={}", from.display());
        let run = [
            "run",
            "-d",
            "--name",
            SANDBOX,
            "--network",
            "none",
            "-v",
            &format!("{}:/share", share.display()),
            "-v",
            &format!("{SANDBOX}:/volume"),
            "--patch",
            &copy("/fsx", &programs.join("fsx")),
            "--patch",
            &copy("/pjdfstest", &programs.join("pjdfstest")),
            "--patch",
            &copy("/pjdfstest.toml", &folder.join("pjdfstest.toml")),
            &format!("oci:{}:latest", image.display()),
            "--",
            "sleep",
            "infinity",
        ];
        self.0.output(&run).map(drop)
    }

    /// Runs both programs in a folder. Returns a summary.
    fn try_out(&self, place: &Place, known: &BTreeSet<String>, options: &Files) -> Result<String> {
        let Files {
            operations, seed, ..
        } = options;
        let path = place.path;
        self.shell(&format!(
            "mkdir -p {path} && chmod 777 {path} && cd {path} && /fsx -q -N {operations} -S {seed} -P /tmp file"
        ))
        .context("fsx")?;
        let report = self.shell(&format!(
            "cd {path} && /pjdfstest -c /pjdfstest.toml -p {path} 2>&1 || :"
        ))?;
        let Report { failed, passed } = Report::read(&report)?;
        let new: Vec<_> = failed
            .difference(known)
            .filter(|name| !place.may_fail.contains(&name.as_str()))
            .collect();
        ensure!(
            new.is_empty(),
            "pjdfstest fails, unlike on the host: {new:?}\n{report}"
        );
        let alike = failed.len();
        Ok(format!(
            "{operations} operations of fsx; {passed} tests of pjdfstest pass, {alike} fail as they may"
        ))
    }

    fn shell(&self, script: &str) -> Result<String> {
        self.0.output(&["exec", SANDBOX, "/bin/sh", "-c", script])
    }

    fn remove(&self) {
        let _ = self.0.output(&["rm", "-f", SANDBOX]);
        let _ = self.0.output(&["volume", "rm", SANDBOX]);
    }
}

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn reports_are_read_to_their_end() {
        let text = "chmod::eloop    ok\nopen::etxtbsy      FAILED\n\tcalled `Result::unwrap()`\n\
            open::erofs     skipped\n\nSummary: 1 failed, 1 skipped, 1 passed\n";
        let report = Report::read(text).unwrap();
        assert_eq!(report.failed, BTreeSet::from(["open::etxtbsy".to_owned()]));
        assert_eq!(report.passed, 1);
        let cut = text.split("Summary").next().unwrap();
        Report::read(cut).unwrap_err();
    }
}
