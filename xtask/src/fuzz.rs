//! `cargo xtask fuzz`: runs every fuzz target for a while.
//!
//! The targets are cargo-fuzz's (`fuzz/fuzz_targets`), built here with the same flags, so it need
//! not be installed. A target's corpus is kept in `target/fuzz/corpus`, its smallest subset with
//! the same coverage in `fuzz/seeds` (`--keep`), and crashing inputs in `target/fuzz/artifacts`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::shell;
use crate::stages::Stages;

/// The flags of cargo-fuzz: coverage for libFuzzer, and checks that release builds leave out.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks";

/// How many bytes of a failed target's output are shown.
const SHOWN: usize = 64 << 10;

/// How often each target runs in `cargo xtask test`: at most a minute for all together.
const SMOKE_RUNS: u64 = 2000;

/// Limits of `--keep`: the bytes of one input, and the inputs and bytes of one target.
const KEPT_INPUT: u64 = 4 << 10;
const KEPT_INPUTS: usize = 50;
const KEPT_BYTES: u64 = 64 << 10;

/// Options of fuzzing.
#[derive(clap::Args, Debug)]
pub(crate) struct Fuzz {
    /// How long in total
    #[arg(long, default_value = "10", conflicts_with = "runs")]
    minutes: u32,
    /// How often each target runs, instead of a time: always with the same inputs, beginning with
    /// those in fuzz/seeds
    #[arg(long)]
    runs: Option<u64>,
    /// The sanitizer: without it the targets, which have no unsafe code of this repository, run
    /// many times faster
    #[arg(long, value_enum, default_value = "address")]
    sanitizer: Sanitizer,
    /// Afterwards, add small inputs that increase the coverage to fuzz/seeds
    #[arg(long)]
    keep: bool,
    /// Build sooner what runs slower, for a brief run
    #[arg(long)]
    brief: bool,
    /// Only these targets; arguments that begin with a dash are passed to libFuzzer, for every
    /// target
    targets: Vec<String>,
}

/// The sanitizers, in cargo-fuzz's naming.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Sanitizer {
    /// AddressSanitizer
    Address,
    /// None at all
    None,
}

/// How long each target runs.
#[derive(Clone, Copy, Debug)]
enum Bound {
    Seconds(u64),
    Runs(u64),
}

/// Fuzzes, and prints counts.
pub(crate) fn run(options: &Fuzz) -> Result<()> {
    let all = all_targets()?;
    let (arguments, targets): (Vec<_>, Vec<_>) = options
        .targets
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
    let programs = stages.run("build the fuzz targets (nightly)", || {
        build(options.sanitizer, options.brief, targets)
    })?;
    let bound = match options.runs {
        Some(runs) => Bound::Runs(runs),
        None => {
            let seconds = u64::from(options.minutes) * 60 / targets.len() as u64;
            Bound::Seconds(seconds.max(1))
        }
    };
    let mut broken = Vec::new();
    let mut counts = Vec::new();
    for target in targets {
        let result = stages.run(&format!("fuzz {target}"), || {
            let count = fuzz(&programs, target, bound, &arguments)?;
            if options.keep {
                keep(&programs, target)?;
            }
            Ok::<_, anyhow::Error>(count)
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
            "broken: {}; the inputs are in target/fuzz/artifacts",
            broken.join(", ")
        );
    }
    Ok(())
}

/// Runs every target briefly, with the same inputs each time.
pub(crate) fn smoke() -> Result<()> {
    run(&Fuzz {
        minutes: 0,
        runs: Some(SMOKE_RUNS),
        sanitizer: Sanitizer::None,
        keep: false,
        brief: true,
        targets: Vec::new(),
    })
}

/// Returns whether the compiler for building the targets is installed.
pub(crate) fn is_possible() -> bool {
    shell::output(nightly("rustc").arg("-vV")).is_ok()
}

/// libFuzzer's counts of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    executions: u64,
    /// Edges of the program's control flow that were taken.
    edges: u64,
    /// Edges with their counts, and comparisons.
    features: u64,
}

