//! `cargo xtask fuzz`: every fuzz target for a while.
//!
//! The targets are cargo-fuzz's (`fuzz/fuzz_targets`), built here with the flags it would pass, so it need not be
//! installed. What a target learns stays in `fuzz/corpus`, what breaks it goes to `fuzz/artifacts`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::shell;
use crate::stages::Stages;

/// What cargo-fuzz passes: coverage for libFuzzer, AddressSanitizer, and checks that release builds leave out.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address -Ccodegen-units=1 \
    -Cdebug-assertions -Coverflow-checks";

/// Fuzzes `targets`, or all of them, for `time` altogether.
pub(crate) fn run(time: Duration, targets: &[String]) -> Result<()> {
    let all = all_targets()?;
    let targets = if targets.is_empty() { &all } else { targets };
    for target in targets {
        ensure!(
            all.contains(target),
            "no fuzz target {target}: there are {}",
            all.join(", ")
        );
    }
    let mut stages = Stages::default();
    let programs = stages.run("build the fuzz targets (nightly)", build)?;
    let each = time.as_secs() / targets.len() as u64;
    let mut broken = Vec::new();
    for target in targets {
        let result = stages.run(&format!("fuzz {target} for {each} s"), || {
            fuzz(&programs, target, each.max(1))
        });
        if let Err(error) = result {
            eprintln!("{error:#}");
            broken.push(target.as_str());
        }
    }
    stages.print();
    if !broken.is_empty() {
        bail!(
            "broken: {}; the inputs are in fuzz/artifacts",
            broken.join(", ")
        );
    }
    Ok(())
}

/// The folder of the fuzz targets, a workspace of its own.
fn folder() -> PathBuf {
    shell::repository().join("fuzz")
}

fn all_targets() -> Result<Vec<String>> {
    let sources = folder().join("fuzz_targets");
    let mut targets = Vec::new();
    for entry in fs::read_dir(&sources).with_context(|| sources.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            targets.extend(
                path.file_stem()
                    .and_then(|name| name.to_str())
                    .map(str::to_owned),
            );
        }
    }
    targets.sort();
    ensure!(
        !targets.is_empty(),
        "no fuzz targets in {}",
        sources.display()
    );
    Ok(targets)
}

/// Builds all targets. Returns the folder of the programs.
fn build() -> Result<PathBuf> {
    let version = shell::output(nightly("rustc").arg("-vV"))
        .context("fuzzing needs a nightly compiler: rustup toolchain install nightly")?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc names its host")?;
    shell::run(
        nightly("cargo")
            // A target given by name keeps the flags away from build scripts.
            .args(["build", "--quiet", "--release", "--bins", "--target", host])
            .env("RUSTFLAGS", FLAGS)
            .current_dir(folder()),
    )?;
    Ok(folder().join("target").join(host).join("release"))
}

/// A program of the nightly toolchain, whatever toolchain runs this one.
fn nightly(program: &str) -> Command {
    let mut rustup = Command::new("rustup");
    rustup
        .args(["run", "nightly", program])
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO")
        .env_remove("RUSTC")
        .env_remove("CARGO_TARGET_DIR");
    rustup
}

fn fuzz(programs: &Path, target: &str, seconds: u64) -> Result<()> {
    let corpus = folder().join("corpus").join(target);
    let artifacts = folder().join("artifacts").join(target);
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&artifacts)?;
    let mut command = Command::new(programs.join(target));
    command.arg(&corpus);
    let seeds = folder().join("seeds").join(target);
    if seeds.is_dir() {
        command.arg(seeds);
    }
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        // An input that takes ten seconds, or asks for half a gigabyte at once, is as bad as one that panics.
        .args([
            "-timeout=10",
            "-malloc_limit_mb=512",
            "-print_final_stats=1",
        ]);
    shell::run(&mut command)
}
