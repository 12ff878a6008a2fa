//! containerd with its EROFS differ and snapshotter: from Debian sid, since stable distributions
//! have versions before 2.1.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::archive::Archive;
use crate::shell;

/// The programs, their packages and suites: runc of sid needs a newer system's libraries.
const PACKAGES: [(&str, &str, &str); 2] = [
    ("sid", "containerd", "usr/bin/containerd"),
    ("bookworm", "runc", "usr/sbin/runc"),
];

/// Unpacks containerd, its shim, ctr and runc into a folder under `target/`, and returns the
/// folders of the programs.
pub(crate) fn containerd() -> Result<Vec<PathBuf>> {
    let root = shell::target("containerd/programs");
    for (suite, package, program) in PACKAGES {
        let program = root.join(program);
        if !program.exists() {
            println!("setup: unpacking {package} from Debian {suite}");
            Archive::open(suite)?.unpack(&[package], &root)?;
        }
        let version = shell::output(Command::new(&program).arg("--version"))
            .with_context(|| format!("{package} of Debian {suite} does not run here"))?;
        println!("setup: {}", version.lines().next().unwrap_or_default());
    }
    Ok(["usr/bin", "usr/sbin"]
        .map(|folder| root.join(folder))
        .into())
}
