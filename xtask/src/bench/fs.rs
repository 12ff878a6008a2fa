//! What programs feel of a file system: the merged image under the kernel's overlayfs, as the guest has it, against other
//! ways to show the same layers.
//!
//! Every stack is mounted on this machine's kernel, from files in one folder, with a writable layer of the same kind. In
//! every round the workloads of `blockbox bench fs` run on each of them, and every round begins with another one.

mod mounts;
mod stack;
mod table;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use self::mounts::Mounts;
use self::stack::Stack;
use super::Setting;
use super::input::Image;
use crate::shell;

pub(super) use table::{json, markdown};

/// How long a workload took on a stack, in nanoseconds, one per round.
#[derive(Clone, Default)]
struct Times {
    cold: Vec<u64>,
    warm: Vec<u64>,
}

/// A stack, and its times by workload.
struct Standing {
    name: &'static str,
    /// Why it has no (further) times.
    failed: Option<String>,
    times: Vec<(String, Times)>,
    /// How long reading ahead took before each cold run, which is not in the times.
    read_ahead: Vec<u64>,
}

/// How the stacks of an image did.
pub(super) struct Outcome {
    image: String,
    /// What was read.
    tree: String,
    standings: Vec<Standing>,
    skipped: Vec<String>,
}

pub(super) fn run(setting: &Setting, images: &[PathBuf]) -> Result<Vec<Outcome>> {
    if !rustix::process::geteuid().is_root() || !cfg!(target_os = "linux") {
        eprintln!("bench: fs is skipped: it mounts, which takes root on Linux");
        return Ok(Vec::new());
    }
    images
        .iter()
        .map(|image| {
            let image = Image::open(image)?;
            eprintln!("bench: {}: mounting its layers in every way", image.name);
            one(setting, &image).with_context(|| image.name.clone())
        })
        .collect()
}

fn one(setting: &Setting, image: &Image) -> Result<Outcome> {
    let folder = setting.path("fs");
    std::fs::create_dir(&folder)?;
    let mut mounts = Mounts::in_folder(&folder);
    let (stacks, skipped) = stack::mount(setting, image, &mut mounts)?;
    let outcome = hold(setting, image, &stacks, skipped);
    mounts.unmount()?;
    std::fs::remove_dir_all(&folder)?;
    outcome
}

fn hold(
    setting: &Setting,
    image: &Image,
    stacks: &[Stack],
    skipped: Vec<String>,
) -> Result<Outcome> {
    let mut standings: Vec<_> = stacks
        .iter()
        .map(|stack| Standing {
            name: stack.name,
            failed: None,
            times: Vec::new(),
            read_ahead: Vec::new(),
        })
        .collect();
    let mut tree = String::new();
    for round in 0..setting.rounds as usize {
        eprintln!("bench: {}: round {}", image.name, round + 1);
        for place in 0..stacks.len() {
            let number = (place + round) % stacks.len();
            let (stack, standing) = (&stacks[number], &mut standings[number]);
            if standing.failed.is_some() {
                continue;
            }
            match standing.take(setting, stack) {
                Ok(path) if stack.ours => tree = path,
                Ok(_) => {}
                Err(error) if stack.ours => return Err(error),
                Err(error) => standing.failed = Some(format!("{error:#}")),
            }
        }
    }
    let root = stacks.first().map(|stack| stack.root.display().to_string());
    Ok(Outcome {
        image: image.name.clone(),
        tree: tree
            .strip_prefix(&root.unwrap_or_default())
            .unwrap_or(&tree)
            .to_owned(),
        standings,
        skipped,
    })
}

impl Standing {
    /// Runs every workload once, cold and warm. Returns what was read.
    fn take(&mut self, setting: &Setting, stack: &Stack) -> Result<String> {
        let mut command = Command::new(&setting.blockbox);
        command
            .args(["bench", "fs", "--rounds", "1", "--format", "json", "--here"])
            .arg(&stack.root);
        if let Some((disk, bytes)) = &stack.read_ahead {
            command
                .arg("--read-ahead")
                .arg(format!("{}:{bytes}", disk.display()));
        }
        let report: Value = serde_json::from_str(&shell::output(&mut command)?)?;
        let rows = report["rows"].as_array().context("no rows")?;
        if self.times.is_empty() {
            let name = |row: &Value| row["name"].as_str().unwrap_or_default().to_owned();
            let rows = rows.iter().map(|row| (name(row), Times::default()));
            self.times = rows.collect();
        }
        ensure!(rows.len() == self.times.len(), "other rows than before");
        let samples = |samples: &Value| {
            let samples = samples.as_array().into_iter().flatten();
            samples.filter_map(Value::as_u64).collect::<Vec<_>>()
        };
        for (row, (_, times)) in rows.iter().zip(&mut self.times) {
            times.cold.extend(samples(&row["cold_ns"]));
            times.warm.extend(samples(&row["warm_ns"]));
        }
        self.read_ahead.extend(samples(&report["read_ahead_ns"]));
        let tree = report["tree"].as_str().unwrap_or_default();
        Ok(tree.to_owned())
    }
}
