//! Measures programs on a file system: the merged image under the kernel's overlayfs, as in the
//! guest, against other ways to show the same layers.
//!
//! Every stack is mounted on this machine's kernel, from files in one folder, with a writable layer
//! of the same kind. In every round the workloads of `blockbox bench fs` run on each of them, and
//! every round begins with another one.

mod build;
mod mounts;
mod rounds;
mod stack;
mod table;

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use self::stack::Stack;
use super::Setting;
use super::input::Image;
use crate::shell;

pub(super) use build::{Build, copy, writable};
pub(super) use mounts::Mounts;
pub(super) use rounds::{Contender, Outcome, hold};
pub(super) use stack::OVERLAY;
pub(super) use table::{State, json, markdown};

pub(super) fn run(setting: &Setting, images: &[PathBuf]) -> Result<Vec<Outcome>> {
    if !may_mount() {
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

/// Returns whether this process may mount images.
pub(super) fn may_mount() -> bool {
    rustix::process::geteuid().is_root() && cfg!(target_os = "linux")
}

fn one(setting: &Setting, image: &Image) -> Result<Outcome> {
    let folder = setting.path("fs");
    std::fs::create_dir(&folder)?;
    let mut mounts = Mounts::in_folder(&folder);
    let build = Build {
        setting,
        image,
        folder: &folder,
    };
    let (stacks, skipped) = stack::mount(&build, &mut mounts)?;
    let contenders: Vec<_> = stacks
        .iter()
        .filter(|stack| setting.wants(stack.name))
        .map(|stack| Contender {
            name: stack.name.to_owned(),
            ours: stack.ours,
            root: stack.root.clone(),
            run: Box::new(|| measure(setting, stack)),
        })
        .collect();
    let outcome = hold(
        setting.rounds,
        &image.name,
        &contenders,
        Vec::new(),
        skipped,
    );
    mounts.unmount()?;
    std::fs::remove_dir_all(&folder)?;
    outcome
}

/// Runs every workload once, cold and warm.
fn measure(setting: &Setting, stack: &Stack) -> Result<Value> {
    let mut command = setting.blockbox(&["bench", "fs", "--rounds", "1", "--format", "json"]);
    command.arg("--here").arg(&stack.root);
    if let Some((disk, bytes)) = &stack.read_ahead {
        command
            .arg("--read-ahead")
            .arg(format!("{}:{bytes}", disk.display()));
    }
    Ok(serde_json::from_str(&shell::output(&mut command)?)?)
}
