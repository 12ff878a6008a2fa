//! `cargo xtask dist`: an archive of the command, its completions and man pages, for this machine's
//! target.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::setup::guest_targets;
use crate::shell;

/// Shells, and the file names of their completions.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "blockbox.bash"),
    ("zsh", "_blockbox"),
    ("fish", "blockbox.fish"),
];

/// Builds `target/dist/blockbox-VERSION-TARGET.tar.gz`.
pub(crate) fn run() -> Result<()> {
    guest_targets();
    let program = shell::release_build()?;
    let name = format!("blockbox-{}-{}", env!("CARGO_PKG_VERSION"), host()?);
    let folder = shell::target("dist");
    let contents = folder.join(&name);
    if contents.exists() {
        fs::remove_dir_all(&contents)?;
    }
    fs::create_dir_all(contents.join("completions"))?;
    copy(&program, &contents.join("blockbox"))?;
    for file in ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"] {
        copy(&shell::repository().join(file), &contents.join(file))?;
    }
    for (shell, file) in COMPLETIONS {
        let script = shell::output(Command::new(&program).args(["completion", shell]))?;
        fs::write(contents.join("completions").join(file), script)?;
    }
    shell::run(Command::new(&program).arg("man").arg(contents.join("man")))?;
    let archive = folder.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&folder).arg("-czf").arg(&archive);
    shell::run(tar.arg(&name))?;
    fs::remove_dir_all(&contents)?;
    println!("{}", archive.display());
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| from.display().to_string())?;
    Ok(())
}

/// Returns the target triple of the compiler's host.
fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = shell::output(Command::new(rustc).arg("-vV"))?;
    version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc -vV names no host")
}
