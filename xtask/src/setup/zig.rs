//! Zig's C compiler, which brings the headers of other systems.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::wheel::wheel;
use crate::shell;

const VERSION: &str = "0.17.0";

/// pip's hashes of the wheels of PyPI's package that contains Zig (Linux x86-64, Linux arm64): pip
/// accepts no other file.
const HASHES: &str = "\
    --hash=sha256:97079827064a7492cce5541ceb438ae8003ce1e54e399676da2d62fb7a5dc08b \\
    --hash=sha256:d2804f94f54f7fcf8169f4b212a619ad688a4e2e6592e976f0cf2e58e2cd8af3
";

/// Zig, and scripts in the place of a C compiler and an archiver for one other system.
pub(crate) struct Zig {
    bin: PathBuf,
}

impl Zig {
    /// Returns a compiler for C programs that take `--target`, as Clang does.
    pub(crate) fn cc(&self) -> PathBuf {
        self.bin.join("cc")
    }

    /// Returns an archiver, as Binutils' `ar`.
    pub(crate) fn ar(&self) -> PathBuf {
        self.bin.join("ar")
    }

    /// Returns the folder for what Zig keeps from one run to the next.
    pub(crate) fn cache(&self) -> PathBuf {
        self.bin.with_file_name("cache")
    }
}

/// Fetches Zig into `target/zig`, unless it is there, and writes the scripts for `target`, an
/// architecture and a system in Zig's naming.
pub(super) fn zig(target: &str) -> Result<Zig> {
    let unpacked = shell::target(&format!("zig/{VERSION}"));
    let program = unpacked.join("ziglang/zig");
    if !program.exists() {
        println!("setup: fetching Zig from PyPI: C code is compiled for {target} with it");
        fetch(&unpacked)?;
    }
    let bin = shell::target(&format!("zig/{target}"));
    fs::create_dir_all(&bin)?;
    let zig = Zig { bin };
    let program = shell::quoted(program.as_os_str());
    // Build scripts add Clang's name of the target, which Zig does not know.
    let cc = format!(
        "#!/bin/sh\n\
         for argument; do\n    \
             shift\n    \
             case $argument in --target=*) ;; *) set -- \"$@\" \"$argument\" ;; esac\n\
         done\n\
         exec {program} cc -target {target} \"$@\"\n"
    );
    script(&zig.cc(), &cc)?;
    script(&zig.ar(), &format!("#!/bin/sh\nexec {program} ar \"$@\"\n"))?;
    Ok(zig)
}

fn fetch(folder: &Path) -> Result<()> {
    fs::create_dir_all(shell::target("zig"))?;
    let requirements = shell::target("zig/requirements.txt");
    fs::write(&requirements, format!("ziglang=={VERSION} \\\n{HASHES}"))?;
    let arguments: [&OsStr; 3] = [
        "--require-hashes".as_ref(),
        "--requirement".as_ref(),
        requirements.as_os_str(),
    ];
    let partial = folder.with_file_name("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    wheel(&arguments, &partial)?;
    // Wheels are unpacked without modes.
    let program = partial.join("ziglang/zig");
    fs::set_permissions(program, fs::Permissions::from_mode(0o755))?;
    fs::rename(&partial, folder)?;
    Ok(())
}

fn script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
