//! Runs the workloads on every stack in turn.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// A stack that can run the workloads.
pub(in crate::bench) struct Contender<'a> {
    pub(in crate::bench) name: String,
    /// Whether its failure is an error, rather than a remark.
    pub(in crate::bench) ours: bool,
    /// The path of its tree, for the program that runs the workloads.
    pub(in crate::bench) root: PathBuf,
    /// Runs every workload once, cold and warm. Returns the program's report.
    pub(in crate::bench) run: Box<dyn Fn() -> Result<Value> + 'a>,
}

/// The times of a workload on a stack, in nanoseconds, one per round.
#[derive(Clone, Default)]
pub(super) struct Times {
    pub(super) cold: Vec<u64>,
    pub(super) warm: Vec<u64>,
}

/// A stack, and its times by workload.
pub(super) struct Standing {
    pub(super) name: String,
    pub(super) ours: bool,
    /// Why it has no (further) times.
    pub(super) failed: Option<String>,
    pub(super) times: Vec<(String, Times)>,
    /// The times of reading ahead before each cold run, which are not included.
    pub(super) read_ahead: Vec<u64>,
}

/// The tree that the workloads found: it must be the same on every stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) path: String,
    pub(super) directories: u64,
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// The number of files, reads or lookups of each workload.
    pub(super) operations: Vec<u64>,
}

/// The results of the stacks of an image.
pub(in crate::bench) struct Outcome {
    pub(super) image: String,
    pub(super) tree: Tree,
    pub(super) standings: Vec<Standing>,
    /// Conditions that the times depend on besides the stacks.
    pub(super) notes: Vec<String>,
    pub(super) skipped: Vec<String>,
}

/// Runs the workloads on every contender, beginning with blockbox. Every round begins with another
/// one. Without any times of one of ours, it is an error; what was measured before a later failure
/// is kept.
pub(in crate::bench) fn hold(
    rounds: u32,
    image: &str,
    contenders: &[Contender<'_>],
    notes: Vec<String>,
    skipped: Vec<String>,
) -> Result<Outcome> {
    let mut standings: Vec<_> = contenders
        .iter()
        .map(|contender| Standing {
            name: contender.name.clone(),
            ours: contender.ours,
            failed: None,
            times: Vec::new(),
            read_ahead: Vec::new(),
        })
        .collect();
    let mut tree = None;
    for round in 0..rounds as usize {
        eprintln!("bench: {image}: round {}", round + 1);
        for place in 0..contenders.len() {
            let number = (place + round) % contenders.len();
            let (contender, standing) = (&contenders[number], &mut standings[number]);
            if standing.failed.is_some() {
                continue;
            }
            match standing.take(contender, &mut tree) {
                Err(error) if contender.ours && standing.times.is_empty() => {
                    return Err(error.context(contender.name.clone()));
                }
                Err(error) => standing.failed = Some(format!("{error:#}")),
                Ok(()) => {}
            }
        }
    }
    Ok(Outcome {
        image: image.to_owned(),
        tree: tree.unwrap_or_default(),
        standings,
        notes,
        skipped,
    })
}

impl Outcome {
    /// Returns an error if one of ours failed in any round.
    pub(in crate::bench) fn check(&self) -> Result<()> {
        for standing in self.standings.iter().filter(|standing| standing.ours) {
            if let Some(why) = &standing.failed {
                bail!("{}: {}: {why}", self.image, standing.name);
            }
        }
        Ok(())
    }
}

impl Standing {
    /// Adds one round's times. `tree` is what the first contender found.
    fn take(&mut self, contender: &Contender<'_>, tree: &mut Option<Tree>) -> Result<()> {
        let report = (contender.run)()?;
        let found = Tree::of(&report, &contender.root)?;
        let expected = tree.get_or_insert_with(|| found.clone());
        ensure!(
            found == *expected,
            "it shows {found:?} instead of {expected:?}"
        );
        let rows = report["rows"].as_array().context("no rows")?;
        if self.times.is_empty() {
            let name = |row: &Value| row["name"].as_str().unwrap_or_default().to_owned();
            let rows = rows.iter().map(|row| (name(row), Times::default()));
            self.times = rows.collect();
        }
        let samples = |samples: &Value| {
            let samples = samples.as_array().into_iter().flatten();
            samples.filter_map(Value::as_u64).collect::<Vec<_>>()
        };
        for (row, (_, times)) in rows.iter().zip(&mut self.times) {
            times.cold.extend(samples(&row["cold_ns"]));
            times.warm.extend(samples(&row["warm_ns"]));
        }
        self.read_ahead.extend(samples(&report["read_ahead_ns"]));
        Ok(())
    }
}

impl Tree {
    fn of(report: &Value, root: &Path) -> Result<Self> {
        let path = report["tree"].as_str().context("no tree")?;
        let number = |value: &Value| value.as_u64().context("no number");
        let rows = report["rows"].as_array().context("no rows")?;
        let operations = rows.iter().map(|row| number(&row["operations"]));
        Ok(Self {
            path: path
                .strip_prefix(&*root.to_string_lossy())
                .unwrap_or(path)
                .to_owned(),
            directories: number(&report["directories"])?,
            files: number(&report["files"])?,
            bytes: number(&report["bytes"])?,
            operations: operations.collect::<Result<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::json;

    use super::*;

    fn contender(name: &'static str, files: u64) -> Contender<'static> {
        let report = json!({
            "tree": "/root/usr/lib",
            "directories": 2,
            "files": files,
            "bytes": 3,
            "rows": [{ "name": "scan", "operations": 4, "cold_ns": [5], "warm_ns": [6] }],
        });
        Contender {
            name: name.to_owned(),
            ours: name == "ours",
            root: "/root".into(),
            run: Box::new(move || Ok(report.clone())),
        }
    }

    #[test]
    fn contender_with_another_tree_has_failed() {
        let contenders = [
            contender("ours", 10),
            contender("same", 10),
            contender("other", 9),
        ];
        let outcome = hold(2, "demo", &contenders, Vec::new(), Vec::new()).expect("ours runs");
        let failed: Vec<_> = outcome
            .standings
            .iter()
            .map(|s| s.failed.is_some())
            .collect();
        assert_eq!(failed, [false, false, true]);
        assert_eq!(outcome.tree.path, "/usr/lib");
        assert_eq!(outcome.standings[1].times[0].1.cold, [5, 5]);
        assert!(outcome.standings[2].times.is_empty());
        outcome.check().expect("ours did not fail");
    }

    #[test]
    fn times_before_a_failure_of_ours_are_kept_and_the_failure_is_an_error() {
        let fails_in = |failing: u32| {
            let rounds = Cell::new(0);
            let mut ours = contender("ours", 10);
            let report = (ours.run)().expect("a report");
            ours.run = Box::new(move || {
                rounds.set(rounds.get() + 1);
                ensure!(rounds.get() < failing, "it does not end");
                Ok(report.clone())
            });
            hold(3, "demo", &[ours], Vec::new(), Vec::new())
        };
        let outcome = fails_in(3).expect("two rounds have times");
        assert_eq!(outcome.standings[0].times[0].1.warm, [6, 6]);
        let error = outcome.check().expect_err("the third round failed");
        assert_eq!(error.to_string(), "demo: ours: it does not end");
        assert!(fails_in(1).is_err());
    }
}
