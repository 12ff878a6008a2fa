//! `cargo xtask uml PROGRAM …`: runs a program under User Mode Linux, a kernel that runs as a
//! process.
//!
//! Debian's has quotas, which the host's kernel may lack, and is a second kernel to test images
//! with. Programs see the host's files through hostfs; `$TMPDIR` is an ext4 with extended
//! attributes. No mount hides a folder of the host that may contain the repository. Cargo can run
//! tests in it, with `xtask uml` as `target.'cfg(unix)'.runner`.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ext4_writer::{Builder, Options};

use crate::shell;

/// The kernel's program, from Debian's package `user-mode-linux`.
const KERNEL: &str = "linux.uml";

/// The folder of that package with the modules of each release.
const MODULES: &str = "/usr/lib/uml/modules";

/// Modules that must be loaded, in order.
const LOADED: [&str; 4] = [
    "drivers/block/loop.ko",
    "fs/erofs/erofs.ko",
    "fs/quota/quota_tree.ko",
    "fs/quota/quota_v2.ko",
];

/// Returns whether programs can run in it on this host.
pub(crate) fn is_possible() -> bool {
    shell::program(KERNEL).is_some() && modules().is_ok()
}

/// Returns the command that runs a program in it, to which arguments of the program can be added.
pub(crate) fn command(program: &Path) -> Command {
    // Not this process's own program, which `cargo test` may have replaced.
    let mut command = Command::new(shell::built("debug").with_file_name("xtask"));
    command.arg("uml").arg(program);
    command
}

/// Runs a program in it, with this process's environment and folder, for at most `limit`. Returns
/// the program's exit code, after writing its output to stdout.
pub(crate) fn run(command: &[OsString], limit: Duration) -> Result<ExitCode> {
    let kernel = shell::program(KERNEL).context("no User Mode Linux here: see setup")?;
    let is_plain = |folder: &PathBuf| shell::is_plain(folder.as_os_str());
    // The kernel splits its command line at blanks and quotes.
    let folders = [shell::target("uml"), std::env::temp_dir()]
        .into_iter()
        .find(is_plain)
        .unwrap_or_else(|| "/tmp".into());
    fs::create_dir_all(&folders)?;
    let folder = tempfile::tempdir_in(&folders)?;
    let result = boot(&kernel, folder.path(), command, limit);
    folder.close()?;
    result
}

fn boot(kernel: &Path, folder: &Path, command: &[OsString], limit: Duration) -> Result<ExitCode> {
    let at = |name| folder.join(name);
    Builder::new(File::create(at("tmp.ext4"))?, Options::new(1 << 30))?.finish()?;
    let init = at("init");
    let mut file = File::create(&init)?;
    file.write_all(script(folder, command)?.as_bytes())?;
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    drop(file);

    let mut uml = Command::new(kernel);
    uml.args(["mem=2G", "root=/dev/root", "rootfstype=hostfs", "rw"])
        .args(["rootflags=/", "con=null", "quiet"])
        .arg(format!("uml_dir={}", folder.display()))
        .arg(format!("init={}", init.display()));
    stay_on_one_processor()?;
    // The console is silent while the program runs.
    let console = shell::watched(&mut uml, limit)?;
    print!(
        "{}",
        String::from_utf8_lossy(&fs::read(at("output")).unwrap_or_default())
    );
    let Ok(status) = fs::read_to_string(at("status")) else {
        let how = match console.status {
            Some(status) => format!("ended before the program did ({status})"),
            None => format!("was ended after {} s", limit.as_secs()),
        };
        bail!("{KERNEL} {how}:\n{}", console.lines.join("\n"));
    };
    Ok(ExitCode::from(status.trim().parse::<u8>()?))
}

/// Binds this thread, and its children, to one processor: the kernel and its programs take turns at
/// every system call, and waking another processor takes longer than everything else.
#[cfg(target_os = "linux")]
fn stay_on_one_processor() -> Result<()> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    let allowed = sched_getaffinity(None)?;
    let allowed: Vec<_> = (0..CpuSet::MAX_CPU)
        .filter(|&cpu| allowed.is_set(cpu))
        .collect();
    let mut one = CpuSet::new();
    // Other processes may run one of their own.
    if let Some(&cpu) = allowed.get(std::process::id() as usize % allowed.len().max(1)) {
        one.set(cpu);
        sched_setaffinity(None, &one)?;
    }
    Ok(())
}

