//! Reports of the measurements, in Markdown and JSON.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::Setting;
use super::contest::{Outcome, Standing};
use super::measure::Sample;

/// The load average above which the times mean little.
const BUSY: f64 = 0.5;

/// Conditions that the figures depend on besides the programs.
pub(super) struct Surroundings {
    rounds: u32,
    processors: usize,
    kernel: String,
    /// The load in the minute before the first round, if the system reports it.
    load: Option<f64>,
    mkfs_erofs: Option<String>,
}

impl Surroundings {
    pub(super) fn now(setting: &Setting) -> Result<Self> {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Ok(Self {
            rounds: setting.rounds,
            processors: std::thread::available_parallelism()?.get(),
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            load: load.split(' ').next().and_then(|load| load.parse().ok()),
            mkfs_erofs: setting.peers.mkfs_erofs_version(),
        })
    }
}

/// The medians of a contender's rounds, separately for each column.
pub(super) struct Medians {
    pub(super) wall: Duration,
    pub(super) cpu: Duration,
    pub(super) peak: u64,
}

impl Medians {
    pub(super) fn of(standing: &Standing) -> Option<Self> {
        let samples = standing.samples.as_ref().ok()?;
        Some(Self {
            wall: median(samples, |sample| sample.wall)?,
            cpu: median(samples, |sample| sample.cpu)?,
            peak: median(samples, |sample| sample.peak)?,
        })
    }
}

/// Returns the median; the lower one of the two in the middle if their number is even.
pub(super) fn median<S, T: Ord + Copy>(samples: &[S], value: impl Fn(&S) -> T) -> Option<T> {
    let mut values: Vec<T> = samples.iter().map(value).collect();
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}

/// Returns the first contender with figures, to which ratios are relative.
fn unit(outcome: &Outcome) -> Option<(&str, Medians)> {
    outcome
        .standings
        .iter()
        .find_map(|standing| Some((&*standing.name, Medians::of(standing)?)))
}

fn ratio(time: Duration, unit: Duration) -> Option<f64> {
    (!unit.is_zero()).then(|| time.as_secs_f64() / unit.as_secs_f64())
}

/// Returns the beginning of a group's report.
pub(super) fn head(group: &str, surroundings: &Surroundings) -> String {
    let mut text = format!(
        "# bench {group}\n\nRounds: {}, of which the tables show the medians. {} processors, Linux {}, {}.\n",
        surroundings.rounds,
        surroundings.processors,
        surroundings.kernel,
        surroundings
            .mkfs_erofs
            .as_deref()
            .unwrap_or("no mkfs.erofs"),
    );
    if let Some(load) = surroundings.load.filter(|&load| load > BUSY) {
        let _ = write!(
            text,
            "\n**The machine was not idle** (load {load} before the first round): the times say little.\n"
        );
    }
    text
}

/// Returns one table per contest, and all samples.
pub(super) fn both(outcomes: &[Outcome]) -> (String, Value) {
    let mut text = String::new();
    for outcome in outcomes {
        table(&mut text, outcome);
    }
    (text, outcomes.iter().map(contest).collect())
}

fn table(text: &mut String, outcome: &Outcome) {
    let unit = unit(outcome);
    let name = unit.as_ref().map_or("–", |(name, _)| name);
    let _ = write!(
        text,
        "\n## {}\n\n1× is `{name}`.\n\n\
         | program | wall ms | wall | CPU ms | CPU | peak MiB | bytes |\n\
         |---|--:|--:|--:|--:|--:|--:|\n",
        outcome.title
    );
    for standing in &outcome.standings {
        let name = &standing.name;
        let Some(medians) = Medians::of(standing) else {
            let why = standing.samples.as_ref().err().map_or("", |why| why);
            let _ = writeln!(
                text,
                "| `{name}` | failed: {} ||||||",
                why.replace('|', "\\|")
            );
            continue;
        };
        let times = |time: Duration, unit: Option<Duration>| {
            let ratio = unit.and_then(|unit| ratio(time, unit));
            let ratio = ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}×"));
            format!("{:.1} | {ratio}", time.as_secs_f64() * 1e3)
        };
        let unit = unit.as_ref().map(|(_, unit)| unit);
        let _ = writeln!(
            text,
            "| `{name}` | {} | {} | {:.1} | {} |",
            times(medians.wall, unit.map(|unit| unit.wall)),
            times(medians.cpu, unit.map(|unit| unit.cpu)),
            medians.peak as f64 / f64::from(1 << 20),
            standing.size.map_or_else(|| "–".to_owned(), grouped),
        );
    }
    for skipped in &outcome.skipped {
        let _ = write!(text, "\nSkipped: {skipped}\n");
    }
}

