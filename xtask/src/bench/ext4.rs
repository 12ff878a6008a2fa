//! A new ext4 image, empty or populated.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::Setting;
use super::contest::{Contender, Contest, Outcome, Output, Size};
use crate::shell;

/// Sizes as both programs understand them.
const SIZES: [&str; 3] = ["4G", "64G", "1024G"];

pub(super) fn run(setting: &Setting, tree: Option<&Path>) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for size in SIZES {
        outcomes.push(setting.hold(contest(setting, size, None))?);
    }
    if let Some(tree) = tree {
        outcomes.push(setting.hold(contest(setting, SIZES[0], Some(tree)))?);
    }
    Ok(outcomes)
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
