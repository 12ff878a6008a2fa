//! Converts a whole image to what it is run from: disks for blockbox and similar programs, folders
//! for container engines.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::contest::{Contender, Contest, Outcome, Output, Size};
use super::input::Image;
use super::{Setting, microsandbox};
use crate::shell;

/// The least that every program must do: each layer is decompressed and hashed in order, and
/// nothing is written.
const FLOOR: &str =
    r#"for layer; do libdeflate-gunzip -c "$layer" | openssl dgst -sha256 || exit; done"#;

/// Makes one image per layer without merging them: the first argument is the folder, followed by
/// the words that start mkfs.erofs up to `--`, and the layers.
pub(super) const MKFS_EROFS: &str = r#"out=$1; shift; mkfs=
    while [ "$1" != -- ]; do mkfs="$mkfs $1"; shift; done; shift
    mkdir "$out" && for layer; do
        $mkfs --quiet --aufs --tar=f --ungzip "$out/${layer##*/}" "$layer" || exit
    done"#;

pub(super) fn run(setting: &Setting, images: &[PathBuf]) -> Result<Vec<Outcome>> {
    images
        .iter()
        .map(|layout| {
            let image = Image::open(layout)?;
            let archive = setting.path("image.tar");
            let contest = contest(setting, layout, &image, &archive);
            let outcome = setting.hold(contest.with_context(|| image.name.clone())?)?;
            if archive.exists() {
                fs::remove_file(&archive)?;
            }
            Ok(outcome)
        })
        .collect()
}

fn contest(setting: &Setting, layout: &Path, image: &Image, archive: &Path) -> Result<Contest> {
    let layers = || image.layers.iter().map(|layer| &layer.path);
    let mut contest = Contest {
        title: format!("{}: {} layers", image.name, image.layers.len()),
        contenders: Vec::new(),
        inputs: layers().cloned().collect(),
        skipped: Vec::new(),
    };
    let floor = ["libdeflate-gunzip", "openssl"]
        .iter()
        .try_for_each(|program| setting.peers.command(program).map(drop))
        .map(|()| {
            let mut command = shell_script(FLOOR);
            command.args(layers());
            Contender::floor("libdeflate-gunzip, openssl dgst -sha256", command)
        });
    contest.add(floor);

    let home = setting.path("home");
    let mut pull = Command::new(&setting.blockbox);
    pull.arg("--home").arg(&home).args(["pull", "--quiet"]);
    pull.arg(format!("oci:{}", layout.display()));
    contest.contenders.push(Contender::ours(pull, folder(home)));

    contest.add(microsandbox::contender(setting, layout, archive));
    contest.add(setting.peers.command("mkfs.erofs").map(|mkfs| {
        let output = setting.path("mkfs.erofs");
        let mut command = shell_script(MKFS_EROFS);
        command.arg(&output).arg(mkfs.get_program());
        command.args(mkfs.get_args()).arg("--").args(layers());
        Contender::peer("mkfs.erofs of every layer", command, folder(output))
    }));
    let Some(tag) = &image.tag else {
        let why = "the layout names no image: umoci and skopeo".to_owned();
        contest.skipped.push(why);
        return Ok(contest);
    };
    let source = format!("{}:{tag}", layout.display());
    contest.add(setting.peers.command("umoci").map(|mut umoci| {
        let output = setting.path("bundle");
        umoci.args(["unpack", "--image", &source]).arg(&output);
        Contender::peer("umoci unpack", umoci, folder(output))
    }));
    for (name, target) in [
        ("skopeo copy to dir:", "dir:{}"),
        (
            "skopeo copy to containers-storage:",
            "containers-storage:[overlay@{}/root+{}/run]localhost/image:latest",
        ),
    ] {
        contest.add(setting.peers.command("skopeo").map(|skopeo| {
            let output = setting.path("copy");
            let target = target.replace("{}", &output.display().to_string());
            // A store mounts its folder on itself, and leaves the mount.
            let mut command = Command::new("unshare");
            command
                .arg("--mount")
                .arg(skopeo.get_program())
                .args(["--insecure-policy", "copy", "--quiet"])
                .args([format!("oci:{source}"), target]);
            Contender::peer(name, command, folder(output))
        }));
    }
    Ok(contest)
}

/// The following arguments are the script's.
pub(super) fn shell_script(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]);
    command
}

pub(super) fn folder(path: PathBuf) -> Output {
    Output {
        path,
        size: Size::Tree,
    }
}

/// Packs a layout for programs that only read archives.
pub(super) fn pack(layout: &Path, archive: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(layout).arg("-cf").arg(archive).arg(".");
    shell::output(&mut tar).map(drop)
}
