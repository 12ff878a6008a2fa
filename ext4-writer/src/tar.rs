//! Filling a filesystem from a tar archive.

mod entry;
mod sparse;

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;

use tar::Archive;

use self::entry::{Entry, What};
use crate::{Builder, EntryProblem, Error, Metadata, NodeId, Options, Summary};

/// What AUFS, and OCI layers with it, mark deletions from the layers below with.
const WHITEOUT: &[u8] = b".wh.";

/// Writes a filesystem of what is in a tar archive to `out`, as [`Builder::new`], [`Builder::add_tar`] and [`Builder::finish`] do.
///
/// # Errors
///
/// Theirs.
pub fn from_tar<W: Write + Seek>(
    out: W,
    options: Options,
    tar: impl Read + Seek,
) -> Result<(W, Summary), Error> {
    let mut image = Builder::new(out, options)?;
    image.add_tar(tar)?;
    image.finish()
}

impl<W: Write + Seek> Builder<W> {
    /// Adds all that is in a tar archive (ustar, PAX or GNU, not compressed), and gives the root the attributes that the archive
    /// has for it: every kind of file, hard links, sparse files with their holes, and extended attributes (`SCHILY.xattr.`).
    ///
    /// The last entry of a name is the one that counts, but a directory keeps what is in it; what nothing else names is in
    /// nobody's way, so the archive is read twice. Directories without an entry have mode 0755. Paths are taken relative to the
    /// root, whatever they begin with. In an OCI layer, entries that mark deletions from layers below (`.wh.` before the
    /// name) are left out: there is nothing below. A file with more names than an inode can count (65,000) becomes as many as it
    /// takes.
    ///
    /// # Errors
    ///
    /// [`Error::Archive`] and [`Error::Entry`] before anything is added; else those of the methods that add nodes, with some of
    /// the tree added.
    pub fn add_tar(&mut self, mut tar: impl Read + Seek) -> Result<(), Error> {
        let tree = Tree::read(&mut tar)?;
        self.add_tree(&tree, &mut tar)
    }

    fn add_tree(&mut self, tree: &Tree, tar: &mut (impl Read + Seek)) -> Result<(), Error> {
        let mut added: HashMap<usize, NodeId> = HashMap::new();
        let implied = Metadata::new(0o755);
        // A directory comes before what is in it.
        for (path, &id) in &tree.names {
            let entry = &tree.entries[id];
            if path.is_empty() {
                self.set_metadata(NodeId::ROOT, entry.metadata.clone())?;
                continue;
            }
            let (parent, name) = self.make_parents(path, &implied)?;
            if let Some(&node) = added.get(&id) {
                match self.link(parent, name, node) {
                    // The next names are of a copy.
                    Err(Error::TooManyLinks { .. }) => (),
                    linked => {
                        linked?;
                        continue;
                    }
                }
            }
            let meta = entry.metadata.clone();
            let node = match &entry.what {
                What::Directory => self.add_dir(parent, name, meta),
                What::File(file) => {
                    tar.seek(SeekFrom::Start(file.position))
                        .map_err(|source| Error::Archive { source })?;
                    let size: u64 = file
                        .ranges
                        .iter()
                        .map(|range| range.end - range.start)
                        .sum();
                    let data = tar.take(size);
                    self.add_sparse_file(parent, name, meta, file.size, &file.ranges, data)
                }
                What::Symlink(target) => self.add_symlink(parent, name, meta, target),
                &What::Device(device) => self.add_device(parent, name, meta, device),
                What::Fifo => self.add_fifo(parent, name, meta),
                // Links are names of what they link to.
                What::HardLink(_) => continue,
            };
            added.insert(id, node?);
        }
        Ok(())
    }
}

/// What an archive holds in the end.
#[derive(Debug, Default)]
struct Tree {
    entries: Vec<Entry>,
    /// The entry that each path names.
    names: BTreeMap<Vec<u8>, usize>,
}

impl Tree {
    fn read(tar: &mut (impl Read + Seek)) -> Result<Self, Error> {
        let archive = |source| Error::Archive { source };
        tar.rewind().map_err(archive)?;
        let mut positions = Vec::new();
        let mut tree = Self::default();
        {
            let mut archive_reader = Archive::new(&mut *tar);
            for entry in archive_reader.entries_with_seek().map_err(archive)? {
                let mut entry = entry.map_err(archive)?;
                if let Some((entry, sparse)) = entry::decode(&mut entry)? {
                    positions.push((tree.entries.len(), sparse));
                    tree.entries.push(entry);
                }
            }
        }
        for (id, sparse) in positions {
            let entry = &mut tree.entries[id];
            if let What::File(file) = &mut entry.what {
                sparse::resolve(tar, file, sparse).map_err(|e| match e {
                    sparse::Failed::Read(source) => Error::Archive { source },
                    sparse::Failed::Map => entry.problem(EntryProblem::Sparse),
                })?;
            }
        }
        let mut links = Vec::new();
        for id in 0..tree.entries.len() {
            let path = normalise(&tree.entries[id].path)
                .ok_or_else(|| tree.entries[id].problem(EntryProblem::Outside))?;
            if path
                .split(|&byte| byte == b'/')
                .any(|name| name.starts_with(WHITEOUT))
            {
                continue;
            }
            match &tree.entries[id].what {
                What::HardLink(target) => {
                    let target = normalise(target)
                        .ok_or_else(|| tree.entries[id].problem(EntryProblem::Outside))?;
                    match tree.names.get(&target) {
                        Some(&to) => tree.name(path, to, id)?,
                        // It may come later.
                        None => links.push((path, target, id)),
                    }
                }
                _ => tree.name(path, id, id)?,
            }
        }
        for (path, target, id) in links {
            let to = tree.names.get(&target);
            let to = *to.ok_or_else(|| tree.entries[id].problem(EntryProblem::LinkTarget))?;
            tree.name(path, to, id)?;
        }
        Ok(tree)
    }

    /// Makes `path` a name of entry `to`, for the sake of entry `because`.
    fn name(&mut self, path: Vec<u8>, to: usize, because: usize) -> Result<(), Error> {
        let is_directory = |id: usize| matches!(self.entries[id].what, What::Directory);
        if to != because && is_directory(to) {
            return Err(self.entries[because].problem(EntryProblem::LinkTarget));
        }
        if path.is_empty() && !is_directory(to) {
            return Err(self.entries[because].problem(EntryProblem::Root));
        }
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let above = self.names.get(&path[..at]);
            if above.is_some_and(|&id| !is_directory(id)) {
                return Err(self.entries[because].problem(EntryProblem::NotADirectory));
            }
        }
        if !is_directory(to) {
            // What it replaces may have been a directory, with or without an entry of its own.
            let first = [&path[..], b"/"].concat();
            let end = [&path[..], b"0"].concat();
            let below: Vec<_> = self
                .names
                .range(first..end)
                .map(|(path, _)| path.clone())
                .collect();
            for path in below {
                self.names.remove(&path);
            }
        }
        self.names.insert(path, to);
        Ok(())
    }
}

/// A file's contents in an archive.
#[derive(Debug)]
struct Stored {
    /// Where they begin, in bytes.
    position: u64,
    size: u64,
    /// Which parts of the file are there, one behind the other.
    ranges: Vec<Range<u64>>,
}

/// A path without `.`, `..` and superfluous slashes; `None` where it leads out of the root.
fn normalise(path: &[u8]) -> Option<Vec<u8>> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => (),
            b".." => drop(names.pop()?),
            name => names.push(name),
        }
    }
    Some(names.join(&b'/'))
}
