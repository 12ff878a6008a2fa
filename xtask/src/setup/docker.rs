//! A Docker engine and its client from Debian's packages, unpacked.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::archive::Archive;
use crate::shell;

/// The packages: of one suite, as the engine starts the containerd that it was built for.
const PACKAGES: [&str; 3] = ["docker.io", "containerd", "runc"];

/// Unpacks a Docker engine into a folder under `target/`, and returns the folders of its programs.
pub(crate) fn docker() -> Result<Vec<PathBuf>> {
    let root = shell::target("docker/programs");
    let folders = ["usr/bin", "usr/sbin"].map(|folder| root.join(folder));
    let engine = root.join("usr/sbin/dockerd");
    if !engine.exists() {
        println!("setup: unpacking docker.io from Debian bookworm");
        Archive::open("bookworm")?.unpack(&PACKAGES, &root)?;
    }
    let version = shell::output(Command::new(&engine).arg("--version"))
        .context("dockerd of Debian bookworm does not run here")?;
    println!("setup: {}", version.trim());
    Ok(folders.into())
}
