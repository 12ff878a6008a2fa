//! containerd with its EROFS differ and snapshotter: from Debian sid, since stable distributions
//! have versions before 2.1.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::archive::Archive;
use crate::shell;

/// The programs of the packages, and the suites that they come from: runc needs a newer system's
/// libraries in sid.
const PACKAGES: [(&str, &str, &str); 2] = [
    ("sid", "containerd", "usr/bin/containerd"),
    ("bookworm", "runc", "usr/sbin/runc"),
];

/// Unpacks containerd, its shim, ctr and runc into a folder of ours, and returns the folders of the
/// programs.
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