/// Returns the whole report in JSON.
pub(super) fn json(group: &str, surroundings: &Surroundings, contests: &Value) -> Value {
    json!({
        "group": group,
        "rounds": surroundings.rounds,
        "processors": surroundings.processors,
        "kernel": surroundings.kernel,
        "load": surroundings.load,
        "mkfs_erofs": surroundings.mkfs_erofs,
        "contests": contests,
    })
}

/// Returns all samples of every contender, and the medians.
fn contest(outcome: &Outcome) -> Value {
    let unit = unit(outcome);
    let standing = |standing: &Standing| {
        let mut value = json!({
            "name": standing.name,
            "command": standing.line,
            "bytes": standing.size,
        });
        match &standing.samples {
            Ok(samples) => {
                let samples: Vec<_> = samples.iter().copied().map(Sample::json).collect();
                value["samples"] = samples.into();
            }
            Err(why) => value["failed"] = why.as_str().into(),
        }
        if let (Some(medians), Some((_, unit))) = (Medians::of(standing), &unit) {
            let Medians { wall, cpu, peak } = medians;
            value["median"] = Sample { wall, cpu, peak }.json();
            value["ratio"] = json!({
                "wall": ratio(wall, unit.wall),
                "cpu": ratio(cpu, unit.cpu),
            });
        }
        value
    };
    json!({
        "title": outcome.title,
        "unit": unit.as_ref().map(|(name, _)| *name),
        "contenders": outcome.standings.iter().map(standing).collect::<Vec<_>>(),
        "skipped": outcome.skipped,
    })
}

/// Formats a size as `12.3 MB`.
pub(super) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Formats a number as `1,234,567`.
pub(super) fn grouped(bytes: u64) -> String {
    let digits = bytes.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(name: &str, walls: &[u64]) -> Standing {
        let sample = |&wall| Sample {
            wall: Duration::from_millis(wall),
            cpu: Duration::from_millis(2 * wall),
            peak: 3 << 20,
        };
        Standing {
            name: name.to_owned(),
            line: name.to_owned(),
            samples: Ok(walls.iter().map(sample).collect()),
            size: Some(1_234_567),
        }
    }

    #[test]
    fn ratios_are_of_medians_and_to_the_first_contender_that_ran() {
        let failed = Standing {
            samples: Err("no | such file".to_owned()),
            ..standing("igzip", &[])
        };
        let outcome = Outcome {
            title: "a layer".to_owned(),
            standings: vec![
                failed,
                standing("floor", &[10, 90, 20]),
                standing("blockbox", &[30, 31, 5]),
            ],
            skipped: vec!["b is not installed".to_owned()],
        };
        let mut text = String::new();
        table(&mut text, &outcome);
        assert_eq!(
            text,
            "\n## a layer\n\n1× is `floor`.\n\n\
             | program | wall ms | wall | CPU ms | CPU | peak MiB | bytes |\n\
             |---|--:|--:|--:|--:|--:|--:|\n\
             | `igzip` | failed: no \\| such file ||||||\n\
             | `floor` | 20.0 | 1.00× | 40.0 | 1.00× | 3.0 | 1,234,567 |\n\
             | `blockbox` | 30.0 | 1.50× | 60.0 | 1.50× | 3.0 | 1,234,567 |\n\
             \nSkipped: b is not installed\n"
        );
        assert_eq!(contest(&outcome)["unit"], "floor");
        assert_eq!(contest(&outcome)["contenders"][2]["ratio"]["wall"], 1.5);
    }

    #[test]
    fn the_median_of_an_even_number_is_one_that_was_measured() {
        let standing = standing("a", &[4, 1, 3, 2]);
        let medians = Medians::of(&standing).expect("samples");
        assert_eq!(medians.wall, Duration::from_millis(2));
    }
}
