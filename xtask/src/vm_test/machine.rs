//! Runs the checks on this host, or in the outer machine.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::outer::{INIT, Outer};
use crate::shell;
use crate::system::{initramfs, inside, install, libraries, write_program};

/// How long the outer machine may be silent; it prints a line after each check.
const LIMIT: Duration = Duration::from_secs(4 * 60);

/// How often the outer machine is started, because its emulation, rather than what is tested in it,
/// may fail.
const TRIES: u32 = 3;

/// Programs that the checks use besides blockbox and busybox.
const PROGRAMS: [&str; 3] = ["e2fsck", "debugfs", "dumpe2fs"];

/// Modules beside KVM's, in the order in which they are loaded.
const MODULES: [&str; 3] = ["loop.ko", "quota_tree.ko", "quota_v2.ko"];

/// Runs the script on this host. Returns its report.
pub(super) fn here(blockbox: &Path, home: &Path, script: &str) -> Result<String> {
    let work = shell::target("vm-test/work");
    fs::create_dir_all(&work)?;
    let bin = blockbox.parent().context("a file has a folder")?;
    let path = format!(
        "{}:{}",
        bin.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    shell::output(
        Command::new("/bin/sh")
            .args(["-c", &format!("exec 3>&1\n{script}")])
            .current_dir(&work)
            .env("PATH", path)
            .env("BLOCKBOX_HOME", home),
    )
}

/// The outer machine, and an initramfs with everything.
pub(super) struct Machine {
    outer: Outer,
}

impl Machine {
    /// Makes what does not depend on what is tested, where that is not done yet.
    pub(super) fn prepare() -> Result<Self> {
        let outer = Outer::prepare()?;
        Ok(Self { outer })
    }

    /// Boots the machine with blockbox, the store `home` at the same path as here, and the script.
    /// Returns its report.
    pub(super) fn run(&self, blockbox: &Path, home: &Path, script: &str) -> Result<String> {
        let folder = shell::target("vm-test");
        let initramfs = folder.join("initramfs");
        self.pack(&folder.join("root"), &initramfs, blockbox, home, script)?;
        let console = folder.join("console.log");
        let mut qemu = self.outer.command(&["nice", "-n", "10"], "");
        qemu.args(["-accel", "tcg,thread=multi", "-m", "3000"])
            .arg("-initrd")
            .arg(&initramfs)
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-serial", "stdio"]);
        let mut report = String::new();
        for _ in 0..TRIES {
            report = watched(&mut qemu)?;
            if report.lines().any(|line| line.trim() == "done") {
                break;
            }
            let console = fs::read(&console).unwrap_or_default();
            let text = String::from_utf8_lossy(&console);
            let lines: Vec<_> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(40)..].join("\n");
            println!("vm-test: the outer machine ended early; its console:\n{tail}");
        }
        Ok(report)
    }

    /// Writes the initramfs.
    fn pack(
        &self,
        root: &Path,
        output: &Path,
        blockbox: &Path,
        home: &Path,
        script: &str,
    ) -> Result<()> {
        if root.exists() {
            fs::remove_dir_all(root)?;
        }
        for dir in ["dev", "proc", "sys", "tmp"] {
            fs::create_dir_all(root.join(dir))?;
        }
        let insmods = self.outer.install(root, &MODULES)?;
        install(blockbox, &root.join("bin/blockbox"))?;
        // Debugging information would be most of the initramfs.
        let _ = Command::new("strip")
            .arg("--strip-debug")
            .arg(root.join("bin/blockbox"))
            .status();
        let mut programs = vec![blockbox.to_owned()];
        for name in PROGRAMS {
            let program = shell::program(name).with_context(|| format!("no {name}"))?;
            install(&program, &root.join("bin").join(name))?;
            programs.push(program);
        }
        for library in libraries(&programs)? {
            install(&library, &inside(root, &library))?;
        }
        let inner_home = inside(root, home);
        fs::create_dir_all(inner_home.parent().context("not the root")?)?;
        shell::output(Command::new("cp").arg("-a").arg(home).arg(&inner_home))?;

        write_program(
            &root.join("init"),
            &format!(
                "{INIT}\
                 export BLOCKBOX_HOME={}\n\
                 {insmods}\
                 ls -l /dev/kvm\n\
                 stty -F /dev/ttyS1 raw -echo\n\
                 exec 3>/dev/ttyS1\n\
                 cd /tmp\n\
                 . /checks\n\
                 poweroff -f\n",
                shell::quoted(home.as_os_str())
            ),
        )?;
        write_program(&root.join("checks"), script)?;
        initramfs(root, output)
    }
}

/// Runs the machine and returns its output. Kills it if it is silent for too long.
fn watched(qemu: &mut Command) -> Result<String> {
    let watched = shell::watched(qemu, LIMIT)?;
    match watched.status {
        None => println!("vm-test: the outer machine says nothing for {LIMIT:?}: ended"),
        Some(status) if !status.success() => println!("vm-test: {}: {status}", shell::line(qemu)),
        Some(_) => {}
    }
    let lines = watched.lines.into_iter();
    Ok(lines.map(|line| line + "\n").collect())
}
