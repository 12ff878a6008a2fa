//! Measures programs in a guest: the stacks of `fs`, each as the disks that a virtual machine would
//! have of it.
//!
//! Every run is a separate machine, with the guest's kernel, the settings of `blockbox run` and the
//! same memory, that mounts one stack and runs the workloads of `blockbox bench fs` on it.

mod machine;
mod partitions;
mod root;
mod stack;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

pub(super) use self::machine::{COUNTED, COUNTED_KHZ, Machine};
pub(super) use self::root::Root;
use self::stack::Stack;
use super::Setting;
use super::fs::{Build, Contender, Outcome, hold, may_mount};
use super::input::Image;

/// The coarsest clock of a guest that is accepted, in nanoseconds: some workloads take
/// milliseconds.
const COARSE: u64 = 100_000;

pub(super) fn run(setting: &Setting, images: &[PathBuf]) -> Result<Vec<Outcome>> {
    if !may_mount() || std::env::consts::ARCH != "x86_64" {
        eprintln!(
            "bench: guest is skipped: it mounts what it unpacks, which takes root on Linux, and boots an x86-64 machine"
        );
        return Ok(Vec::new());
    }
    let folder = setting.path("guest");
    std::fs::create_dir(&folder)?;
    let (root, machine) = match prepare(setting, &folder) {
        Ok(both) => both,
        Err(error) => {
            eprintln!("bench: guest is skipped: {error:#}");
            return Ok(Vec::new());
        }
    };
    let outcomes = images.iter().map(|image| {
        let image = Image::open(image)?;
        one(setting, &root, &machine, &image).with_context(|| image.name.clone())
    });
    let outcomes = outcomes.collect::<Result<_>>()?;
    std::fs::remove_dir_all(&folder)?;
    Ok(outcomes)
}

fn prepare(setting: &Setting, folder: &Path) -> Result<(Root, Machine)> {
    let root = Root::prepare(setting, &folder.join("root"))?;
    let machine = Machine::prepare(setting, &root, folder)?;
    Ok((root, machine))
}

fn one(setting: &Setting, root: &Root, machine: &Machine, image: &Image) -> Result<Outcome> {
    eprintln!("bench: {}: making disks of its layers", image.name);
    let folder = setting.path("guest-stacks");
    std::fs::create_dir(&folder)?;
    let build = Build {
        setting,
        image,
        folder: &folder,
    };
    let (stacks, skipped) = stack::make(&build)?;
    let contenders: Vec<_> = stacks
        .iter()
        .filter(|stack| setting.wants(stack.name))
        .map(|stack| Contender {
            name: stack.name.to_owned(),
            ours: stack.ours,
            root: stack::TREE.into(),
            run: Box::new(|| measure(setting, root, machine, stack)),
        })
        .collect();
    let outcome = hold(
        setting.rounds,
        &image.name,
        &contenders,
        machine.notes(),
        skipped,
    );
    std::fs::remove_dir_all(&folder)?;
    outcome
}

/// Boots a machine with a new writable disk, in which every workload runs once, cold and warm.
fn measure(
    setting: &Setting,
    root: &Root,
    machine: &Machine,
    stack: &Stack,
) -> Result<serde_json::Value> {
    let script = format!(
        "{}fsbench --rounds 1 --json {} {}\n",
        stack.mount,
        stack.options,
        stack::TREE
    );
    eprintln!("bench: a machine with {}", stack.name);
    let lines = machine.run(setting, root, &script, &stack.disks, stack.share.as_deref())?;
    report(&lines)?.with_context(|| machine.last_words())
}

/// The workloads' report among the lines that a guest wrote, if it is there.
///
/// # Errors
///
/// Times that cannot be used: the caches were full, or the clock is coarse.
pub(super) fn report(lines: &[String]) -> Result<Option<serde_json::Value>> {
    let Some(report) = lines.iter().find(|line| line.starts_with('{')) else {
        return Ok(None);
    };
    let report: serde_json::Value = serde_json::from_str(report)?;
    let caches = report["rows"][0]["cold_ns"].as_array();
    ensure!(
        caches.is_some_and(|cold| !cold.is_empty()),
        "the guest's caches could not be emptied"
    );
    let tick = report["clock_ns"].as_u64().context("no clock")?;
    ensure!(tick <= COARSE, "the guest's clock ticks every {tick} ns");
    Ok(Some(report))
}
