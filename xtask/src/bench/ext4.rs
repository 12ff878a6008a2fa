//! Makes new ext4 images, empty or populated.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ext4_writer::{Builder, Options};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::Setting;
use super::contest::{Contender, Contest, Outcome, Output, Size, Standing};
use super::measure::{self, Sample};
use crate::shell;

/// Sizes as both programs understand them, and in GiB.
const SIZES: [(&str, u64); 3] = [("4G", 4), ("64G", 64), ("1024G", 1024)];

/// If `tree` is a tar archive, it is unpacked first.
pub(super) fn run(setting: &Setting, tree: Option<&Path>) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for (size, gibibytes) in SIZES {
        outcomes.push(library(setting, size, gibibytes << 30)?);
        outcomes.push(setting.hold(contest(setting, size, None))?);
    }
    if let Some(tree) = tree {
        let (size, _) = SIZES[0];
        let unpacked = setting.path("tree");
        if tree.is_file() {
            fs::create_dir(&unpacked)?;
            let mut tar = Command::new("tar");
            tar.args(["--extract", "--preserve-permissions", "--file"]);
            shell::output(tar.arg(tree).arg("--directory").arg(&unpacked))?;
            let mut contest = contest(setting, size, Some(&unpacked));
            contest.title = format!("ext4 of {size}, holding {}", tree.display());
            outcomes.push(setting.hold(contest)?);
            fs::remove_dir_all(&unpacked)?;
        } else {
            outcomes.push(setting.hold(contest(setting, size, Some(tree)))?);
        }
    }
    Ok(outcomes)
}

/// Makes an empty image with a library call in this process, beside mke2fs; both until the image is
/// on stable storage.
fn library(setting: &Setting, name: &str, size: u64) -> Result<Outcome> {
    let title = format!("ext4 of {name}, empty, as a library call");
    eprintln!("bench: {title}");
    let mut skipped = Vec::new();
    let mut peer = match mke2fs(setting, name, None) {
        Ok(contender) => Some((contender, Vec::new())),
        Err(missing) => {
            skipped.push(missing);
            None
        }
    };
    let path = setting.path("ours.ext4");
    let (mut samples, mut plain) = (Vec::new(), Vec::new());
    let mut ours_size = 0;
    let mut peers_size = None;
    let contenders = if peer.is_some() { 3 } else { 2 };
    for round in 0..setting.rounds {
        // Each contender reuses memory that the previous one has freed, which is still cached.
        for place in 0..contenders {
            rustix::fs::sync();
            match (round + place) % contenders {
                0 => {
                    samples.push(call(&path, size)?);
                    ours_size = fs::metadata(&path)?.blocks() * 512;
                    fs::remove_file(&path)?;
                }
                1 => {
                    // blockbox comes first in the first round.
                    plain.push(write(&path, size, ours_size)?);
                    fs::remove_file(&path)?;
                }
                _ => {
                    if let Some((contender, samples)) = &mut peer {
                        let output = contender.output.as_ref().context("mke2fs has an output")?;
                        samples.push(measure::sample(&contender.command, Some(&output.path))?);
                        peers_size = Some(fs::metadata(&output.path)?.blocks() * 512);
                        fs::remove_file(&output.path)?;
                    }
                }
            }
        }
    }
    let mut standings = vec![Standing {
        name: "ext4-writer".to_owned(),
        line: format!("Builder::new(file, Options::new({size}))?.finish()?"),
        samples: Ok(samples),
        size: Some(ours_size),
    }];
    standings.push(Standing {
        name: "as many bytes".to_owned(),
        line: "pwrite of 512 KiB each, all over a sparse file of that size".to_owned(),
        samples: Ok(plain),
        size: Some(ours_size),
    });
    standings.extend(peer.map(|(contender, samples)| Standing {
        name: contender.name,
        line: shell::line(&contender.command),
        samples: Ok(samples),
        size: peers_size,
    }));
    Ok(Outcome {
        title,
        standings,
        skipped,
    })
}

/// Makes one library call: the file is created, filled and synced.
fn call(path: &Path, size: u64) -> Result<Sample> {
    sample(path, size, |file| {
        Ok(Builder::new(file, Options::new(size))?.finish()?.0)
    })
}

/// Measures how long the kernel takes to write as many bytes: the least for an image of this size.
fn write(path: &Path, size: u64, bytes: u64) -> Result<Sample> {
    const PIECE: usize = 512 << 10;
    let piece = vec![1; PIECE];
    let pieces = bytes.div_ceil(PIECE as u64);
    sample(path, size, |file| {
        for number in 0..pieces {
            let at = size / pieces * number;
            let left = (bytes - number * PIECE as u64).min(PIECE as u64) as usize;
            file.write_all_at(&piece[..left], at)?;
        }
        Ok(file)
    })
}

fn sample(path: &Path, size: u64, fill: impl FnOnce(File) -> Result<File>) -> Result<Sample> {
    let before = cpu()?;
    let start = Instant::now();
    let file = File::create_new(path)?;
    file.set_len(size)?;
    fill(file)?.sync_all()?;
    let wall = start.elapsed();
    Ok(Sample {
        wall,
        cpu: cpu()?.saturating_sub(before),
        // Linux counts in KiB.
        peak: u64::try_from(getrusage(UsageWho::RUSAGE_SELF)?.max_rss())? * 1024,
    })
}

/// Returns the processor time that this process has used so far.
fn cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros)?))
}

fn contest(setting: &Setting, size: &str, tree: Option<&Path>) -> Contest {
    let output = setting.path("ours.ext4");
    let mut ours = Command::new(&setting.blockbox);
    ours.args(["ext4", "create", "--size", size]);
    if let Some(tree) = tree {
        ours.arg("--dir").arg(tree);
    }
    ours.arg("--output").arg(&output);
    let contents = tree.map_or_else(
        || "empty".to_owned(),
        |tree| {
            let tree = tree.strip_prefix(shell::repository()).unwrap_or(tree);
            format!("holding {}", tree.display())
        },
    );
    let mut contest = Contest {
        title: format!("ext4 of {size}, {contents}"),
        contenders: vec![Contender::ours(ours, image(output))],
        inputs: tree.iter().map(|&tree| tree.to_owned()).collect(),
        skipped: Vec::new(),
    };
    contest.add(mke2fs(setting, size, tree));
    contest
}

fn mke2fs(setting: &Setting, size: &str, tree: Option<&Path>) -> Result<Contender, String> {
    let mut command = setting.peers.command("mke2fs")?;
    let output = setting.path("mke2fs.ext4");
    command.args(["-F", "-q", "-t", "ext4"]);
    if let Some(tree) = tree {
        command.arg("-d").arg(tree);
    }
    command.arg(&output).arg(size);
    let name = if tree.is_some() {
        "mke2fs -d"
    } else {
        "mke2fs"
    };
    Ok(Contender::peer(name, command, image(output)))
}

fn image(path: PathBuf) -> Output {
    Output {
        path,
        size: Size::Allocated,
    }
}
