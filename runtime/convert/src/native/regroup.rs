//! Merges small layers.

use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};

use fsmerge::{Limits, Merge};

use super::names::{self, Made};
use crate::error::{Error, Result};
use crate::layer::{BuildOptions, Contents, Output};
use crate::progress::{Progress, layers, phase};

/// Groups layers of `sizes` bytes that become one: from the lowest on, adjacent ones smaller than
/// `least`, until they have as many bytes together. A group does not depend on the layers above it,
/// so images with the same lower layers have the same groups of them, except for the last.
fn groups(sizes: &[u64], least: u64) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0_u64;
    for (index, &size) in sizes.iter().enumerate() {
        match groups.last_mut() {
            Some(group) if size < least && bytes < least => {
                group.end = index + 1;
                bytes = bytes.saturating_add(size);
            }
            _ => {
                groups.push(index..index + 1);
                bytes = size;
            }
        }
    }
    groups
}

/// Merges small layers until they have at least `least` bytes. Returns the images of all layers,
/// lowest first, and how many of `made` each consists of. Writes to the folder of `to`, with the
/// options of `to`.
pub(super) fn regroup(
    made: Vec<Made>,
    least: u64,
    to: (&Path, &BuildOptions),
    progress: &dyn Progress,
) -> Result<(Vec<PathBuf>, Vec<usize>)> {
    let bytes = |layer: &Made| fs::metadata(&layer.path).map(|meta| meta.len());
    let sizes: Vec<_> = made
        .iter()
        .map(|layer| bytes(layer).map_err(Error::io(&layer.path)))
        .collect::<Result<_>>()?;
    let groups = groups(&sizes, least);
    let merged = groups.iter().filter(|group| group.len() > 1);
    let total = merged.clone().flat_map(|group| &sizes[group.clone()]).sum();
    let what = format!("merging {} to {}", layers(sizes.len()), groups.len());
    match merged.count() {
        0 => write(&made, &groups, to),
        _ => phase(progress, what, Some(total), |meter| {
            let (staging, build) = to;
            let mut build = build.clone();
            build.meter = meter.clone();
            write(&made, &groups, (staging, &build))
        }),
    }
}

/// Writes a layer for each of `groups`.
fn write(
    made: &[Made],
    groups: &[Range<usize>],
    (staging, build): (&Path, &BuildOptions),
) -> Result<(Vec<PathBuf>, Vec<usize>)> {
    let limits = Limits::default();
    let bad = |source| Error::Merge(Box::new(source));
    let mut merge = Merge::new(&limits);
    let mut paths = Vec::new();
    for group in groups {
        let mut layers = made[group.clone()].iter();
        let Some(lowest) = layers.next() else {
            continue;
        };
        if group.len() == 1 {
            merge.push(&lowest.tree).map_err(bad)?;
            paths.push(lowest.path.clone());
            continue;
        }
        let mut tree = lowest.tree.clone();
        for layer in layers {
            tree = tree.fold(&layer.tree, &limits).map_err(bad)?;
        }
        // Marks that hid entries of a layer in the same group are not needed any more.
        let tree = merge.complete(&tree).map_err(bad)?;
        merge.push(&tree).map_err(bad)?;
        let path = staging.join(format!("group-{:03}.erofs", group.start));
        let out = File::create_new(&path).map_err(Error::io(&path))?;
        let contents = Contents::<Output<'_>>::new(&out, build).map_err(|source| Error::Write {
            path: path.clone(),
            source,
        })?;
        names::write(contents, &tree, made, &path, build)?;
        paths.push(path);
    }
    for group in groups.iter().filter(|group| group.len() > 1) {
        for Made { path, .. } in &made[group.clone()] {
            fs::remove_file(path).map_err(Error::io(path))?;
        }
    }
    Ok((paths, groups.iter().map(Range::len).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_layers_are_merged_until_large_and_large_ones_stay() {
        let lengths =
            |sizes: &[u64]| -> Vec<_> { groups(sizes, 10).iter().map(Range::len).collect() };
        assert!(lengths(&[]).is_empty());
        assert_eq!(lengths(&[50, 1, 2, 3]), [1, 3]);
        assert_eq!(lengths(&[1, 50, 1, 10, 1]), [1, 1, 1, 1, 1]);
        assert_eq!(lengths(&[4, 4, 4, 4, 4]), [3, 2]);
        // Layers on top change only the last group.
        assert_eq!(lengths(&[4, 4, 4, 4, 4, 9, 30]), [3, 3, 1]);
    }
}
