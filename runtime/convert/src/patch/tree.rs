//! The tree of an upperdir over the tree of an image.

use std::collections::BTreeMap;
use std::io::{Read, Seek, Write};
use std::path::Path;

use erofs_reader::{FileType, Inode};
use ext4_writer::{Builder, DeviceNumber, Kind, Metadata, NodeId, Ranges, Timestamp};
use fsmerge::{ContentStore, Contents, DataId, StoredContent};

use super::Problem;
use crate::error::{Error, Result};
use crate::populate::ranges;
use crate::reader::Reader;

/// The most symbolic links that are followed, as in the kernel (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

/// A node of the tree.
pub(super) type Id = usize;

/// The root directory, which always exists.
pub(super) const ROOT: Id = 0;

/// The contents of the upperdir. Directories above a change are in it with their attributes in the
/// image.
pub(super) struct Tree<'i> {
    image: &'i Reader,
    path: &'i Path,
    nodes: Vec<Node>,
    pub(super) contents: ContentStore<'i>,
}

pub(super) struct Node {
    pub(super) metadata: Metadata,
    pub(super) body: Body,
}

pub(super) enum Body {
    Directory(Directory),
    File(File),
    Symlink(Vec<u8>),
    Special(Kind, DeviceNumber),
}

#[derive(Default)]
pub(super) struct Directory {
    /// The image's directory that is merged with this one.
    lower: Option<Inode>,
    /// Whether the image has another entry of this name, which is hidden.
    opaque: bool,
    /// By name; `None` hides the image's entry.
    children: BTreeMap<Vec<u8>, Option<Id>>,
}

/// A regular file: stored contents, followed by appended bytes.
#[derive(Clone, Default)]
pub(super) struct File {
    pub(super) stored: Option<(DataId, u64)>,
    pub(super) tail: Vec<u8>,
}

/// The entry of a name.
#[derive(Clone)]
pub(super) enum Entry {
    Nothing,
    Upper(Id),
    Lower(Inode),
}

/// The result of resolving a path.
pub(super) struct Place {
    /// The directories on the way, from the root to that of the name; without a name, the last is
    /// the result itself.
    pub(super) above: Vec<Id>,
    /// The directory and the name in it; `None` for the root, and for a path that ends in `..`.
    pub(super) slot: Option<(Id, Vec<u8>)>,
    pub(super) entry: Entry,
}

/// A path that cannot be resolved, or an image that cannot be read.
pub(super) enum Failure {
    Problem(Problem),
    Error(Error),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

pub(super) type Outcome<T> = std::result::Result<T, Failure>;

impl<'i> Tree<'i> {
    /// Returns a tree without changes over `image`, which is at `path`.
    pub(super) fn new(
        image: &'i Reader,
        path: &'i Path,
        contents: ContentStore<'i>,
    ) -> Result<Self> {
        let mut tree = Self {
            image,
            path,
            nodes: Vec::new(),
            contents,
        };
        let root = image.root().map_err(tree.unreadable())?;
        let metadata = tree.metadata(&root)?;
        tree.nodes.push(Node {
            metadata,
            body: Body::Directory(Directory {
                lower: Some(root),
                ..Directory::default()
            }),
        });
        Ok(tree)
    }

    pub(super) fn node(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[id]
    }

