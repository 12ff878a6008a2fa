//! The results of a run.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::workload::{Description, Suite};

/// The coarsest clock that is not mentioned in the report, in nanoseconds.
const COARSE: u64 = 100_000;

/// How long the workloads took.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// The folder that was scanned and read.
    pub tree: String,
    /// The number of directories in it, including itself.
    pub directories: u64,
    /// The number of files in it that are not empty.
    pub files: u64,
    /// The size of their contents, in bytes.
    pub bytes: u64,
    /// The folder for writing.
    pub scratch: String,
    /// The kernel's release.
    pub kernel: String,
    /// The resolution of the clock, in nanoseconds: some guests' clocks tick only every few
    /// milliseconds.
    pub clock_ns: u64,
    /// How often each workload ran.
    pub rounds: u32,
    /// Nanoseconds that reading ahead took after the caches were dropped, one per cold run; empty
    /// if there was nothing to read ahead. They are not included in the rows.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub read_ahead_ns: Vec<u64>,
    /// One per workload.
    pub rows: Vec<Row>,
}

/// How long a workload took.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Row {
    /// The workload.
    pub name: String,
    /// Its suite.
    pub suite: Suite,
    /// A description.
    pub what: String,
    /// The number of operations, such as files, reads or lookups.
    pub operations: u64,
    /// Nanoseconds with dropped caches, one per round; empty if the caches cannot be dropped.
    pub cold_ns: Vec<u64>,
    /// Nanoseconds right after another run, one per round.
    pub warm_ns: Vec<u64>,
    /// What it needs and this system lacks.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub skipped: Option<String>,
}

impl Row {
    pub(crate) fn new(description: Description) -> Self {
        Self {
            name: description.name.to_owned(),
            suite: description.suite,
            what: description.what.to_owned(),
            operations: 0,
            cold_ns: Vec::new(),
            warm_ns: Vec::new(),
            skipped: None,
        }
    }

    /// Returns the median of the cold rounds.
    pub fn cold(&self) -> Option<Duration> {
        median(&self.cold_ns)
    }

    /// Returns the median of the warm rounds.
    pub fn warm(&self) -> Option<Duration> {
        median(&self.warm_ns)
    }
}

/// Returns a measured time: the lower one of the two in the middle if their number is even.
fn median(samples: &[u64]) -> Option<Duration> {
    let mut samples = samples.to_vec();
    samples.sort_unstable();
    let middle = samples.get(samples.len().checked_sub(1)? / 2)?;
    Some(Duration::from_nanos(*middle))
}

pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} files in {} directories, {:.1} MB. Written in {}. Linux {}, medians of {} rounds.\n",
            self.tree,
            self.files,
            self.directories,
            self.bytes as f64 / 1e6,
            self.scratch,
            self.kernel,
            self.rounds
        )?;
        if self.clock_ns > COARSE {
            let tick = self.clock_ns as f64 / 1e6;
            writeln!(f, "The clock ticks every {tick:.2} ms only.\n")?;
        }
        if let Some(time) = median(&self.read_ahead_ns) {
            let time = time.as_secs_f64() * 1e3;
            writeln!(f, "Before every cold run: reading ahead, {time:.2} ms.\n")?;
        }
        writeln!(f, "{:16} {:>10} {:>10}", "", "cold ms", "warm ms")?;
        for row in &self.rows {
            if let Some(missing) = &row.skipped {
                writeln!(f, "{:16} skipped: there is no {missing}", row.name)?;
                continue;
            }
            let time = |time: Option<Duration>| {
                time.map_or_else(
                    || "–".to_owned(),
                    |t| format!("{:.2}", t.as_secs_f64() * 1e3),
                )
            };
            let (cold, warm) = (time(row.cold()), time(row.warm()));
            writeln!(f, "{:16} {cold:>10} {warm:>10}   {}", row.name, row.what)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, cold_ns: &[u64], warm_ns: &[u64], skipped: Option<&str>) -> Row {
        Row {
            name: name.to_owned(),
            suite: Suite::Files,
            what: "something".to_owned(),
            operations: 3,
            cold_ns: cold_ns.to_vec(),
            warm_ns: warm_ns.to_vec(),
            skipped: skipped.map(str::to_owned),
        }
    }

    #[test]
    fn the_table_shows_medians_that_were_measured() {
        let report = Report {
            tree: "/usr/lib/python3.11".to_owned(),
            directories: 2,
            files: 3,
            bytes: 1_234_567,
            scratch: "/tmp".to_owned(),
            kernel: "6.12".to_owned(),
            clock_ns: 4_000_000,
            rounds: 4,
            read_ahead_ns: vec![2_000_000, 1_000_000, 3_000_000],
            rows: vec![
                row(
                    "scan",
                    &[9_000_000, 1_000_000],
                    &[4, 1_500_000, 2_000_000, 3_000_000],
                    None,
                ),
                row("warm-only", &[], &[2_000_000], None),
                row("write-shm", &[], &[], Some("/dev/shm")),
            ],
        };
        insta::assert_snapshot!(report, @r"
        /usr/lib/python3.11: 3 files in 2 directories, 1.2 MB. Written in /tmp. Linux 6.12, medians of 4 rounds.

        The clock ticks every 4.00 ms only.

        Before every cold run: reading ahead, 2.00 ms.

                            cold ms    warm ms
        scan                   1.00       1.50   something
        warm-only                 –       2.00   something
        write-shm        skipped: there is no /dev/shm
        ");
        let json = serde_json::to_string(&report).expect("JSON");
        let back: Report = serde_json::from_str(&json).expect("a report");
        assert_eq!(back.to_string(), report.to_string());
    }
}
