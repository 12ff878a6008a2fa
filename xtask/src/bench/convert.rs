//! Converts a layer's tar to an EROFS image.

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::contest::{Contender, Contest, Outcome, Output, Size};
use super::input::{self, Image, Layer};
use super::{Setting, report};

/// Decompression of a layer on one core: the unit for everything that starts with gzip.
const INFLATE: &[&str] = &["libdeflate-gunzip", "-c"];

/// A faster program, in assembly.
const INFLATE_ISAL: &[&str] = &["igzip", "-d", "-c"];

/// Hashing on one core with the processor's own instructions: the unit for everything that starts
/// with a tar.
const HASH: &[&str] = &["openssl", "dgst", "-sha256"];

/// Does not use those instructions in some distributions.
const HASH_COREUTILS: &[&str] = &["sha256sum"];

pub(super) fn run(setting: &Setting, images: &[PathBuf], largest: usize) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for image in images {
        let mut layers = Image::open(image)?.layers;
        layers.sort_by_key(|layer| Reverse(layer.size));
        for layer in layers.iter().take(largest) {
            let tar = setting.path("layer.tar");
            let tar_size = input::gunzip(&layer.path, &tar)?;
            outcomes.push(setting.hold(from_gzip(setting, layer))?);
            outcomes.push(setting.hold(from_tar(setting, layer, &tar, tar_size))?);
            fs::remove_file(&tar)?;
        }
    }
    Ok(outcomes)
}

fn from_gzip(setting: &Setting, layer: &Layer) -> Contest {
    let mut contest = Contest {
        title: format!(
            "{}: gzip ({}) to EROFS",
            layer.name,
            report::megabytes(layer.size)
        ),
        contenders: Vec::new(),
        inputs: vec![layer.path.clone()],
        skipped: Vec::new(),
    };
    for words in [INFLATE, INFLATE_ISAL, HASH, HASH_COREUTILS] {
        contest.add(floor(setting, words, &layer.path));
    }
    contest.contenders.push(ours(setting, &layer.path));
    contest.add(mkfs_erofs(setting, &["--tar=f", "--ungzip"], &layer.path));
    contest
}

fn from_tar(setting: &Setting, layer: &Layer, tar: &Path, size: u64) -> Contest {
    let mut contest = Contest {
        title: format!("{}: tar ({}) to EROFS", layer.name, report::megabytes(size)),
        contenders: Vec::new(),
        inputs: vec![tar.to_owned()],
        skipped: Vec::new(),
    };
    for words in [HASH, HASH_COREUTILS] {
        contest.add(floor(setting, words, tar));
    }
    contest.contenders.push(ours(setting, tar));
    contest.add(mkfs_erofs(setting, &["--tar=f"], tar));
    contest
}

fn floor(setting: &Setting, words: &[&str], file: &Path) -> Result<Contender, String> {
    let mut command = setting.peers.command(words[0])?;
    command.args(&words[1..]).arg(file);
    Ok(Contender::floor(&words.join(" "), command))
}

fn ours(setting: &Setting, tar: &Path) -> Contender {
    let output = setting.path("ours.erofs");
    let mut command = Command::new(&setting.blockbox);
    command.args(["erofs", "build", "--tar"]).arg(tar);
    command.arg("--output").arg(&output);
    Contender::ours(command, image(output))
}

fn mkfs_erofs(setting: &Setting, args: &[&str], tar: &Path) -> Result<Contender, String> {
    let mut command = setting.peers.command("mkfs.erofs")?;
    let output = setting.path("mkfs.erofs");
    command
        .args(["--quiet", "--aufs"])
        .args(args)
        .arg(&output)
        .arg(tar);
    let name = format!("mkfs.erofs --aufs {}", args.join(" "));
    Ok(Contender::peer(&name, command, image(output)))
}

fn image(path: PathBuf) -> Output {
    Output {
        path,
        size: Size::Length,
    }
}