impl Count {
    /// Parses a line such as `#524288 pulse  cov: 812 ft: 3006 corp: …` or
    /// `stat::number_of_executed_units: 600000`.
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

/// Returns the folder of the fuzz targets, which is a separate workspace.
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
fn build(sanitizer: Sanitizer, brief: bool, targets: &[String]) -> Result<PathBuf> {
    let version = shell::output(nightly("rustc").arg("-vV"))
        .context("fuzzing needs a nightly compiler: rustup toolchain install nightly")?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc names its host")?;
    // Separate folders, because a change of flags rebuilds everything.
    let (flags, target) = match sanitizer {
        Sanitizer::Address => (format!("{FLAGS} -Zsanitizer=address"), "fuzz/address"),
        Sanitizer::None => (FLAGS.to_owned(), "fuzz/none"),
    };
    let target = if brief {
        target.to_owned() + "-brief"
    } else {
        target.to_owned()
    };
    let target = shell::target(&target);
    let mut cargo = nightly("cargo");
    if brief {
        cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
    }
    shell::run(
        cargo
            // An explicit target keeps the flags away from build scripts.
            .args(["build", "--quiet", "--release", "--target", host])
            .args(targets.iter().flat_map(|name| ["--bin", name]))
            .arg("--target-dir")
            .arg(&target)
            .env("RUSTFLAGS", flags)
            .current_dir(folder()),
    )?;
    Ok(target.join(host).join("release"))
}

/// Returns a command for a program of the nightly toolchain.
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

/// Runs one target. libFuzzer's output is shown if the target fails.
fn fuzz(programs: &Path, target: &str, bound: Bound, arguments: &[String]) -> Result<Count> {
    let artifacts = shell::target("fuzz/artifacts").join(target);
    fs::create_dir_all(&artifacts)?;
    // The corpus is kept, unless the run must be repeatable.
    let corpus = match bound {
        Bound::Seconds(_) => corpus(target),
        Bound::Runs(_) => empty(target)?,
    };
    fs::create_dir_all(&corpus)?;
    let mut command = Command::new(programs.join(target));
    command.arg(&corpus).args(seeds(target));
    match bound {
        Bound::Seconds(seconds) => command.arg(format!("-max_total_time={seconds}")),
        Bound::Runs(runs) => command.arg(format!("-runs={runs}")).arg("-seed=1"),
    };
    command
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        // An input that takes ten seconds, or allocates half a gigabyte at once, counts as a
        // failure.
        .args([
            "-timeout=10",
            "-malloc_limit_mb=512",
            "-print_final_stats=1",
        ])
        .args(arguments);
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
        // Most lines report progress.
        if !line.starts_with('#') && other.len() < SHOWN {
            other.push_str(&line);
            other.push('\n');
        }
    }
    let status = child.wait()?;
    if let Bound::Runs(_) = bound {
        fs::remove_dir_all(&corpus)?;
    }
    if !status.success() {
        bail!("{other}{}: {status}", shell::line(&command));
    }
    Ok(count)
}

/// Adds inputs that increase the coverage to the target's seeds, smallest first.
fn keep(programs: &Path, target: &str) -> Result<()> {
    let small = empty(target)?;
    for (size, path) in files(&corpus(target))? {
        if size <= KEPT_INPUT
            && let Some(name) = path.file_name()
        {
            fs::copy(&path, small.join(name))?;
        }
    }
    let kept = folder().join("seeds").join(target);
    fs::create_dir_all(&kept)?;
    let mut merge = Command::new(programs.join(target));
    merge.args(["-merge=1", "-set_cover_merge=1"]);
    merge.arg(&kept).args(seeds(target)).arg(&small);
    shell::output(&mut merge)?;
    fs::remove_dir_all(&small)?;
    let mut sum = 0;
    for (number, (size, path)) in files(&kept)?.into_iter().filter(is_found).enumerate() {
        sum += size;
        if number >= KEPT_INPUTS || sum > KEPT_BYTES {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Returns whether libFuzzer found an input, whose name is then its SHA-1, and it was not written
/// by hand.
fn is_found((_, path): &(u64, PathBuf)) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Returns the files of a folder and their sizes, smallest first.
fn files(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        files.push((entry.metadata()?.len(), entry.path()));
    }
    files.sort();
    Ok(files)
}

/// Returns the folder of a target's corpus.
fn corpus(target: &str) -> PathBuf {
    shell::target("fuzz/corpus").join(target)
}

/// Makes an empty temporary folder.
fn empty(target: &str) -> Result<PathBuf> {
    let name = format!("fuzz-{target}-{}", std::process::id());
    let folder = shell::target(&name);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Returns the folders of a target's seeds: its own, and its crate's (`seeds/erofs`). The crate's
/// may be of another kind, which does no harm.
fn seeds(target: &str) -> impl Iterator<Item = PathBuf> {
    let crate_name = target.split('_').next().unwrap_or(target);
    [target, crate_name]
        .map(|name| folder().join("seeds").join(name))
        .into_iter()
        .filter(|seeds| seeds.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_line_of_libfuzzers_counts_is_used() {
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
