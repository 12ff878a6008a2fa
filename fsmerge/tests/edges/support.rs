//! Layers from tars, and trees as lines of text.

use fsmerge::{
    Content, DataId, DeviceNumber, Error, Kind, LayerTree, Limits, Merge, Merged, Metadata, NodeId,
    Problem, ReadError, Sink, Stats, Tree, read_tar,
};
use std::cell::RefCell;
use std::io::{self, Read};
use std::rc::Rc;
use tar::Header;

/// Keeps contents in memory. Ids count over all layers that share it.
#[derive(Clone, Default)]
pub(crate) struct Store(Rc<RefCell<Vec<Vec<u8>>>>);

impl Sink for Store {
    type Error = io::Error;

    fn file(&mut self, _: &[u8], mut content: Content<'_>) -> io::Result<DataId> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        assert_eq!(bytes.len() as u64, content.size());
        let mut all = self.0.borrow_mut();
        all.push(bytes);
        Ok(DataId(all.len() as u64 - 1))
    }
}

impl Store {
    pub(crate) fn get(&self, kind: Kind<'_>) -> Vec<u8> {
        match kind {
            Kind::File { data: None, size } => {
                assert_eq!(size, 0);
                Vec::new()
            }
            Kind::File {
                data: Some(id),
                size,
            } => {
                let bytes = self.0.borrow()[id.0 as usize].clone();
                assert_eq!(bytes.len() as u64, size);
                bytes
            }
            other => panic!("{other:?} has no contents"),
        }
    }

    pub(crate) fn read(&self, tar: &[u8]) -> Result<(LayerTree, Stats), Error> {
        match read_tar(tar, &mut self.clone(), &Limits::default()) {
            Ok(read) => Ok(read),
            Err(ReadError::Layer(e)) => Err(e),
            Err(e) => panic!("{e}"),
        }
    }

    /// The tree, a line for each name but the root.
    pub(crate) fn lines(&self, tree: &Tree) -> Vec<String> {
        let line = |(path, id): (fsmerge::BytePath, NodeId)| {
            let path = path.escape_ascii();
            let links = match (tree.kind(id), tree.nlink(id)) {
                (Kind::Directory { .. }, _) | (_, 1) => String::new(),
                (_, links) => format!(" ({links} links)"),
            };
            match tree.kind(id) {
                Kind::Directory { opaque, implied } => format!(
                    "{path}/{}{}",
                    if opaque { " opaque" } else { "" },
                    if implied { " implied" } else { "" },
                ),
                kind @ Kind::File { .. } => {
                    format!("{path} = {}{links}", self.get(kind).escape_ascii())
                }
                Kind::Symlink(target) => format!("{path} -> {}{links}", target.escape_ascii()),
                Kind::CharDevice(DeviceNumber { major, minor }) => {
                    format!("{path} char {major}:{minor}{links}")
                }
                Kind::BlockDevice(DeviceNumber { major, minor }) => {
                    format!("{path} block {major}:{minor}{links}")
                }
                Kind::Fifo => format!("{path} fifo{links}"),
                Kind::Socket => format!("{path} socket{links}"),
                Kind::Whiteout => format!("{path} whiteout"),
                Kind::LowerLink(target) => format!("{path} => {}{links}", target.escape_ascii()),
            }
        };
        tree.walk().skip(1).map(line).collect()
    }
}

/// The layer of a tar.
pub(crate) fn layer(tar: &[u8]) -> LayerTree {
    Store::default().read(tar).unwrap().0
}

/// The lines of one layer.
pub(crate) fn layer_lines(tar: &[u8]) -> Vec<String> {
    let store = Store::default();
    let layer = store.read(tar).unwrap().0;
    store.lines(&layer)
}

/// What is wrong with a tar.
pub(crate) fn problem(tar: &[u8]) -> Problem {
    match Store::default().read(tar) {
        Err(Error::Entry { problem, .. }) => problem,
        Err(e) => panic!("{e}"),
        Ok((layer, _)) => panic!("accepted: {layer:?}"),
    }
}

/// Layers, lowest first, merged.
pub(crate) fn try_merge<'a>(
    layers: impl IntoIterator<Item = &'a LayerTree>,
) -> Result<Merged, Error> {
    let mut merge = Merge::new(&Limits::default());
    for layer in layers {
        merge.push(layer)?;
    }
    Ok(merge.finish())
}

/// The merged tree of tars, lowest first.
pub(crate) fn merged(tars: &[Vec<u8>]) -> (Merged, Store) {
    let store = Store::default();
    let layers: Vec<_> = tars.iter().map(|tar| store.read(tar).unwrap().0).collect();
    (try_merge(&layers).unwrap(), store)
}

/// The lines of the merged tree of tars, lowest first.
pub(crate) fn merged_lines(tars: &[Vec<u8>]) -> Vec<String> {
    let (merged, store) = merged(tars);
    store.lines(&merged)
}

/// The attributes of the last entry.
pub(crate) fn only(tar: &[u8]) -> Metadata {
    let layer = layer(tar);
    let (_, id) = layer.walk().last().unwrap();
    layer.metadata(id).clone()
}

/// A header whose fields a test sets itself.
pub(crate) fn header(change: impl FnOnce(&mut Header)) -> [u8; 512] {
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header.as_old_mut().name[0] = b'f';
    header.set_entry_type(tar::EntryType::Regular);
    change(&mut header);
    *header.as_bytes()
}
