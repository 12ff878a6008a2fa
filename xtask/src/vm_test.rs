//! `cargo xtask vm-test`: tests sandboxes under the real libkrun.
//!
//! If hardware virtualisation works on this host, sandboxes run directly on it. Otherwise they run
//! in an outer machine: QEMU emulates a processor with AMD's virtualisation, a stock Debian kernel
//! in it provides /dev/kvm, and libkrun boots the guest with it. The same shell script runs the
//! checks in both cases and writes a report, which is evaluated here.

mod checks;
mod machine;
mod report;
pub(crate) mod suite;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Result;

use self::checks::Check;
use crate::image::{Action, Compression, Image, Recipe};
use crate::test::Tally;
use crate::{setup, shell};

/// Builds what is missing, and runs every check with `blockbox`, or with a release build.
///
/// Only checks whose rule contains `only` are run.
pub(crate) fn run(blockbox: Option<PathBuf>, only: &str) -> Result<ExitCode> {
    setup::run()?;
    let blockbox = match blockbox {
        Some(blockbox) => blockbox,
        None => shell::release_build()?,
    };
    let tally = check(&blockbox, true, only)?;
    println!("{tally}");
    Ok(tally.exit_code())
}

/// Runs the checks with the program `blockbox`, if that is possible; long ones only if `long`, and
/// only those whose rule contains `only`.
pub(crate) fn check(blockbox: &Path, long: bool, only: &str) -> Result<Tally> {
    let matches = |check: &&Check| check.rule.contains(only);
    let checks = || {
        let long = if long { checks::LONG_CHECKS } else { &[] };
        checks::CHECKS.iter().chain(long).filter(matches)
    };
    let outer_checks = || checks::OUTER_CHECKS.iter().filter(matches);
    let all = || checks().chain(outer_checks());
    if std::env::consts::ARCH != "x86_64" || std::env::consts::OS != "linux" {
        println!("SKIPPED vm-test: the outer machine is an x86-64 one, for Linux programs");
        return Ok(Tally {
            skipped: all().count() as u64,
            ..Tally::default()
        });
    }
    let outer = machine::Machine::prepare()?;
    let image = image().build()?;
    let home = shell::target("vm-test/home");
    if home.exists() {
        fs::remove_dir_all(&home)?;
    }
    fs::create_dir_all(home.join("kernel"))?;
    fs::copy(
        setup::guest_kernel(),
        home.join("kernel").join(setup::GUEST_KERNEL),
    )?;
    let reference = format!("oci:{}:latest", image.display());
    let mut pull = Command::new(blockbox);
    pull.arg("pull").arg(&reference).env("BLOCKBOX_HOME", &home);
    println!("$ {}", shell::line(&pull));
    shell::output(&mut pull)?;

    let report = if runs_here(blockbox, &home, &reference) {
        println!("libkrun runs on this host's own virtualisation");
        let script = checks::script(&reference, checks());
        let mut report = machine::here(blockbox, &home, &script)?;
        let script = checks::script(&reference, outer_checks());
        report += &outer.run(blockbox, &home, &script)?;
        report
    } else {
        println!("libkrun runs in an outer machine that QEMU emulates");
        outer.run(blockbox, &home, &checks::script(&reference, all()))?
    };
    Ok(report::judge(&report, all()))
}

/// Returns whether libkrun boots a guest on this host, by trying: /dev/kvm may exist and not work.
pub(crate) fn runs_here(blockbox: &Path, home: &Path, reference: &str) -> bool {
    let mut run = Command::new(blockbox);
    run.args(["run", "--vmm", "libkrun", "--pull", "never", "--rm"])
        .args([reference, "--", "true"])
        .env("BLOCKBOX_HOME", home);
    shell::output(&mut run).is_ok()
}

/// Returns a small image: busybox and a few files, some of which the second layer changes.
fn image() -> Image {
    let recipe = |name: &str, why, compression, script| Recipe {
        name: name.to_owned(),
        why,
        compression,
        action: Action::Outside(script),
    };
    Image {
        folder: "vm-test",
        name: "image",
        config: serde_json::json!({
            "Env": ["PATH=/bin", "FROM_IMAGE=yes"],
            "Cmd": ["/bin/sh"],
            "WorkingDir": "/data",
        }),
        recipes: vec![
            recipe(
                "busybox",
                "busybox and some files",
                Compression::Gzip,
                "mkdir -p bin etc data/sub proc sys dev run root
mkdir -m 1777 tmp
cp \"$TARGET/vm-test/system/bin/busybox\" bin/busybox
for applet in $(bin/busybox --list); do [ $applet = busybox ] || ln -s busybox bin/$applet; done
echo 'root:x:0:0:root:/root:/bin/sh' > etc/passwd
echo 'app:x:1000:1000:app:/data:/bin/sh' >> etc/passwd
printf 'root:x:0:\\napp:x:1000:\\n' > etc/group
echo lower > data/file
echo lower > data/deleted
echo lower > data/sub/replaced",
            ),
            recipe(
                "above",
                "overwrites, deletes and replaces",
                Compression::Zstd,
                "echo upper > data/file
rm data/deleted
rm -r data/sub
mkdir data/sub
echo upper > data/sub/new",
            ),
        ],
    }
}
