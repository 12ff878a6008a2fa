//! `cargo xtask fuzz`: every fuzz target for a while.
//!
//! The targets are cargo-fuzz's (`fuzz/fuzz_targets`), built here with the flags it would pass, so it need not be
//! installed. What a target learns stays in `fuzz/corpus`, what breaks it goes to `fuzz/artifacts`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::shell;
use crate::stages::Stages;

/// What cargo-fuzz passes: coverage for libFuzzer, AddressSanitizer, and checks that release builds leave out.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address -Ccodegen-units=1 \
    -Cdebug-assertions -Coverflow-checks";

/// Bytes of a broken target's output to show.
const SHOWN: usize = 64 << 10;

/// Fuzzes the targets that `arguments` name, or all of them, for `time` altogether, and counts what that did.
///
/// Arguments that begin with a dash are libFuzzer's, for every target: `cargo xtask fuzz -- -runs=1000 -seed=1` is a
/// smoke test that always does the same.
pub(crate) fn run(time: Duration, arguments: &[String]) -> Result<()> {
    let all = all_targets()?;
    let (options, targets): (Vec<_>, Vec<_>) = arguments
        .iter()
        .cloned()
        .partition(|argument| argument.starts_with('-'));
    let targets = if targets.is_empty() { &all } else { &targets };
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
    let mut counts = Vec::new();
    for target in targets {
        let result = stages.run(&format!("fuzz {target} for {each} s at most"), || {
            fuzz(&programs, target, each.max(1), &options)
        });
        match result {
            Ok(count) => counts.push((target, count)),
            Err(error) => {
                eprintln!("{error:#}");
                broken.push(target.as_str());
            }
        }
    }
    stages.print();
    print(&counts);
    if !broken.is_empty() {
        bail!(
            "broken: {}; the inputs are in fuzz/artifacts",
            broken.join(", ")
        );
    }
    Ok(())
}

/// What libFuzzer says of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    executions: u64,
    /// Edges of the program's control flow that were taken.
    edges: u64,
    /// Edges, how often each was taken, and comparisons.
    features: u64,
}

impl Count {
    /// Takes in a line such as `#524288 pulse  cov: 812 ft: 3006 corp: …` or `stat::number_of_executed_units: 600000`.
    fn read(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        while let Some(word) = words.next() {
            let count = match word {
                "cov:" => &mut self.edges,
                "ft:" => &mut self.features,
                "stat::number_of_executed_units:" => &mut self.executions,
                _ => continue,
            };
            if let Some(number) = words.next().and_then(|number| number.parse().ok()) {
                *count = number;
            }
        }
    }
}

fn print(counts: &[(&String, Count)]) {
    println!(
        "\n{:18} {:>12} {:>8} {:>9}",
        "Target", "executions", "edges", "features"
    );
    for (target, count) in counts {
        let Count {
            executions,
            edges,
            features,
        } = count;
        println!("{target:18} {executions:>12} {edges:>8} {features:>9}");
    }
    let sum: u64 = counts.iter().map(|(_, count)| count.executions).sum();
    println!("{:18} {sum:>12}", "together");
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

/// Runs one target. What libFuzzer writes is shown where the target breaks.
fn fuzz(programs: &Path, target: &str, seconds: u64, options: &[String]) -> Result<Count> {
    let corpus = folder().join("corpus").join(target);
    let artifacts = folder().join("artifacts").join(target);
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&artifacts)?;
    let mut command = Command::new(programs.join(target));
    command.arg(&corpus).args(seeds(target));
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        // An input that takes ten seconds, or asks for half a gigabyte at once, is as bad as one that panics.
        .args([
            "-timeout=10",
            "-malloc_limit_mb=512",
            "-print_final_stats=1",
        ])
        .args(options);
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| shell::line(&command))?;
    let mut count = Count::default();
    let mut other = String::new();
    for line in BufReader::new(child.stderr.take().context("piped")?).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        count.read(&line);
        // Progress is most of it.
        if !line.starts_with('#') && other.len() < SHOWN {
            other.push_str(&line);
            other.push('\n');
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{other}{}: {status}", shell::line(&command));
    }
    Ok(count)
}

/// The folder of a target's first inputs: its own, or its crate's (`seeds/erofs`); or none.
fn seeds(target: &str) -> Option<PathBuf> {
    let crate_name = target.split('_').next().unwrap_or(target);
    [target, crate_name]
        .map(|name| folder().join("seeds").join(name))
        .into_iter()
        .find(|seeds| seeds.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_what_libfuzzer_counts_is_taken() {
        let mut count = Count::default();
        for line in [
            "#2\tINITED cov: 12 ft: 13 corp: 1/1b exec/s: 0 rss: 31Mb",
            "#524288\tpulse  cov: 812 ft: 3006 corp: 90/4Kb lim: 40 exec/s: 174762",
            "Done 600000 runs in 4 second(s)",
            "stat::number_of_executed_units: 600000",
        ] {
            count.read(line);
        }
        let expected = Count {
            executions: 600_000,
            edges: 812,
            features: 3006,
        };
        assert_eq!(count, expected);
    }
}