    pub(super) fn directory(&mut self, id: Id) -> Option<&mut Directory> {
        match &mut self.nodes[id].body {
            Body::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// Resolves `path`; a symbolic link at its end is followed if `follow` is set. The directories
    /// on the way are added to the tree.
    pub(super) fn place(&mut self, path: &[u8], follow: bool) -> Outcome<Place> {
        self.place_from(&[ROOT], path, follow)
    }

    /// As [`place`](Self::place), relative to the last of `above`, a chain of directories from the
    /// root.
    fn place_from(&mut self, above: &[Id], path: &[u8], follow: bool) -> Outcome<Place> {
        let mut stack = above.to_vec();
        let mut names: Vec<Vec<u8>> = Vec::new();
        push(&mut names, path);
        let mut walked = Vec::new();
        let mut links = 0;
        while let Some(name) = names.pop() {
            if name == b".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let parent = stack.last().copied().unwrap_or(ROOT);
            let entry = self.entry(parent, &name)?;
            let last = names.is_empty();
            if let Some(target) = self.link_target(&entry)?
                && (follow || !last)
            {
                links += 1;
                if links > MOST_LINKS {
                    return Err(Problem::SymlinkLoop.into());
                }
                if target.first() == Some(&b'/') {
                    stack.truncate(1);
                }
                push(&mut names, &target);
                continue;
            }
            walked.push(b'/');
            walked.extend(&name);
            if last {
                let slot = Some((parent, name));
                return Ok(Place {
                    above: stack,
                    slot,
                    entry,
                });
            }
            let missing = || String::from_utf8_lossy(&walked).into_owned();
            let child = match entry {
                Entry::Nothing => return Err(Problem::NoParent(missing()).into()),
                Entry::Upper(id) => id,
                Entry::Lower(inode) => self.copy_up(parent, &name, &inode)?,
            };
            if self.directory(child).is_none() {
                return Err(Problem::NotADirectory(missing()).into());
            }
            stack.push(child);
        }
        let id = stack.last().copied().unwrap_or(ROOT);
        Ok(Place {
            above: stack,
            slot: None,
            entry: Entry::Upper(id),
        })
    }

    /// Returns the directory's entry of this name.
    pub(super) fn entry(&mut self, directory: Id, name: &[u8]) -> Outcome<Entry> {
        let image = self.image;
        let Some(found) = self.directory(directory) else {
            return Ok(Entry::Nothing);
        };
        match (found.children.get(name), found.lower) {
            (Some(Some(id)), _) => Ok(Entry::Upper(*id)),
            (None, Some(lower)) => match image.child(&lower, name).map_err(self.unreadable())? {
                Some(entry) => {
                    let inode = image.inode(entry.nid).map_err(self.unreadable())?;
                    Ok(Entry::Lower(inode))
                }
                None => Ok(Entry::Nothing),
            },
            _ => Ok(Entry::Nothing),
        }
    }

    /// Returns the directories from the root to the one that `entry` is, or leads to by symbolic
    /// links; `None` if it is not a directory. `name` is the name of `entry` in the last of
    /// `above`.
    pub(super) fn as_directory(
        &mut self,
        above: &[Id],
        name: &[u8],
        entry: &Entry,
    ) -> Outcome<Option<Vec<Id>>> {
        let is_link = self.link_target(entry)?.is_some();
        let parent = above.last().copied().unwrap_or(ROOT);
        let place = if is_link {
            match self.place_from(above, name, true) {
                Ok(place) => place,
                // A dangling link is replaced.
                Err(Failure::Problem(_)) => return Ok(None),
                Err(error) => return Err(error),
            }
        } else {
            Place {
                above: above.to_vec(),
                slot: Some((parent, name.to_vec())),
                entry: entry.clone(),
            }
        };
        let mut chain = place.above;
        match (place.slot, place.entry) {
            // The last of the directories is the result already.
            (None, Entry::Upper(_)) => {}
            (Some(_), Entry::Upper(id)) => chain.push(id),
            (Some((parent, name)), Entry::Lower(inode)) if inode.is_dir() => {
                chain.push(self.copy_up(parent, &name, &inode)?);
            }
            (_, Entry::Nothing | Entry::Lower(_)) => return Ok(None),
        }
        let last = chain.last().copied().unwrap_or(ROOT);
        Ok(self.directory(last).map(|_| chain))
    }

    fn link_target(&mut self, entry: &Entry) -> Outcome<Option<Vec<u8>>> {
        Ok(match entry {
            Entry::Upper(id) => match &self.nodes[*id].body {
                Body::Symlink(target) => Some(target.clone()),
                _ => None,
            },
            Entry::Lower(inode) if inode.is_symlink() => {
                Some(self.image.read_link(inode).map_err(self.unreadable())?)
            }
            _ => None,
        })
    }

    /// Copies the image's entry of this name into the tree.
    pub(super) fn copy_up(&mut self, parent: Id, name: &[u8], inode: &Inode) -> Outcome<Id> {
        let metadata = self.metadata(inode)?;
        let kind = match inode.file_type() {
            FileType::Directory => {
                let body = Body::Directory(Directory {
                    lower: Some(*inode),
                    ..Directory::default()
                });
                return Ok(self.attach(parent, name, Node { metadata, body }));
            }
            FileType::Regular => {
                let stored = match inode.size() {
                    0 => None,
                    size => Some((self.store(inode)?, size)),
                };
                let body = Body::File(File {
                    stored,
                    tail: Vec::new(),
                });
                return Ok(self.attach(parent, name, Node { metadata, body }));
            }
            FileType::Symlink => {
                let target = self.image.read_link(inode).map_err(self.unreadable())?;
                let body = Body::Symlink(target);
                return Ok(self.attach(parent, name, Node { metadata, body }));
            }
            FileType::CharDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
        };
        let number = inode.rdev();
        let number = DeviceNumber {
            major: number.major,
            minor: number.minor,
        };
        let body = Body::Special(kind, number);
        Ok(self.attach(parent, name, Node { metadata, body }))
    }

    fn store(&mut self, inode: &Inode) -> Result<DataId> {
        let (image, path, nid) = (self.image, self.path, inode.nid());
        let ranges = ranges(image, inode).map_err(self.unreadable())?;
        let whole = ranges.clone();
        Ok(self.contents.add(ranges, move || {
            let file = image.inode(nid).and_then(|inode| image.file(&inode));
            let file = file.map_err(|source| {
                std::io::Error::other(Error::Read {
                    path: path.to_owned(),
                    source,
                })
            })?;
            Ok(Box::new(Ranges::new(file, whole.clone())))
        }))
    }

    /// Inserts a node under this name, replacing an existing entry. A directory hides that of the
    /// image.
    pub(super) fn insert(&mut self, parent: Id, name: &[u8], mut node: Node) -> Outcome<Id> {
        let hides = self.has_lower(parent, name)?;
        if let Body::Directory(directory) = &mut node.body {
            directory.opaque = hides;
        }
        Ok(self.attach(parent, name, node))
    }

    fn attach(&mut self, parent: Id, name: &[u8], node: Node) -> Id {
        let id = self.nodes.len();
        self.nodes.push(node);
        self.link(parent, name, id);
        id
    }

    /// Adds a name for a node.
    pub(super) fn link(&mut self, parent: Id, name: &[u8], id: Id) {
        if let Some(directory) = self.directory(parent) {
            directory.children.insert(name.to_vec(), Some(id));
        }
    }

    /// Removes a name.
    pub(super) fn remove(&mut self, parent: Id, name: &[u8]) -> Outcome<()> {
        let hides = self.has_lower(parent, name)?;
        if let Some(directory) = self.directory(parent) {
            directory.children.remove(name);
            if hides {
                directory.children.insert(name.to_vec(), None);
            }
        }
        Ok(())
    }

    fn has_lower(&mut self, parent: Id, name: &[u8]) -> Outcome<bool> {
        let image = self.image;
        let lower = self.directory(parent).and_then(|directory| directory.lower);
        Ok(match lower {
            Some(lower) => {
                let found = image.child(&lower, name);
                found.map_err(self.unreadable())?.is_some()
            }
            None => false,
        })
    }

    /// Returns the contents of a small file; empty if it does not exist.
    pub(super) fn read(&mut self, path: &[u8]) -> Outcome<Vec<u8>> {
        /// More bytes than any file of users has.
        const MOST: u64 = 16 << 20;
        let place = match self.place(path, true) {
            Err(Failure::Problem(_)) => return Ok(Vec::new()),
            place => place?,
        };
        let (slot, entry) = (place.slot, place.entry);
        let id = match (entry, slot) {
            (Entry::Upper(id), _) => id,
            (Entry::Lower(inode), Some((parent, name))) if inode.is_file() => {
                self.copy_up(parent, &name, &inode)?
            }
            _ => return Ok(Vec::new()),
        };
        let Body::File(file) = &self.nodes[id].body else {
            return Ok(Vec::new());
        };
        let file = file.clone();
        let mut bytes = Vec::new();
        if let Some((data, _)) = file.stored {
            let stored = self.contents.open(data).map_err(Error::io(self.path))?;
            let read = stored.data.take(MOST).read_to_end(&mut bytes);
            read.map_err(Error::io(self.path))?;
        }
        bytes.extend(&file.tail);
        Ok(bytes)
    }

    fn metadata(&self, inode: &Inode) -> Result<Metadata> {
        let (secs, nanos) = inode.mtime().into();
        let xattrs = self.image.xattrs(inode).map_err(self.unreadable())?;
        Ok(Metadata::new(inode.mode())
            .owner(inode.uid(), inode.gid())
            .mtime(Timestamp { secs, nanos })
            .xattrs(xattrs))
    }

    fn unreadable(&self) -> impl Fn(erofs_reader::Error) -> Error + use<'i> {
        let path = self.path;
        move |source| Error::Read {
            path: path.to_owned(),
            source,
        }
    }

    /// Writes the tree into the directory `upper` of a disk.
    pub(super) fn write<W: Write + Seek>(
        mut self,
        disk: &mut Builder<W>,
        upper: NodeId,
    ) -> std::result::Result<(), ext4_writer::Error> {
        let mut written: Vec<Option<NodeId>> = vec![None; self.nodes.len()];
        disk.set_metadata(upper, self.nodes[ROOT].metadata.clone())?;
        let mut pending = vec![(ROOT, upper)];
        while let Some((id, parent)) = pending.pop() {
            let Some(directory) = self.directory(id) else {
                continue;
            };
            for (name, child) in std::mem::take(&mut directory.children) {
                let Some(child) = child else {
                    // A whiteout of overlayfs.
                    let number = DeviceNumber { major: 0, minor: 0 };
                    disk.add_char_device(parent, &name, Metadata::new(0), number)?;
                    continue;
                };
                match written[child] {
                    Some(node) => disk.link(parent, &name, node)?,
                    None => {
                        let node = self.write_node(disk, parent, &name, child)?;
                        written[child] = Some(node);
                        pending.push((child, node));
                    }
                }
            }
        }
        Ok(())
    }

    fn write_node<W: Write + Seek>(
        &mut self,
        disk: &mut Builder<W>,
        parent: NodeId,
        name: &[u8],
        id: Id,
    ) -> std::result::Result<NodeId, ext4_writer::Error> {
        let node = &self.nodes[id];
        let metadata = node.metadata.clone();
        match &node.body {
            Body::Directory(directory) if directory.opaque => {
                disk.add_dir(parent, name, metadata.xattr("trusted.overlay.opaque", "y"))
            }
            Body::Directory(_) => disk.add_dir(parent, name, metadata),
            Body::Symlink(target) => disk.add_symlink(parent, name, metadata, target),
            Body::Special(kind, number) => match kind {
                Kind::CharDevice => disk.add_char_device(parent, name, metadata, *number),
                Kind::BlockDevice => disk.add_block_device(parent, name, metadata, *number),
                Kind::Socket => disk.add_socket(parent, name, metadata),
                _ => disk.add_fifo(parent, name, metadata),
            },
            Body::File(File { stored, tail }) => {
                let Some((data, size)) = *stored else {
                    let size = Some(tail.len() as u64);
                    return disk.add_file(parent, name, metadata, &**tail, size);
                };
                let opened = self.contents.open(data);
                let StoredContent {
                    mut ranges, data, ..
                } = opened.map_err(|source| ext4_writer::Error::Contents {
                    name: name.into(),
                    source,
                })?;
                let end = size.saturating_add(tail.len() as u64);
                if end > size {
                    ranges.push(size..end);
                }
                let data = data.chain(&**tail);
                disk.add_sparse_file(parent, name, metadata, end, &ranges, data)
            }
        }
    }
}

/// Pushes the names of a path on a stack, so that the first is on top.
fn push(names: &mut Vec<Vec<u8>>, path: &[u8]) {
    let parts = path.split(|&byte| byte == b'/');
    let parts = parts.filter(|part| !matches!(*part, b"" | b"."));
    names.extend(parts.rev().map(<[u8]>::to_vec));
}
