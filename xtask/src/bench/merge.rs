//! Merges an image's layers into one metadata image.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Setting;
use super::contest::{Contender, Contest, Outcome, Output, Size};
use super::input::{Image, Layer};
use crate::shell;

pub(super) fn run(setting: &Setting, images: &[PathBuf]) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for image in images {
        let image = Image::open(image)?;
        let ours = setting.path("layers-ours");
        let theirs = setting.path("layers-mkfs.erofs");
        fs::create_dir(&ours)?;
        fs::create_dir(&theirs)?;
        outcomes.push(setting.hold(contest(setting, &image, &ours, &theirs)?)?);
        fs::remove_dir_all(&ours)?;
        fs::remove_dir_all(&theirs)?;
    }
    Ok(outcomes)
}

/// Both merge layer images that they made themselves.
fn contest(setting: &Setting, image: &Image, ours: &Path, theirs: &Path) -> Result<Contest> {
    let layers = convert(&image.layers, ours, |layer, output| {
        let mut command = Command::new(&setting.blockbox);
        command.args(["erofs", "build", "--tar"]).arg(layer);
        command.arg("--output").arg(output);
        shell::output(&mut command).map(drop)
    })
    .with_context(|| image.name.clone())?;
    let output = setting.path("fsmeta.erofs");
    let mut merge = Command::new(&setting.blockbox);
    merge.args(["erofs", "merge", "--output"]).arg(&output);
    merge.args(&layers);
    let mut contest = Contest {
        title: format!("{}: merge of {} layers", image.name, layers.len()),
        contenders: vec![Contender::ours(merge, metadata(output))],
        inputs: layers,
        skipped: Vec::new(),
    };

    match setting.peers.command("mkfs.erofs") {
        Err(missing) => contest.skipped.push(missing),
        Ok(mut rebuild) => {
            let made = convert(&image.layers, theirs, |layer, output| {
                let mut command = setting
                    .peers
                    .command("mkfs.erofs")
                    .map_err(anyhow::Error::msg)?;
                command
                    // Another image cannot address tails inside the metadata.
                    .args(["--quiet", "--aufs", "-Enoinline_data"])
                    .args(["--tar=f", "--ungzip"])
                    .arg(output)
                    .arg(layer);
                shell::output(&mut command).map(drop)
            });
            match made {
                Err(error) => contest.skipped.push(format!("mkfs.erofs: {error:#}")),
                Ok(layers) => {
                    let output = setting.path("rebuilt.erofs");
                    rebuild.arg("--quiet").arg(&output).args(&layers);
                    contest.inputs.extend(layers);
                    contest.contenders.push(Contender::peer(
                        "mkfs.erofs (rebuild mode)",
                        rebuild,
                        metadata(output),
                    ));
                }
            }
        }
    }
    Ok(contest)
}

fn convert(
    layers: &[Layer],
    folder: &Path,
    make: impl Fn(&Path, &Path) -> Result<()>,
) -> Result<Vec<PathBuf>> {
    let mut made = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let output = folder.join(format!("{number:03}.erofs"));
        make(&layer.path, &output)?;
        made.push(output);
    }
    Ok(made)
}

fn metadata(path: PathBuf) -> Output {
    Output {
        path,
        size: Size::Length,
    }
}
