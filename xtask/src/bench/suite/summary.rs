//! The summary of the suite: geometric means of ratios, and every row in which a peer is faster.

use std::fmt::Write as _;

use crate::bench::fs::{Outcome, State};

/// The workloads of the lookup suite alone.
const LOOKUPS: [&str; 5] = ["readdir", "misses", "hits-misses", "misses-4", "readdir-4"];

/// The workloads of both suites.
const SHARED: [&str; 2] = ["metadata-scan", "read-all"];

const STATES: [(State, &str); 2] = [(State::Cold, "empty"), (State::Warm, "full")];

/// A peer, and the sandbox of ours whose `/tmp` is of the same kind.
struct Pair {
    peer: String,
    in_memory: bool,
    ours: String,
    rows: Vec<Row>,
}

/// A workload's times, in milliseconds.
struct Row {
    workload: String,
    state: State,
    peer: f64,
    ours: f64,
}

impl Row {
    fn ratio(&self) -> f64 {
        self.peer / self.ours
    }

    fn is_lookup(&self) -> bool {
        LOOKUPS.contains(&&*self.workload) || SHARED.contains(&&*self.workload)
    }

    fn is_file(&self) -> bool {
        !LOOKUPS.contains(&&*self.workload)
    }
}

/// All peers, each compared with ours.
pub(in crate::bench) struct Summary {
    pairs: Vec<Pair>,
}

impl Summary {
    /// Compares the peers with ours. `kind` returns whether a stack is ours, and whether its `/tmp`
    /// is in memory.
    pub(super) fn of(outcome: &Outcome, kind: impl Fn(&str) -> Option<(bool, bool)>) -> Self {
        let stacks = outcome.stacks();
        let stacks: Vec<_> = stacks
            .filter_map(|name| Some((name, kind(name)?)))
            .collect();
        let mut pairs = Vec::new();
        for &(peer, (_, in_memory)) in stacks.iter().filter(|(_, (ours, _))| !ours) {
            let alike = |(_, kind): &&(&str, (bool, bool))| *kind == (true, in_memory);
            let Some(&(ours, _)) = stacks.iter().find(alike) else {
                continue;
            };
            let mut rows = Vec::new();
            for (state, _) in STATES {
                for workload in outcome.workloads() {
                    let time = |stack| outcome.median(stack, workload, state);
                    if let (Some(peer), Some(ours)) = (time(peer), time(ours)) {
                        let workload = workload.to_owned();
                        rows.push(Row {
                            workload,
                            state,
                            peer,
                            ours,
                        });
                    }
                }
            }
            pairs.push(Pair {
                peer: peer.to_owned(),
                in_memory,
                ours: ours.to_owned(),
                rows,
            });
        }
        Self { pairs }
    }

    /// Returns nothing if no peer ran beside one of ours.
    pub(in crate::bench) fn markdown(&self) -> String {
        if self.pairs.is_empty() {
            return String::new();
        }
        let mut text = String::from(
            "\nGeometric means of how many times ours each peer takes, beside the one of ours whose `/tmp` is where its is:\n\n\
             | | beside | 14 of files, empty caches | full caches | 7 of lookups, empty caches | full caches |\n\
             |---|---|--:|--:|--:|--:|\n",
        );
        for pair in &self.pairs {
            let _ = write!(text, "| {} | {} |", pair.peer, pair.ours);
            for suite in [Row::is_file, Row::is_lookup] {
                for (state, _) in STATES {
                    let rows = pair.rows.iter();
                    let rows = rows.filter(|row| row.state == state && suite(row));
                    match geometric_mean(rows.map(Row::ratio)) {
                        Some(mean) => _ = write!(text, " {mean:.2}× |"),
                        None => text.push_str(" – |"),
                    }
                }
            }
            text.push('\n');
        }
        self.faster(&mut text);
        text
    }

    /// Adds the rows in which a peer is faster.
    fn faster(&self, text: &mut String) {
        let all = self.pairs.iter().map(|pair| pair.rows.len()).sum::<usize>();
        let faster = |row: &&Row| row.ratio() < 1.0;
        let count = |pair: &Pair| pair.rows.iter().filter(faster).count();
        let some: usize = self.pairs.iter().map(count).sum();
        let _ = write!(
            text,
            "\nA peer takes less than ours in {some} of {all} rows"
        );
        if some == 0 {
            text.push_str(".\n");
            return;
        }
        text.push_str(
            ":\n\n| workload | caches | peer | `/tmp` | peer, ms | ours, ms | |\n|---|---|---|---|--:|--:|--:|\n",
        );
        for pair in &self.pairs {
            for row in pair.rows.iter().filter(faster) {
                let (_, caches) = STATES[usize::from(row.state == State::Warm)];
                let tmp = if pair.in_memory {
                    "in memory"
                } else {
                    "on disk"
                };
                let _ = writeln!(
                    text,
                    "| {} | {caches} | {} | {tmp} | {:.2} | {:.2} | {:.2}× |",
                    row.workload,
                    pair.peer,
                    row.peer,
                    row.ours,
                    row.ratio()
                );
            }
        }
    }
}

/// Returns `None` for no ratios.
fn geometric_mean(ratios: impl Iterator<Item = f64>) -> Option<f64> {
    let logarithms: Vec<_> = ratios.map(f64::ln).collect();
    let sum: f64 = logarithms.iter().sum();
    (!logarithms.is_empty()).then(|| (sum / logarithms.len() as f64).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(rows: &[(&str, State, f64)]) -> Pair {
        let row = |&(workload, state, ratio): &(&str, State, f64)| Row {
            workload: workload.to_owned(),
            state,
            peer: ratio * 2.0,
            ours: 2.0,
        };
        Pair {
            peer: "peer".to_owned(),
            in_memory: true,
            ours: "ours".to_owned(),
            rows: rows.iter().map(row).collect(),
        }
    }

    #[test]
    fn means_are_geometric_and_the_shared_workloads_count_in_both_suites() {
        let summary = Summary {
            pairs: vec![pair(&[
                ("metadata-scan", State::Warm, 8.0),
                ("renames", State::Warm, 2.0),
                ("readdir", State::Warm, 2.0),
            ])],
        };
        let text = summary.markdown();
        assert!(
            text.contains("| peer | ours | – | 4.00× | – | 4.00× |\n"),
            "{text}"
        );
        assert!(text.ends_with("less than ours in 0 of 3 rows.\n"), "{text}");
    }

    #[test]
    fn every_row_in_which_a_peer_takes_less_is_named() {
        let summary = Summary {
            pairs: vec![pair(&[
                ("renames", State::Cold, 0.5),
                ("misses", State::Warm, 0.99),
                ("readdir", State::Warm, 1.0),
            ])],
        };
        let text = summary.markdown();
        assert!(text.contains("in 2 of 3 rows:"), "{text}");
        assert!(
            text.contains("| renames | empty | peer | in memory | 1.00 | 2.00 | 0.50× |"),
            "{text}"
        );
        assert!(text.contains("| misses | full | peer |"), "{text}");
        assert!(!text.contains("| readdir |"), "{text}");
    }
}