/// Only supported on Linux.
#[cfg(not(target_os = "linux"))]
fn stay_on_one_processor() -> Result<()> {
    Ok(())
}

/// Returns the script that runs as process 1. It is not run by busybox's shell, which starts itself
/// through `/proc/self/exe`, and that is the kernel while `/proc` is still the host's.
fn script(folder: &Path, command: &[OsString]) -> Result<String> {
    let quoted = |path: &Path| shell::quoted(path.as_os_str());
    let modules = modules()?;
    let scratch = folder.join("tmp");
    let mut script = "#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mkdir -p /dev/shm
"
    .to_owned();
    let here = std::env::current_dir()?;
    for (memory, options) in [("/dev/shm", "-o size=80% "), ("/run", "")] {
        // A mount there would hide a repository or a program below it.
        let in_use = [folder, &here, shell::repository()]
            .into_iter()
            .chain(command.iter().map(Path::new))
            .any(|path| path.starts_with(memory));
        script += &if in_use {
            // The kernel's own /dev hides the host's.
            format!("mount -t hostfs -o {memory} hostfs {memory}\n")
        } else {
            format!("mount -t tmpfs {options}tmpfs {memory}\n")
        };
    }
    for module in LOADED {
        script += &format!(
            "busybox insmod {} || exit\n",
            quoted(&modules.join("kernel").join(module))
        );
    }
    script += &format!(
        "mkdir -p {scratch}\nmount -t ext4 -o loop {} {scratch} || exit\nchmod 1777 {scratch}\n",
        quoted(&folder.join("tmp.ext4")),
        scratch = quoted(&scratch),
    );
    for (name, value) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            script += &format!("export {name}={}\n", shell::quoted(&value));
        }
    }
    script += &format!("export TMPDIR={}\n", quoted(&scratch));
    let words: Vec<_> = command.iter().map(|word| shell::quoted(word)).collect();
    script += &format!(
        "cd {}\n{} >{output} 2>&1 </dev/null\necho $? >{status}\numount {scratch}\nexec busybox poweroff -f\n",
        quoted(&here),
        words.join(" "),
        scratch = quoted(&scratch),
        output = quoted(&folder.join("output")),
        status = quoted(&folder.join("status")),
    );
    Ok(script)
}

/// Returns the modules of the only installed release.
fn modules() -> Result<PathBuf> {
    let mut releases = fs::read_dir(MODULES).context(MODULES)?;
    Ok(releases.next().context(MODULES)??.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_status_of_a_program_in_user_mode_linux_is_returned() {
        if !is_possible() {
            println!("SKIPPED: no {KERNEL}, without which `cargo xtask test` fails on x86-64");
            return;
        }
        let run = |script: &str| {
            let command = ["sh", "-c", script].map(OsString::from);
            run(&command, Duration::from_secs(60)).expect("a boot")
        };
        assert_eq!(
            run(
                "grep -q '^quota_v2 ' /proc/modules && touch $TMPDIR/file && setfattr -n user.a -v b $TMPDIR/file && exit 7"
            ),
            ExitCode::from(7)
        );
        assert_eq!(run("true"), ExitCode::SUCCESS);
    }

    #[test]
    fn user_mode_linux_does_not_hide_the_folders_a_repository_may_lie_in() {
        if !is_possible() {
            println!("SKIPPED: no {KERNEL}, without which `cargo xtask test` fails on x86-64");
            return;
        }
        for folder in ["/tmp", "/dev/shm", "/run"] {
            let program = tempfile::Builder::new()
                .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .tempfile_in(folder)
                .expect("a file");
            fs::write(program.path(), "#!/bin/sh\nexit 3\n").expect("a script");
            let program = program.into_temp_path();
            assert_eq!(
                run(&[program.as_os_str().to_owned()], Duration::from_secs(60)).expect("a boot"),
                ExitCode::from(3),
                "{folder}"
            );
        }
    }
}
