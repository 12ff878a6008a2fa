//! Formats the times as a table, with a row per workload and a column per stack.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::rounds::{Outcome, Standing, Times};
use crate::bench::report::megabytes;

/// The state of the caches.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::bench) enum State {
    Cold,
    Warm,
}

impl State {
    fn of(self, times: &Times) -> Option<f64> {
        median(match self {
            Self::Cold => &times.cold,
            Self::Warm => &times.warm,
        })
    }
}

impl Outcome {
    /// Returns the names of the stacks that have times.
    pub(in crate::bench) fn stacks(&self) -> impl Iterator<Item = &str> {
        let standings = self.standings.iter();
        let timed = standings.filter(|standing| !standing.times.is_empty());
        timed.map(|standing| &*standing.name)
    }

    /// Returns the names of the workloads.
    pub(in crate::bench) fn workloads(&self) -> impl Iterator<Item = &str> {
        let first = self
            .standings
            .iter()
            .find(|standing| !standing.times.is_empty());
        let times = first.map_or(&[][..], |standing| &standing.times);
        times.iter().map(|(name, _)| &**name)
    }

    /// Returns the median time of a workload on a stack, in milliseconds.
    pub(in crate::bench) fn median(
        &self,
        stack: &str,
        workload: &str,
        state: State,
    ) -> Option<f64> {
        let standing = self
            .standings
            .iter()
            .find(|standing| standing.name == stack)?;
        let (_, times) = standing.times.iter().find(|(name, _)| name == workload)?;
        state.of(times)
    }
}

/// Returns the median in milliseconds.
fn median(nanoseconds: &[u64]) -> Option<f64> {
    let mut samples = nanoseconds.to_vec();
    samples.sort_unstable();
    let middle = samples.get(samples.len().checked_sub(1)? / 2)?;
    Some(*middle as f64 / 1e6)
}

/// Two tables per image: with empty caches, and with full ones.
pub(in crate::bench) fn markdown(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        for (state, title) in [(State::Cold, "empty caches"), (State::Warm, "full caches")] {
            let _ = write!(
                text,
                "\n## {} ({}): {title}, ms\n\n| |",
                outcome.image, outcome.tree.path
            );
            for standing in &outcome.standings {
                let _ = write!(text, " {} |", standing.name);
            }
            text.push_str("\n|---|");
            text.push_str(&"--:|".repeat(outcome.standings.len()));
            text.push('\n');
            rows(&mut text, outcome, state);
        }
        let tree = &outcome.tree;
        let _ = write!(
            text,
            "\nIn {}: {} files in {} directories, {}; every stack that has times showed the same.\n",
            tree.path,
            tree.files,
            tree.directories,
            megabytes(tree.bytes)
        );
        for note in &outcome.notes {
            let _ = write!(text, "\n{note}\n");
        }
        for standing in &outcome.standings {
            if let Some(time) = median(&standing.read_ahead) {
                let _ = write!(
                    text,
                    "\n{}: reading the metadata ahead, before every cold run and not in its time, takes {time:.2} ms.\n",
                    standing.name
                );
            }
            if let Some(why) = &standing.failed {
                let _ = write!(text, "\n{} failed: {why}\n", standing.name);
            }
        }
        for skipped in &outcome.skipped {
            let _ = write!(text, "\nSkipped: {skipped}\n");
        }
    }
    text
}

/// Writes medians, and the ratio of the others to blockbox.
fn rows(text: &mut String, outcome: &Outcome, state: State) {
    let Some(ours) = outcome.standings.first() else {
        return;
    };
    for (row, (name, times)) in ours.times.iter().enumerate() {
        let unit = state.of(times);
        let _ = write!(text, "| {name} |");
        for (number, standing) in outcome.standings.iter().enumerate() {
            let time = standing.times.get(row);
            let time = time.and_then(|(_, times)| state.of(times));
            let _ = match (time, unit) {
                (Some(time), Some(unit)) if number > 0 && unit > 0.0 => {
                    write!(text, " {time:.2} ({:.2}×) |", time / unit)
                }
                (Some(time), _) => write!(text, " {time:.2} |"),
                (None, _) => write!(text, " – |"),
            };
        }
        text.push('\n');
    }
}

/// Every sample.
pub(in crate::bench) fn json(outcomes: &[Outcome]) -> Value {
    let standing = |standing: &Standing| {
        let rows = standing.times.iter().map(
            |(name, times)| json!({ "name": name, "cold_ns": times.cold, "warm_ns": times.warm }),
        );
        json!({
            "name": standing.name,
            "failed": standing.failed,
            "read_ahead_ns": standing.read_ahead,
            "rows": rows.collect::<Vec<_>>(),
        })
    };
    let outcomes = outcomes.iter().map(|outcome| {
        json!({
            "image": outcome.image,
            "tree": outcome.tree.path,
            "directories": outcome.tree.directories,
            "files": outcome.tree.files,
            "bytes": outcome.tree.bytes,
            "notes": outcome.notes,
            "stacks": outcome.standings.iter().map(standing).collect::<Vec<_>>(),
            "skipped": outcome.skipped,
        })
    });
    outcomes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::fs::rounds::Tree;

    fn standing(name: &'static str, cold: &[u64], failed: Option<&str>) -> Standing {
        let times = Times {
            cold: cold.to_vec(),
            warm: vec![500_000],
        };
        Standing {
            name: name.to_owned(),
            ours: name == "blockbox",
            failed: failed.map(str::to_owned),
            times: vec![("scan".to_owned(), times)],
            read_ahead: if name == "blockbox" {
                vec![1_250_000]
            } else {
                Vec::new()
            },
        }
    }

    #[test]
    fn ratios_are_to_blockbox_and_missing_times_are_dashes() {
        let outcome = Outcome {
            image: "demo".to_owned(),
            tree: Tree {
                path: "/usr/lib/python3.11".to_owned(),
                directories: 20,
                files: 300,
                bytes: 4_000_000,
                ..Tree::default()
            },
            notes: vec!["In a guest.".to_owned()],
            standings: vec![
                standing("blockbox", &[9_000_000, 2_000_000, 1_000_000], None),
                standing("other", &[3_000_000], None),
                standing("broken", &[], Some("no such device")),
            ],
            skipped: vec!["virtio-fs: no guest".to_owned()],
        };
        assert_eq!(
            markdown(&[outcome]),
            "\n## demo (/usr/lib/python3.11): empty caches, ms\n\n\
             | | blockbox | other | broken |\n|---|--:|--:|--:|\n\
             | scan | 2.00 | 3.00 (1.50×) | – |\n\
             \n## demo (/usr/lib/python3.11): full caches, ms\n\n\
             | | blockbox | other | broken |\n|---|--:|--:|--:|\n\
             | scan | 0.50 | 0.50 (1.00×) | 0.50 (1.00×) |\n\
             \nIn /usr/lib/python3.11: 300 files in 20 directories, 4.0 MB; every stack that has times showed the same.\n\
             \nIn a guest.\n\
             \nblockbox: reading the metadata ahead, before every cold run and not in its time, takes 1.25 ms.\n\
             \nbroken failed: no such device\n\
             \nSkipped: virtio-fs: no guest\n"
        );
    }
}
