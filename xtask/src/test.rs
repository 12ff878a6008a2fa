//! `cargo xtask test`: all checks and tests.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::ops::AddAssign;
use std::panic::resume_unwind;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::stages::Stages;
use crate::{api, fuzz, image, package, setup, shell, test_program, uml, vm_test};

/// The results of tests.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    /// Returns success if something passed and nothing failed.
    pub(crate) fn exit_code(self) -> ExitCode {
        if self.failed == 0 && self.passed + self.skipped > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

impl Tally {
    /// Counts tests as skipped that passed because they skipped themselves: `report`, which testkit
    /// writes, has a line for each reason.
    fn set_apart(&mut self, report: &str) {
        let name = |line: &'_ str| line.split_once(": ").map(|(test, _)| test.to_owned());
        let tests: BTreeSet<_> = report.lines().filter_map(name).collect();
        let skipped = self.passed.min(tests.len() as u64);
        self.passed -= skipped;
        self.skipped += skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Runs every check, even after one has failed, and ends with a line of counts.
pub(crate) fn run() -> Result<ExitCode> {
    let mut stages = Stages::default();
    let complete = stages.run("set up", setup::run)?;
    let mut checks = Checks {
        stages,
        total: Tally::default(),
        failures: Vec::new(),
        // Nothing is missing, so nothing may be skipped.
        strict: complete,
    };
    checks.step("rustfmt", || {
        shell::run(shell::cargo().args(["fmt", "--all", "--check"]))
    });
    if complete {
        checks.step("make the demo image", || image::demo().build().map(drop));
    }
    checks.tests();
    checks.other_kernels(complete);
    checks.step("clippy", || {
        let mut clippy = shell::cargo();
        clippy.args(["clippy", "--workspace", "--all-targets", "--quiet"]);
        shell::run(clippy.args(["--", "-D", "warnings"]))
    });
    checks.step("archives of the published crates", package::archives);
    checks.no_std();
    checks.fuzz();
    checks.step("rustdoc", || {
        let mut doc = shell::cargo();
        doc.args(["doc", "--workspace", "--no-deps", "--quiet"]);
        shell::run(doc.env("RUSTDOCFLAGS", "-D warnings"))
    });
    checks.api();
    Ok(checks.report())
}

struct Checks {
    stages: Stages,
    total: Tally,
    failures: Vec<String>,
    strict: bool,
}

impl Checks {
    /// Runs a step that counts as one failure if it fails.
    fn step(&mut self, name: &str, step: impl FnOnce() -> Result<()>) {
        if let Err(error) = self.stages.run(name, step) {
            eprintln!("{name}: {error:#}");
            self.failed(name);
        }
    }

    fn failed(&mut self, name: &str) {
        self.failures.push(name.to_owned());
        self.total.failed += 1;
    }

    /// The tests of all crates, doc tests among them.
    fn tests(&mut self) {
        let mut cargo = with_default_signals(shell::cargo());
        cargo.args(["test", "--workspace", "--no-fail-fast"]);
        if self.strict {
            cargo.env("CI", "true");
        }
        if std::env::var_os("BLOCKBOX_DEMO_IMAGE").is_none() && image::demo().path().exists() {
            cargo.env("BLOCKBOX_DEMO_IMAGE", image::demo().path());
        }
        self.run_tests("cargo test", &mut cargo);
    }

    /// Tests under another kernel what the host's kernel may not support: writing to ext4 with
    /// quotas, and rejecting features of later kernels.
    fn uml(&mut self) {
        const TESTS: [(&str, &str, &str); 3] = [
            ("ext4-writer", "matrix", "every_three_options_make"),
            ("ext4-writer", "options", "every_pair_of_options"),
            ("erofs-writer", "image", "versions::"),
        ];
        let name = "User Mode Linux";
        if std::env::consts::ARCH != "x86_64" {
            println!("\nskipped: {name}: it is for x86-64");
            self.total.skipped += 1;
            return;
        }
        if self.lacks(name, uml::is_possible()) {
            return;
        }
        for (package, test, names) in TESTS {
            let name = format!("{name}: {package}, {test}");
            let folder = shell::repository().join(package);
            match test_program::build(&folder, test) {
                Ok(program) => {
                    let mut command = uml::command(&program);
                    command.arg(names).current_dir(folder);
                    if self.strict {
                        command.env("CI", "true");
                    }
                    self.run_tests(&name, &mut command);
                }
                Err(error) => {
                    eprintln!("{name}: {error:#}");
                    self.failed(&name);
                }
            }
        }
    }

    /// Runs `cargo test`, or the program of a test.
    fn run_tests(&mut self, name: &str, command: &mut Command) {
        let skipped = shell::target("skipped-tests");
        let _ = fs::remove_file(&skipped);
        command.env("BLOCKBOX_SKIPPED", &skipped);
        match self.stages.run(name, || streamed(command)) {
            Ok((mut tally, succeeded)) => {
                tally.set_apart(&fs::read_to_string(&skipped).unwrap_or_default());
                self.total += tally;
                if tally.failed > 0 {
                    self.failures.push(name.to_owned());
                } else if !succeeded {
                    // A crate that does not compile, or ends early, prints no result.
                    self.failed(&format!("{name} (did not finish)"));
                }
            }
            Err(error) => {
                eprintln!("{name}: {error:#}");
                self.failed(name);
            }
        }
    }

    /// Tests under User Mode Linux, and beside them, if all their programs are there, those of
    /// libkrun in its outer machine: either keeps one processor busy.
    fn other_kernels(&mut self, complete: bool) {
        let vm_test = complete.then(|| std::thread::spawn(vm_test));
        self.uml();
        let Some(vm_test) = vm_test else { return };
        let (time, result) = vm_test.join().unwrap_or_else(|panic| resume_unwind(panic));
        self.stages.record("vm-test", time);
        match result {
            Ok(tally) => {
                self.total += tally;
                if tally.failed > 0 {
                    self.failures.push("vm-test".to_owned());
                }
            }
            Err(error) => {
                eprintln!("vm-test: {error:#}");
                self.failed("vm-test");
            }
        }
    }

    /// Builds what supports `no_std` for a target without `std`.
    fn no_std(&mut self) {
        let name = "erofs-reader without std";
        if self.lacks(name, setup::has_bare_metal()) {
            return;
        }
        self.step(name, || {
            ["", "lz4,lzma,deflate"].iter().try_for_each(|features| {
                let mut check = shell::cargo();
                check.args(["check", "--quiet", "--package", "erofs-reader"]);
                check.args(["--no-default-features", "--features", features]);
                shell::run(check.args(["--target", setup::BARE_METAL]))
            })
        });
    }

    /// Compares the public interfaces of the libraries with the lists.
    fn api(&mut self) {
        let name = "public interfaces";
        if cfg!(target_os = "linux") && !self.lacks(name, api::is_possible()) {
            self.step(name, api::check);
        }
    }

    /// Runs every fuzz target briefly.
    fn fuzz(&mut self) {
        if !self.lacks("fuzz", fuzz::is_possible()) {
            self.step("fuzz", fuzz::smoke);
        }
    }

    /// Counts a check whose tools are missing: as skipped, or as failed if skipping is not allowed.
    fn lacks(&mut self, name: &str, possible: bool) -> bool {
        if !possible && (self.strict || std::env::var_os("CI").is_some()) {
            eprintln!("{name}: the toolchain for it is missing, see setup");
            self.failed(name);
        } else if !possible {
            println!("\nskipped: {name}: the toolchain for it is missing, see setup");
            self.total.skipped += 1;
        }
        !possible
    }

    fn report(self) -> ExitCode {
        self.stages.print();
        println!();
        for name in &self.failures {
            println!("FAILED: {name}");
        }
        println!("{}", self.total);
        self.total.exit_code()
    }
}

/// Returns a command for a program, with no signal ignored where GNU's env can do that: tests send
/// signals, but nohup ignores some for its program, and a shell for one in the background.
fn with_default_signals(command: Command) -> Command {
    let env = || {
        let mut env = Command::new("env");
        env.arg("--default-signal");
        env
    };
    if shell::output(env().arg("true")).is_err() {
        return command;
    }
    let mut env = env();
    env.arg(command.get_program());
    if let Some(folder) = command.get_current_dir() {
        env.current_dir(folder);
    }
    env
}

/// Tests libkrun, with the blockbox that the integration tests have used. Returns how long it took.
fn vm_test() -> (Duration, Result<Tally>) {
    println!("\n==> vm-test");
    let start = Instant::now();
    let result = vm_test::check(&shell::built("debug"), false, "");
    (start.elapsed(), result)
}

/// Runs tests, showing their output as it arrives. Returns the sum of their results, and whether
/// they succeeded.
fn streamed(command: &mut Command) -> Result<(Tally, bool)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| shell::line(command))?;
    let mut tally = Tally::default();
    let mut out = BufReader::new(child.stdout.take().context("piped")?);
    let mut line = Vec::new();
    while out.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        tally += result(&text).unwrap_or_default();
        line.clear();
    }
    Ok((tally, child.wait()?.success()))
}

