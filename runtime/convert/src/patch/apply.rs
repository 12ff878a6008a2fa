//! Applies patches to the tree of an upperdir.

use std::fs;
use std::io::{Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use blockbox_protocol::user;
use ext4_writer::{Builder, Metadata, NodeId, Timestamp};
use fsmerge::{ContentStore, Limits, Merge, Merged};

use super::merge::{Copied, merge};
use super::tree::{Body, Directory, Entry, Failure, File, Id, Node, Outcome, Place, Tree};
use super::{Action, Patch, Problem};
use crate::error::{Error, Result};
use crate::image::Image;
use crate::populate::read_tar;
use crate::{folder, reader};

/// Folders that the guest mounts over those of its disk.
const COVERED_FOLDERS: [&str; 3] = ["/dev", "/proc", "/sys"];

/// Files that the guest writes at each start.
const COVERED_FILES: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

/// Writes the result of applying `patches` to `image` into the directory `upper` of the disk that
/// is or will be at `disk_path`, as overlayfs's upperdir.
///
/// # Errors
///
/// [`Error::Patch`] with the first patch that does not apply; [`Error::Ext4`] if the result does
/// not fit.
pub fn apply<W: Write + Seek>(
    patches: &[Patch],
    image: &Image,
    disk: &mut Builder<W>,
    upper: NodeId,
    disk_path: &Path,
) -> Result<()> {
    let path = &image.disk();
    let image = &reader::open(path, &[])?;
    let spool = tempfile::tempfile().and_then(ContentStore::in_file);
    let contents = spool.map_err(Error::io(std::env::temp_dir()))?;
    let mut tree = Tree::new(image, path, contents)?;
    for patch in patches {
        tree.apply(patch).map_err(|failure| match failure {
            Failure::Error(error) => error,
            Failure::Problem(problem) => Error::Patch {
                patch: patch.to_string(),
                problem,
            },
        })?;
    }
    let written = tree.write(disk, upper);
    written.map_err(|error| match error {
        ext4_writer::Error::Contents { name, source } => match source.downcast::<Error>() {
            Ok(error) => error,
            Err(source) => Error::io(String::from_utf8_lossy(&name).as_ref())(source),
        },
        source => Error::Ext4 {
            path: disk_path.to_owned(),
            source,
        },
    })
}

fn not_a_directory(patch: &Patch) -> Failure {
    let path = String::from_utf8_lossy(&patch.path).into_owned();
    Problem::NotADirectory(path).into()
}

impl Tree<'_> {
    fn apply(&mut self, patch: &Patch) -> Outcome<()> {
        check(&patch.path)?;
        match &patch.action {
            Action::Write(contents) => {
                let file = bytes(contents.clone());
                self.put_file(patch, file, None)
            }
            Action::Append(contents) => self.append(patch, contents),
            Action::Copy(from) => self.copy(patch, from),
            Action::Extract(from) => {
                let owner = self.owner(patch)?;
                self.check_directory(patch)?;
                let tree = self.read_archive(from)?;
                self.put_tree(patch, &tree, Copied::Archive, owner)
            }
            Action::MakeDir => self.make_dirs(patch),
            Action::Symlink(target) => match self.place(&patch.path, false)? {
                Place {
                    slot: Some((parent, name)),
                    entry: Entry::Nothing,
                    ..
                } => {
                    let (uid, gid) = self.owner(patch)?.unwrap_or_default();
                    let metadata = new(0o777).owner(uid, gid);
                    let body = Body::Symlink(target.clone());
                    self.insert(parent, &name, Node { metadata, body })?;
                    Ok(())
                }
                _ => Err(Problem::Exists.into()),
            },
            Action::Remove => match self.place(&patch.path, false)? {
                Place { slot: None, .. } => Err(Problem::Root.into()),
                Place {
                    entry: Entry::Nothing,
                    ..
                } => Err(Problem::NotFound.into()),
                Place {
                    slot: Some((parent, name)),
                    ..
                } => self.remove(parent, &name),
            },
            Action::ChangeMode(mode) => {
                let id = self.existing(&patch.path)?;
                self.node(id).metadata.mode = *mode;
                Ok(())
            }
            Action::ChangeOwner(owner) => {
                let (uid, gid) = self.look_up(owner)?;
                let id = self.existing(&patch.path)?;
                let metadata = &mut self.node(id).metadata;
                (metadata.uid, metadata.gid) = (uid, gid);
                Ok(())
            }
        }
    }

    /// Returns the tree's node at a path.
    fn existing(&mut self, path: &[u8]) -> Outcome<Id> {
        match self.place(path, true)? {
            Place {
                entry: Entry::Upper(id),
                ..
            } => Ok(id),
            Place {
                slot: Some((parent, name)),
                entry: Entry::Lower(inode),
                ..
            } => self.copy_up(parent, &name, &inode),
            _ => Err(Problem::NotFound.into()),
        }
    }

    /// Puts a file with these contents at the patch's path. `like` are the attributes of the source
    /// of a copy.
    fn put_file(&mut self, patch: &Patch, file: File, like: Option<Metadata>) -> Outcome<()> {
        let owner = self.owner(patch)?;
        let place = self.place(&patch.path, true)?;
        let Some((parent, name)) = place.slot else {
            return Err(Problem::IsADirectory.into());
        };
        let there = match place.entry {
            Entry::Nothing => None,
            Entry::Upper(id) => Some(id),
            Entry::Lower(inode) => Some(self.copy_up(parent, &name, &inode)?),
        };
        let copied = like.is_some();
        let mut metadata = like.unwrap_or_else(|| new(0o644));
        if let Some(id) = there {
            let node = self.node(id);
            match node.body {
                Body::File(_) => {}
                Body::Directory(_) => return Err(Problem::IsADirectory.into()),
                _ => return Err(Problem::NotAFile.into()),
            }
            if !copied {
                let mtime = metadata.mtime;
                metadata = node.metadata.clone().mtime(mtime);
            }
        }
        let metadata = changed(metadata, patch, owner);
        let body = Body::File(file);
        match there {
            Some(id) => *self.node(id) = Node { metadata, body },
            None => {
                self.insert(parent, &name, Node { metadata, body })?;
            }
        }
        Ok(())
    }

    fn append(&mut self, patch: &Patch, contents: &[u8]) -> Outcome<()> {
        let id = match self.existing(&patch.path) {
            Err(Failure::Problem(Problem::NotFound)) => {
                return self.put_file(patch, bytes(contents.to_vec()), None);
            }
            id => id?,
        };
        let owner = self.owner(patch)?;
        let node = self.node(id);
        match &mut node.body {
            Body::File(file) => file.tail.extend(contents),
            Body::Directory(_) => return Err(Problem::IsADirectory.into()),
            _ => return Err(Problem::NotAFile.into()),
        }
        let metadata = node.metadata.clone().mtime(SystemTime::now());
        node.metadata = changed(metadata, patch, owner);
        Ok(())
    }

    fn copy(&mut self, patch: &Patch, from: &Path) -> Outcome<()> {
        let metadata = fs::metadata(from).map_err(Error::io(from))?;
        if metadata.is_dir() {
            let owner = self.owner(patch)?;
            self.check_directory(patch)?;
            let (layer, _) = folder::read(from, &mut self.contents, |path, e| Error::io(path)(e))?;
            let tree = merged(from, |merge| merge.push(&layer))?;
            return self.put_tree(patch, &tree, Copied::Host, owner);
        }
        if !metadata.is_file() {
            return Err(Problem::NotCopied(from.to_owned()).into());
        }
        // Report a missing file now, rather than after all patches have been checked.
        fs::File::open(from).map_err(Error::io(from))?;
        let stored = (metadata.len() > 0).then(|| {
            let (path, size) = (from.to_owned(), metadata.len());
            let open = move || {
                let file = fs::File::open(&path).map_err(|e| {
                    let error = Error::io(&path)(e);
                    std::io::Error::other(error)
                })?;
                Ok(Box::new(std::io::Read::take(file, size)) as Box<dyn std::io::Read>)
            };
            let whole = std::iter::once(0..size).collect();
            (self.contents.add(whole, open), size)
        });
        let file = File {
            stored,
            tail: Vec::new(),
        };
        let mut mtime = Timestamp::default();
        mtime.secs = metadata.mtime();
        mtime.nanos = u32::try_from(metadata.mtime_nsec()).unwrap_or_default();
        // The bits above the permissions are the file's type.
        let mode = (metadata.mode() & 0o7777) as u16;
        let like = Metadata::new(mode).mtime(mtime);
        let mut patch = patch.clone();
        if patch.path.ends_with(b"/") || self.is_dir(&patch.path)? {
            use std::os::unix::ffi::OsStrExt;

            patch.path.push(b'/');
            let name = from.file_name().unwrap_or_default();
            patch.path.extend(name.as_bytes());
        }
        self.put_file(&patch, file, Some(like))
    }

    fn is_dir(&mut self, path: &[u8]) -> Outcome<bool> {
        Ok(match self.place(path, true)?.entry {
            Entry::Nothing => false,
            Entry::Upper(id) => self.directory(id).is_some(),
            Entry::Lower(inode) => inode.is_dir(),
        })
    }

    fn read_archive(&mut self, from: &Path) -> Outcome<Merged> {
        let name = from.display().to_string();
        let file = blockbox_files::open_input(from).map_err(Error::io(from))?;
        let mut tar = ocipull::decompress(file).map_err(Error::from)?;
        let layer = read_tar(&mut self.contents, &mut tar, &name)?;
        tar.finish().map_err(Error::from)?;
        Ok(merged(from, |merge| merge.push(&layer))?)
    }

    /// Puts the contents of the root of `tree` into the directory at the patch's path.
    fn put_tree(
        &mut self,
        patch: &Patch,
        tree: &Merged,
        copied: Copied,
        owner: Option<(u32, u32)>,
    ) -> Outcome<()> {
        let place = self.place(&patch.path, true)?;
        let mut chain = place.above;
        // Otherwise `place` is the last of those directories.
        let is_below = place.slot.is_some();
        let id = match (place.slot, place.entry) {
            (_, Entry::Upper(id)) => id,
            (Some((parent, name)), Entry::Lower(inode)) => self.copy_up(parent, &name, &inode)?,
            (Some((parent, name)), Entry::Nothing) => {
                let metadata = changed(copied.root(tree), patch, owner);
                let body = Body::Directory(Directory::default());
                self.insert(parent, &name, Node { metadata, body })?
            }
            (None, _) => return Err(Problem::Root.into()),
        };
        if self.directory(id).is_none() {
            return Err(not_a_directory(patch));
        }
        if is_below {
            chain.push(id);
        }
        merge(self, chain, tree, copied, owner)
    }

    /// Checks that a tree can be put at the patch's path, before the tree is read.
    fn check_directory(&mut self, patch: &Patch) -> Outcome<()> {
        let is_directory = match self.place(&patch.path, true)?.entry {
            Entry::Nothing => true,
            Entry::Upper(id) => self.directory(id).is_some(),
            Entry::Lower(inode) => inode.is_dir(),
        };
        match is_directory {
            true => Ok(()),
            false => Err(not_a_directory(patch)),
        }
    }

    fn make_dirs(&mut self, patch: &Patch) -> Outcome<()> {
        let owner = self.owner(patch)?;
        let parts = patch.path.split(|&byte| byte == b'/');
        let mut parts = parts.filter(|part| !part.is_empty()).peekable();
        let mut path = Vec::new();
        while let Some(part) = parts.next() {
            path.push(b'/');
            path.extend(part);
            let place = self.place(&path, true)?;
            match (place.slot, place.entry) {
                (Some((parent, name)), Entry::Nothing) => {
                    // A dangling link counts as an existing file.
                    if !matches!(self.place(&path, false)?.entry, Entry::Nothing) {
                        return Err(Problem::Exists.into());
                    }
                    let mut metadata = changed(new(0o755), patch, owner);
                    if parts.peek().is_some() {
                        metadata.mode = 0o755;
                    }
                    let body = Body::Directory(Directory::default());
                    self.insert(parent, &name, Node { metadata, body })?;
                }
                (_, Entry::Lower(inode)) if !inode.is_dir() => return Err(Problem::Exists.into()),
                (_, Entry::Upper(id)) if self.directory(id).is_none() => {
                    return Err(Problem::Exists.into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Looks up the owner that a patch names.
    fn owner(&mut self, patch: &Patch) -> Outcome<Option<(u32, u32)>> {
        let owner = patch.owner.as_ref();
        owner.map(|owner| self.look_up(owner)).transpose()
    }

    fn look_up(&mut self, owner: &str) -> Outcome<(u32, u32)> {
        let (passwd, group) = (self.read(b"/etc/passwd")?, self.read(b"/etc/group")?);
        let identity = user::resolve(owner.as_bytes(), &passwd, &group).map_err(Problem::from)?;
        Ok((identity.uid, identity.gid))
    }
}

/// Checks a path without the image.
fn check(path: &[u8]) -> Result<(), Problem> {
    let mut parts = path.split(|&byte| byte == b'/');
    if !path.starts_with(b"/") || path.contains(&0) || parts.any(|part| part == b"..") {
        return Err(Problem::Path);
    }
    let parts = path.split(|&byte| byte == b'/');
    let parts: Vec<_> = parts
        .filter(|part| !matches!(*part, b"" | b"."))
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect();
    let plain = format!("/{}", parts.join("/"));
    let within = |folder: &&str| {
        plain
            .strip_prefix(*folder)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let covered = COVERED_FOLDERS.into_iter().find(within);
    let covered = covered.or_else(|| COVERED_FILES.into_iter().find(|file| *file == plain));
    match covered {
        Some(covered) => Err(Problem::Covered(covered)),
        None => Ok(()),
    }
}

fn merged(
    from: &Path,
    push: impl FnOnce(&mut Merge) -> std::result::Result<(), fsmerge::Error>,
) -> Result<Merged> {
    let mut merge = Merge::new(&Limits::default());
    push(&mut merge).map_err(|source| Error::layer(&from.display().to_string(), source))?;
    Ok(merge.finish())
}

fn bytes(tail: Vec<u8>) -> File {
    File { stored: None, tail }
}

/// Returns the attributes of a new node.
fn new(mode: u16) -> Metadata {
    Metadata::new(mode).mtime(SystemTime::now())
}

fn changed(mut metadata: Metadata, patch: &Patch, owner: Option<(u32, u32)>) -> Metadata {
    if let Some(mode) = patch.mode {
        metadata.mode = mode;
    }
    if let Some((uid, gid)) = owner {
        (metadata.uid, metadata.gid) = (uid, gid);
    }
    metadata
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_escaping_and_hidden_paths_are_rejected() {
        for path in ["/a", "/etc/hosts.d", "/development", "/", "//a/./b/"] {
            assert!(check(path.as_bytes()).is_ok(), "{path}");
        }
        for path in ["a", "", "/a/../b", "/..", "/a\0"] {
            assert!(
                matches!(check(path.as_bytes()), Err(Problem::Path)),
                "{path}"
            );
        }
        for path in ["/proc", "/proc/sys", "//etc/./hosts", "/dev/x"] {
            let refused = check(path.as_bytes());
            assert!(matches!(refused, Err(Problem::Covered(_))), "{path}");
        }
    }
}
