//! All layers of an image, each compressed by mkfs.erofs and by blockbox with the same options.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::Setting;
use super::contest::{Contest, Outcome, Standing};
use super::erofs::{self, Choice, OF_FOLDERS, Source};
use super::input::{self, Image};

/// The compression options: choices of the group `erofs`.
const CHOICES: [&str; 5] = [
    "-zlz4",
    "-zlz4hc,level=9 -C65536",
    "-zdeflate,level=6",
    "-zlzma,level=6",
    "-zzstd,level=3",
];

/// Runs every image with every choice, with file tails in separate blocks and packed. An outcome is
/// the sum of all layers.
pub(super) fn run(setting: &Setting, images: &[PathBuf]) -> Result<Vec<Outcome>> {
    let choices = CHOICES
        .into_iter()
        .map(|name| {
            OF_FOLDERS
                .iter()
                .find(|choice| choice.name == name)
                .context(name)
        })
        .collect::<Result<Vec<_>>>()?;
    let mut outcomes = Vec::new();
    for image in images {
        let image = Image::open(image)?;
        let mut sums: Vec<Option<Outcome>> = Vec::new();
        for layer in &image.layers {
            let tar = setting.path("layer.tar");
            input::gunzip(&layer.path, &tar)?;
            let contests = choices.iter().flat_map(|choice| {
                let source = Source::Tar(&tar);
                let contest = |packed| contest(setting, &image.name, choice, packed, source);
                [contest(false), contest(true)]
            });
            for (number, contest) in contests.enumerate() {
                eprintln!("bench: {} of {}", contest.title, layer.name);
                let outcome = contest.hold(setting.rounds)?;
                match sums.get_mut(number) {
                    Some(sum) => *sum = sum.take().map(|sum| added(sum, outcome)),
                    None => sums.push(Some(outcome)),
                }
            }
            fs::remove_file(&tar)?;
        }
        outcomes.extend(sums.into_iter().flatten());
    }
    Ok(outcomes)
}

fn contest(
    setting: &Setting,
    image: &str,
    choice: &Choice,
    packed: bool,
    source: Source<'_>,
) -> Contest {
    let more = if packed {
        " -Eztailpacking,fragments"
    } else {
        ""
    };
    let title = format!("{image}: mkfs.erofs {}{more}", choice.name);
    let mut contest = erofs::contest(setting, title, choice, source);
    for contender in &mut contest.contenders {
        let command = &mut contender.command;
        if contender.ours {
            command.args(["--block-size", "4096"]);
            if packed {
                command.args(["--features", "ztailpacking,fragments"]);
            }
        } else {
            command.args(["--tar=f", "-b4096"]);
            if packed {
                command.arg("-Eztailpacking,fragments");
            }
        }
    }
    contest
}

/// Adds the samples of two layers, round by round.
fn added(mut sum: Outcome, layer: Outcome) -> Outcome {
    for (sum, layer) in sum.standings.iter_mut().zip(layer.standings) {
        sum.size = sum.size.zip(layer.size).map(|(a, b)| a + b);
        add_samples(sum, layer);
    }
    sum
}

fn add_samples(sum: &mut Standing, layer: Standing) {
    match (&mut sum.samples, layer.samples) {
        (Ok(sums), Ok(samples)) => {
            for (sum, sample) in sums.iter_mut().zip(samples) {
                sum.wall += sample.wall;
                sum.cpu += sample.cpu;
                sum.peak = sum.peak.max(sample.peak);
            }
        }
        (Ok(_), Err(failure)) => sum.samples = Err(failure),
        (Err(_), _) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::measure::Sample;
    use super::*;

    fn outcome(size: u64, samples: Result<Vec<u64>, String>) -> Outcome {
        let sample = |ms| Sample {
            wall: Duration::from_millis(ms),
            cpu: Duration::from_millis(2 * ms),
            peak: ms,
        };
        let standing = Standing {
            name: "blockbox".to_owned(),
            line: String::new(),
            samples: samples.map(|all| all.into_iter().map(sample).collect()),
            size: Some(size),
        };
        Outcome {
            title: String::new(),
            standings: vec![standing],
            skipped: Vec::new(),
        }
    }

    #[test]
    fn layers_are_added_round_by_round() {
        let sum = added(outcome(10, Ok(vec![1, 5])), outcome(7, Ok(vec![3, 2])));
        assert_eq!(sum.standings[0].size, Some(17));
        let samples = sum.standings[0].samples.as_ref().expect("two samples");
        let wall: Vec<_> = samples.iter().map(|s| s.wall.as_millis()).collect();
        let peak: Vec<_> = samples.iter().map(|s| s.peak).collect();
        assert_eq!((wall, peak), (vec![4, 7], vec![3, 5]));
        let failed = added(sum, outcome(1, Err("no".to_owned())));
        assert_eq!(
            failed.standings[0].samples.as_ref().err(),
            Some(&"no".to_owned())
        );
    }
}
