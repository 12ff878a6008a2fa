//! Writes the names of a layer, whose contents are in its own image or are copied from those of
//! other layers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use erofs_writer::FileData;
use fsmerge::{DataId, Kind, LayerTree};

use crate::error::{Error, Result};
use crate::layer::{self, BuildOptions, Contents, Form, Output};
use crate::rebuild;

/// The upper bits of a [`DataId`] hold the layer's number, so that layers can be merged.
const LAYER_SHIFT: u32 = 40;

/// A finished layer image.
pub(super) struct Made {
    pub(super) tree: LayerTree,
    pub(super) path: PathBuf,
}

/// Returns the id of the contents `file` of the layer `number`.
pub(super) fn numbered(number: usize, file: usize) -> DataId {
    DataId((number as u64) << LAYER_SHIFT | file as u64)
}

/// Writes the names of a layer on top of `lower`, to whose contents it may have hard links.
pub(super) fn write(
    mut contents: Contents<Output<'_>>,
    tree: &LayerTree,
    lower: &[Made],
    path: &Path,
    build: &BuildOptions,
) -> Result<()> {
    let number = lower.len();
    // The contents to copy, by the layer that holds them.
    let mut wanted: BTreeMap<usize, HashSet<DataId>> = BTreeMap::new();
    for node in tree.nodes() {
        if let Kind::File {
            data: Some(data), ..
        } = tree.kind(node)
        {
            let from = usize::try_from(data.0 >> LAYER_SHIFT).unwrap_or(usize::MAX);
            if from < lower.len() {
                wanted.entry(from).or_default().insert(data);
            }
        }
    }
    let mut copies: HashMap<DataId, FileData> = HashMap::new();
    for (from, wanted) in wanted {
        if let Some(from) = lower.get(from) {
            copy(from, &wanted, &mut copies, &mut contents, path)?;
        }
    }
    let Contents {
        mut image, files, ..
    } = contents;
    let own = |data: DataId| data.0 >> LAYER_SHIFT == number as u64;
    let find = |data: DataId| match copies.get(&data) {
        Some(copy) => *copy,
        // The layer that holds the contents has no name for them.
        None if !own(data) => FileData::EMPTY,
        None => files[(data.0 ^ (number as u64) << LAYER_SHIFT) as usize],
    };
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    layer::emit(tree, find, &mut image, Form::Layer, build.times).map_err(failed)?;
    let (mut out, _) = image.finish().map_err(failed)?;
    out.flush().map_err(Error::io(path))
}

/// Copies the contents `wanted` of a lower layer.
fn copy(
    from: &Made,
    wanted: &HashSet<DataId>,
    copies: &mut HashMap<DataId, FileData>,
    contents: &mut Contents<Output<'_>>,
    path: &Path,
) -> Result<()> {
    let damaged = |source| Error::Read {
        path: from.path.clone(),
        source,
    };
    let image = layer::open(&from.path)?;
    for (name, node) in from.tree.walk() {
        let Kind::File {
            data: Some(data), ..
        } = from.tree.kind(node)
        else {
            continue;
        };
        if wanted.contains(&data)
            && !copies.contains_key(&data)
            && let Some(inode) = image.lookup(&name).map_err(damaged)?
        {
            let copied = rebuild::copy_file(&image, &inode, contents, &from.path, path)?;
            copies.insert(data, copied);
        }
    }
    Ok(())
}
