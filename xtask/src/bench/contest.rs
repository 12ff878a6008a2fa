//! Programs that do the same work on the same input.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};

use super::measure::{self, Sample};
use crate::shell;

/// How an output's size is measured.
#[derive(Clone, Copy)]
pub(super) enum Size {
    /// The length of a file.
    Length,
    /// The space allocated for a file.
    Allocated,
    /// The space allocated for everything in a folder.
    Tree,
}

/// A file or folder that a contender writes, which does not exist when it starts.
pub(super) struct Output {
    pub(super) path: PathBuf,
    pub(super) size: Size,
}

/// A program that does the work.
pub(super) struct Contender {
    pub(super) name: String,
    pub(super) command: Command,
    pub(super) output: Option<Output>,
    /// Whether its failure is an error, rather than a remark.
    pub(super) ours: bool,
}

impl Contender {
    pub(super) fn ours(command: Command, output: Output) -> Self {
        Self {
            name: "blockbox".to_owned(),
            command,
            output: Some(output),
            ours: true,
        }
    }

    pub(super) fn peer(name: &str, command: Command, output: Output) -> Self {
        Self {
            name: name.to_owned(),
            command,
            output: Some(output),
            ours: false,
        }
    }

    /// Returns a part of the work that every program must do.
    pub(super) fn floor(name: &str, command: Command) -> Self {
        Self {
            name: name.to_owned(),
            command,
            output: None,
            ours: false,
        }
    }
}

/// The work, and its contenders. Ratios are relative to the first one that is not missing.
pub(super) struct Contest {
    /// The work and the input.
    pub(super) title: String,
    pub(super) contenders: Vec<Contender>,
    /// Files and folders that are read before the first round, so that no contender reads them from
    /// the disk for the others.
    pub(super) inputs: Vec<PathBuf>,
    /// Missing contenders, with the reason.
    pub(super) skipped: Vec<String>,
}

/// The results of a contender.
pub(super) struct Standing {
    pub(super) name: String,
    /// The command for a shell.
    pub(super) line: String,
    /// One per round, or the reason of a failure.
    pub(super) samples: Result<Vec<Sample>, String>,
    /// The size of its output, in bytes.
    pub(super) size: Option<u64>,
}

/// The results of all contenders.
pub(super) struct Outcome {
    pub(super) title: String,
    pub(super) standings: Vec<Standing>,
    pub(super) skipped: Vec<String>,
}

impl Contest {
    /// Adds a contender, or the reason why it is missing.
    pub(super) fn add(&mut self, contender: Result<Contender, String>) {
        match contender {
            Ok(contender) => self.contenders.push(contender),
            Err(missing) => self.skipped.push(missing),
        }
    }

    /// Runs every contender `rounds` times.
    pub(super) fn hold(self, rounds: u32) -> Result<Outcome> {
        for input in &self.inputs {
            read(input).with_context(|| input.display().to_string())?;
        }
        let mut standings: Vec<_> = self.contenders.iter().map(Standing::new).collect();
        for round in 0..rounds as usize {
            for place in 0..self.contenders.len() {
                let number = (place + round) % self.contenders.len();
                let contender = &self.contenders[number];
                standings[number]
                    .take(contender)
                    .with_context(|| format!("{}: {}", self.title, contender.name))?;
            }
        }
        Ok(Outcome {
            title: self.title,
            standings,
            skipped: self.skipped,
        })
    }
}

impl Standing {
    fn new(contender: &Contender) -> Self {
        Self {
            name: contender.name.clone(),
            line: shell::line(&contender.command),
            samples: Ok(Vec::new()),
            size: None,
        }
    }

    /// Runs the contender once more, unless it has failed before.
    fn take(&mut self, contender: &Contender) -> Result<()> {
        let Ok(samples) = &mut self.samples else {
            return Ok(());
        };
        match once(contender) {
            Ok((sample, size)) => {
                samples.push(sample);
                self.size = size;
            }
            Err(error) if contender.ours => return Err(error),
            Err(error) => self.samples = Err(last_line(&error)),
        }
        Ok(())
    }
}

/// Reads a file, or everything in a folder.
fn read(path: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if kind.is_dir() {
        for entry in fs::read_dir(path)? {
            read(&entry?.path())?;
        }
    } else if kind.is_file() {
        io::copy(&mut File::open(path)?, &mut io::sink())?;
    }
    Ok(())
}

fn once(contender: &Contender) -> Result<(Sample, Option<u64>)> {
    let Some(output) = &contender.output else {
        return Ok((measure::sample(&contender.command, None)?, None));
    };
    ensure!(
        !output.path.exists(),
        "{} exists already",
        output.path.display()
    );
    let sample = measure::sample(&contender.command, Some(&output.path));
    let size = sample.as_ref().ok().map(|_| size(output)).transpose();
    remove(&output.path).with_context(|| output.path.display().to_string())?;
    Ok((sample?, size?))
}

fn size(output: &Output) -> Result<u64> {
    let metadata = fs::metadata(&output.path)?;
    Ok(match output.size {
        Size::Length => metadata.len(),
        // In units of 512 bytes on every Unix.
        Size::Allocated => metadata.blocks() * 512,
        Size::Tree => allocated(&output.path, &mut HashSet::new())?,
    })
}

/// Returns the space allocated for a folder and everything in it; hard links are counted once.
fn allocated(path: &Path, seen: &mut HashSet<u64>) -> io::Result<u64> {
    let metadata = fs::symlink_metadata(path)?;
    let mut bytes = if seen.insert(metadata.ino()) {
        metadata.blocks() * 512
    } else {
        0
    };
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            bytes += allocated(&entry?.path(), seen)?;
        }
    }
    Ok(bytes)
}

/// Removes a contender's output, if it exists.
fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Returns the last line of an error, which is that of the failed command.
fn last_line(error: &anyhow::Error) -> String {
    let text = anyhow!("{error:#}").to_string();
    text.lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_reported_with_the_last_line_of_the_program() {
        let error = anyhow!("mkfs.erofs a b: exit status: 1\n<E> no such file\n\n");
        assert_eq!(last_line(&error), "<E> no such file");
    }
}
