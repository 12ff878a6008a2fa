//! Layers: converts a tar stream to an EROFS image, and reads an image back to a tree.

mod contents;
mod emit;
mod index;
mod options;
mod output;
mod pieces;
mod read;

use std::fs::File;
use std::io::{self, BufRead};
use std::path::Path;

use blockbox_store::Checksum;
use fsmerge::{DataId, Limits, ReadError, Tree};

use crate::error::{Error, Result};
use crate::folder;

pub(crate) use contents::Contents;
pub(crate) use emit::{Form, emit};
pub use index::write_index;
pub use options::{BuildOptions, Times};
pub(crate) use output::{Output, Sent};
pub(crate) use pieces::{InPieces, of_file};
pub(crate) use read::{Image, Part, open, read, tree};

/// A summary of the conversion of a layer.
#[derive(Debug)]
pub struct Summary {
    /// The summary of the image.
    pub image: erofs_writer::Summary,
    /// What was left out of the layer.
    pub warnings: Vec<String>,
}

/// Converts the tar stream of the layer called `name` to an EROFS image in `out`, which will be at
/// `path`, in one pass. Memory grows with the number of entries only. `tar` is read to its end, so
/// that its digests are verified.
///
/// Only an image with default `options` can be merged with others.
pub fn write(
    tar: impl BufRead,
    name: &str,
    out: &File,
    options: impl Into<BuildOptions>,
    path: &Path,
) -> Result<Summary> {
    let (_, summary) = write_to(tar, name, Output::new(out), &options.into(), path)?;
    Ok(summary)
}

/// As [`write`], for the store. Returns the checksum, too.
pub(crate) fn write_hashed(
    tar: impl BufRead,
    name: &str,
    out: &File,
    path: &Path,
) -> Result<(Summary, Checksum)> {
    let out = Output::hashed(out);
    let (out, summary) = write_to(tar, name, out, &BuildOptions::default(), path)?;
    Ok((summary, out.checksum().map_err(Error::io(path))?))
}

fn write_to<'a>(
    mut tar: impl BufRead,
    name: &str,
    out: Output<'a>,
    options: &BuildOptions,
    path: &Path,
) -> Result<(Output<'a>, Summary)> {
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let mut contents = Contents::of(out, options).map_err(failed)?;
    let (layer, stats) = fsmerge::read_tar(&mut tar, &mut contents, &Limits::default()).map_err(
        |error| match error {
            ReadError::Sink { source, .. } => failed(source),
            ReadError::Layer(source) => Error::layer(name, source),
        },
    )?;
    io::copy(&mut tar, &mut io::sink()).map_err(|source| Error::LayerStream {
        layer: name.to_owned(),
        source,
    })?;
    finish_output(contents, &layer, options, &stats).map_err(failed)
}

/// Makes an image of the folder `root` in `out`, which will be at `path`.
pub fn write_folder(
    root: &Path,
    out: &File,
    options: impl Into<BuildOptions>,
    path: &Path,
) -> Result<Summary> {
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let options = options.into();
    let mut contents = Contents::new(out, &options).map_err(failed)?;
    let (tree, stats) = folder::read(root, &mut contents, |_, source| failed(source))?;
    finish(contents, &tree, &options, &stats).map_err(failed)
}

/// Writes a layer's names after its contents.
fn finish(
    contents: Contents<Output<'_>>,
    tree: &Tree,
    options: &BuildOptions,
    stats: &fsmerge::Stats,
) -> Result<Summary, erofs_writer::Error> {
    let (_, summary) = finish_output(contents, tree, options, stats)?;
    Ok(summary)
}

/// As [`finish`], and returns the output.
fn finish_output<'a>(
    contents: Contents<Output<'a>>,
    tree: &Tree,
    options: &BuildOptions,
    stats: &fsmerge::Stats,
) -> Result<(Output<'a>, Summary), erofs_writer::Error> {
    let Contents {
        mut image, files, ..
    } = contents;
    let find = |DataId(id): DataId| files[id as usize];
    emit(tree, find, &mut image, Form::Layer, options.times)?;
    let (out, summary) = image.finish()?;
    let summary = Summary {
        image: summary,
        warnings: warnings(stats),
    };
    Ok((out, summary))
}

/// Returns the warnings for a layer.
pub(crate) fn warnings(stats: &fsmerge::Stats) -> Vec<String> {
    let mut warnings: Vec<_> = stats.warnings.iter().map(ToString::to_string).collect();
    let untold = stats.warning_count.saturating_sub(warnings.len() as u64);
    if untold > 0 {
        warnings.push(format!("{untold} more"));
    }
    warnings
}