/// Parses a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
fn result(line: &str) -> Option<Tally> {
    let counts = line.strip_prefix("test result: ")?;
    let mut tally = Tally::default();
    for part in counts.split([';', '.']) {
        let Some((number, what)) = part.trim().split_once(' ') else {
            continue;
        };
        let Ok(number) = number.parse() else { continue };
        match what.trim() {
            "passed" => tally.passed = number,
            "failed" => tally.failed = number,
            "ignored" => tally.skipped = number,
            _ => {}
        }
    }
    Some(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_skipped_themselves_do_not_count_as_passed() {
        let mut tally = Tally {
            passed: 5,
            failed: 1,
            skipped: 1,
        };
        tally.set_apart(
            "SKIPPED a::b: x is not installed\nSKIPPED a::b: nor is y: no\nSKIPPED c: z\n",
        );
        let expected = Tally {
            passed: 3,
            failed: 1,
            skipped: 3,
        };
        assert_eq!(tally, expected);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_command_gets_the_signals_that_its_caller_ignores() {
        use std::os::unix::process::ExitStatusExt;

        let interrupted = |command: &Command| {
            let mut ignoring = Command::new("sh");
            ignoring
                .args(["-c", "trap '' INT; exec \"$0\" \"$@\""])
                .arg(command.get_program())
                .args(command.get_args())
                .args(["-c", "kill -INT $$"]);
            ignoring.status().expect("a shell").signal()
        };
        let shell = || Command::new("sh");
        assert_eq!(interrupted(&shell()), None);
        assert_eq!(interrupted(&with_default_signals(shell())), Some(2));
    }

    #[test]
    fn result_lines_of_cargo_test_are_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.07s\n";
        let expected = Tally {
            passed: 12,
            failed: 3,
            skipped: 1,
        };
        assert_eq!(result(line), Some(expected));
        assert_eq!(result("running 3 tests"), None);
        assert_eq!(result("test result_lines ... ok"), None);
    }
}
