//! A peer that makes the same kind of disks: the library `microsandbox-image`, in a separate
//! program.
//!
//! The program is a project under `target/bench`, outside of the workspace and its lock file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::contest::Contender;
use super::{Setting, image};
use crate::shell;

const VERSION: &str = "0.7.13";

const NAME: &str = "bench-microsandbox";

const PROGRAM: &str = r#"//! Loads an image archive into a cache folder: every layer becomes an EROFS image, and all are merged.
fn main() {
    let mut args = std::env::args_os().skip(1).map(std::path::PathBuf::from);
    let (cache, archive) = (args.next().unwrap(), args.next().unwrap());
    let load = microsandbox_image::load_archive(&cache, &archive, Default::default());
    let loaded = tokio::runtime::Runtime::new().unwrap().block_on(load);
    assert!(!loaded.unwrap().is_empty());
}
"#;

/// Returns the peer, built if possible; it reads the layout from `archive`, which is made here.
pub(super) fn contender(
    setting: &Setting,
    layout: &Path,
    archive: &Path,
) -> Result<Contender, String> {
    let name = format!("microsandbox-image {VERSION}");
    let program = build().map_err(|error| {
        let error = format!("{error:#}");
        let line = error.lines().find(|line| line.starts_with("error"));
        format!("{name}: {}", line.unwrap_or(&error))
    })?;
    image::pack(layout, archive).map_err(|error| format!("{name}: {error:#}"))?;
    let output = setting.path("microsandbox");
    let mut command = Command::new(program);
    command.arg(&output).arg(archive);
    Ok(Contender::peer(&name, command, image::folder(output)))
}

fn build() -> Result<PathBuf> {
    let project = shell::target("bench").join(NAME);
    let program = project.join("target/release").join(NAME);
    if program.is_file() {
        return Ok(program);
    }
    fs::create_dir_all(project.join("src"))?;
    let manifest = format!(
        "[package]\nname = \"{NAME}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
         [dependencies]\nmicrosandbox-image = \"={VERSION}\"\n\
         tokio = {{ version = \"1\", features = [\"rt-multi-thread\"] }}\n\n\
         [workspace]\n"
    );
    fs::write(project.join("Cargo.toml"), manifest)?;
    fs::write(project.join("src/main.rs"), PROGRAM)?;
    eprintln!("bench: building microsandbox-image {VERSION}, which takes a while once");
    let mut cargo = shell::cargo();
    cargo
        .current_dir(&project)
        .env_remove("CARGO_TARGET_DIR")
        .args(["build", "--quiet", "--release"]);
    shell::output(&mut cargo).context("cargo build")?;
    Ok(program)
}
