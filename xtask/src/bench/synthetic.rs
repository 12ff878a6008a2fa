//! Synthetic layers that show how merging scales.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::Setting;
use super::contest::{Contender, Contest, Outcome, Output, Size};
use crate::shell;

/// The number of files in a folder.
const FOLDER: u32 = 100;

/// Compares whiteouts with as many new files; and twice the layers with twice the entries.
pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>> {
    let stacks = setting.path("synthetic");
    fs::create_dir(&stacks)?;
    let stacks = Stacks {
        setting,
        folder: &stacks,
    };
    let base = stacks.layer("base", 0..20_000, "")?;
    let added = stacks.layer("added", 20_000..30_000, "")?;
    let whiteouts = stacks.layer("whiteouts", 0..10_000, ".wh.")?;
    let outcomes = vec![
        setting.hold(stacks.contest(
            "20,000 files and a layer of 10,000 entries",
            [
                ("10,000 new files", vec![base.clone(), added]),
                ("10,000 whiteouts", vec![base, whiteouts]),
            ],
        ))?,
        {
            let layers: Vec<_> = (0..40)
                .map(|n| stacks.layer(&format!("{n:02}"), n * 5_000..(n + 1) * 5_000, ""))
                .collect::<Result<_>>()?;
            setting.hold(stacks.contest(
                "5,000 new files in every layer",
                [("20 layers", layers[..20].to_vec()), ("40 layers", layers)],
            ))?
        },
    ];
    fs::remove_dir_all(stacks.folder)?;
    Ok(outcomes)
}

struct Stacks<'a> {
    setting: &'a Setting,
    folder: &'a Path,
}

impl Stacks<'_> {
    /// Makes an image of a layer with a file for each number, with `prefix` before its name.
    fn layer(&self, name: &str, numbers: std::ops::Range<u32>, prefix: &str) -> Result<PathBuf> {
        let tar = self.folder.join(format!("{name}.tar"));
        let mut archive = tar::Builder::new(io::BufWriter::new(File::create(&tar)?));
        for number in numbers {
            let path = format!("d{:04}/{prefix}f{number:06}", number / FOLDER);
            let contents = if prefix.is_empty() {
                path.as_bytes()
            } else {
                b""
            };
            let mut header = tar::Header::new_ustar();
            header.set_mode(0o644);
            header.set_size(contents.len() as u64);
            archive.append_data(&mut header, &path, contents)?;
        }
        archive.into_inner()?.into_inner()?;
        let image = self.folder.join(format!("{name}.erofs"));
        let mut build = Command::new(&self.setting.blockbox);
        build.args(["erofs", "build", "--tar"]).arg(&tar);
        shell::output(build.arg("--output").arg(&image))?;
        fs::remove_file(&tar)?;
        Ok(image)
    }

    fn contest<const N: usize>(&self, what: &str, stacks: [(&str, Vec<PathBuf>); N]) -> Contest {
        let inputs = stacks.iter().flat_map(|(_, layers)| layers.clone());
        let inputs = inputs.collect();
        let contenders = stacks.map(|(name, layers)| {
            let output = self.setting.path("fsmeta.erofs");
            let mut merge = Command::new(&self.setting.blockbox);
            merge.args(["erofs", "merge", "--output"]).arg(&output);
            merge.args(&layers);
            let output = Output {
                path: output,
                size: Size::Length,
            };
            let mut contender = Contender::ours(merge, output);
            contender.name = format!("blockbox: {name}");
            contender
        });
        Contest {
            title: format!("synthetic: merge of {what}"),
            contenders: contenders.into(),
            inputs,
            skipped: Vec::new(),
        }
    }
}
