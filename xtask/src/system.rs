//! Files of small systems that are booted here.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell;

/// Returns all shared libraries that `programs` load, including the loader.
pub(crate) fn libraries(programs: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for program in programs {
        let listing = shell::output(Command::new("ldd").arg(program))?;
        for line in listing.lines() {
            // `libc.so.6 => /lib/…/libc.so.6 (0x…)`, or only the loader's path.
            let path = line.split_whitespace().find(|word| word.starts_with('/'));
            found.extend(path.map(PathBuf::from));
        }
    }
    Ok(found)
}

/// Returns the absolute path `path` under `root`.
pub(crate) fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Copies a file, and creates the target's folder if needed.
pub(crate) fn install(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("not the root")?)?;
    fs::copy(from, to).with_context(|| from.display().to_string())?;
    Ok(())
}

/// Writes an executable script.
pub(crate) fn write_program(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Packs the folder `root` as the initramfs `output`.
pub(crate) fn initramfs(root: &Path, output: &Path) -> Result<()> {
    let mut pack = Command::new("/bin/sh");
    pack.args(["-ec", r#"find . | cpio --quiet -o -H newc > "$OUT""#]);
    shell::output(pack.env("OUT", output).current_dir(root)).map(drop)
}
