//! The check's walk over all directories.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::inodes::Inodes;
use super::ranges::Ranges;
use super::report::{CheckOptions, Report};
use crate::areas::Areas;
use crate::corruption::Detail;
use crate::dir::{DirEntry, ReadDir};
use crate::error::Error;
use crate::image::Image;
use crate::inode::Inode;
use crate::nid::Nid;
use crate::read_at::ReadAt;
use crate::walk::{COMPRESSED_DIRECTORIES, MAX_DEPTH};

/// State of an inode that the walk has met.
struct Known {
    inode: Inode,
    /// A path of it.
    path: Vec<u8>,
    /// Names that point to it, or for directories its subdirectories.
    links: u64,
}

/// A directory between the root and the current position of the walk.
struct Frame<'a, R> {
    entries: ReadDir<'a, R>,
    parent: Nid,
    path_len: usize,
    dot: Option<Nid>,
    dot_dot: Option<Nid>,
}

struct Tree<'a, R> {
    image: &'a Image<R>,
    inodes: Inodes<'a, R>,
    known: BTreeMap<Nid, Option<Known>>,
    stack: Vec<Frame<'a, R>>,
    path: Vec<u8>,
    /// How many more bytes of directories there can be, as in [`Image::walk`].
    budget: u64,
}

pub(super) fn check<R: ReadAt>(
    image: &Image<R>,
    options: &CheckOptions,
    metadata: Ranges,
    report: &mut Report,
) {
    let mut tree = Tree {
        image,
        inodes: Inodes::new(image, options.contents, metadata),
        known: BTreeMap::new(),
        stack: Vec::new(),
        path: Vec::new(),
        budget: image.storage().total_size(),
    };
    match image.root() {
        Ok(root) => {
            tree.visit(root, report);
            tree.enter(&root, root.nid(), report);
        }
        Err(e) => report.error(Some(&[]), e),
    }
    while let Some(frame) = tree.stack.last_mut() {
        if let Some(progress) = &options.progress {
            progress.report(report.inodes, report.bytes);
        }
        tree.path.truncate(frame.path_len);
        match frame.entries.next() {
            None => {
                if let Some(frame) = tree.stack.pop() {
                    tree.leave(&frame, report);
                }
            }
            Some(Err(e)) => report.error(Some(&tree.path), e),
            Some(Ok(entry)) if entry.name == b"." => frame.dot = Some(entry.nid),
            Some(Ok(entry)) if entry.name == b".." => frame.dot_dot = Some(entry.nid),
            Some(Ok(entry)) => tree.entry(&entry, report),
        }
    }
    tree.finish(report);
}

impl<R: ReadAt> Tree<'_, R> {
    fn entry(&mut self, entry: &DirEntry, report: &mut Report) {
        let Some(dir) = self.stack.last().map(|frame| frame.entries.inode().nid()) else {
            return;
        };
        report.names = report.names.saturating_add(1);
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(&entry.name);
        let first = !self.known.contains_key(&entry.nid);
        if first {
            match self.image.inode(entry.nid) {
                Ok(inode) => self.visit(inode, report),
                Err(e) => {
                    report.error(Some(&self.path), e);
                    self.known.insert(entry.nid, None);
                }
            }
        }
        let Some(Some(known)) = self.known.get_mut(&entry.nid) else {
            return;
        };
        let inode = known.inode;
        // An entry without a type is valid; the kernel's readdir passes the type on.
        if entry.raw_type != 0 && entry.file_type != Some(inode.file_type()) {
            let what = Detail::EntryType {
                entry: entry.raw_type,
                inode: inode.file_type(),
            };
            report.error(Some(&self.path), Error::corrupt(dir, entry.position, what));
        }
        if !inode.is_dir() {
            known.links = known.links.saturating_add(1);
        } else if first {
            self.enter(&inode, dir, report);
            if let Some(Some(parent)) = self.known.get_mut(&dir) {
                parent.links = parent.links.saturating_add(1);
            }
        } else {
            let what = Detail::DirectoryLinkedTwice;
            report.error(Some(&self.path), inode.corrupt(inode.position(), what));
        }
    }

    /// Checks an inode that is met for the first time.
    fn visit(&mut self, inode: Inode, report: &mut Report) {
        report.inodes = report.inodes.saturating_add(1);
        self.inodes.check(&inode, &self.path, report);
        let known = Known {
            inode,
            path: self.path.clone(),
            links: 0,
        };
        self.known.insert(inode.nid(), Some(known));
    }

    fn enter(&mut self, dir: &Inode, parent: Nid, report: &mut Report) {
        report.directories = report.directories.saturating_add(1);
        let cost = if dir.is_compressed() {
            dir.size().div_ceil(COMPRESSED_DIRECTORIES)
        } else {
            dir.size()
        };
        let left = self.budget.checked_sub(cost);
        let entries = if self.stack.len() > MAX_DEPTH {
            Err(dir.corrupt(dir.position(), Detail::Depth))
        } else if left.is_none() {
            Err(dir.corrupt(dir.position(), Detail::DirectoriesOverlap))
        } else {
            self.image.read_dir(dir)
        };
        self.budget = left.unwrap_or(self.budget);
        match entries {
            Ok(entries) => self.stack.push(Frame {
                entries: entries.with_dots().lenient(),
                parent,
                path_len: self.path.len(),
                dot: None,
                dot_dot: None,
            }),
            Err(e) => report.error(Some(&self.path), e),
        }
    }

    fn leave(&self, frame: &Frame<'_, R>, report: &mut Report) {
        let dir = frame.entries.inode();
        let dots = [
            (".", dir.nid(), frame.dot),
            ("..", frame.parent, frame.dot_dot),
        ];
        for (name, expected, found) in dots {
            let omitted = name == "." && dir.dot_omitted && found.is_none();
            if found != Some(expected) && !omitted {
                let what = Detail::Dot {
                    name,
                    expected,
                    found,
                };
                report.error(Some(&self.path), dir.corrupt(dir.position(), what));
            }
        }
    }

    fn finish(self, report: &mut Report) {
        let mut known: Vec<_> = self.known.into_values().flatten().collect();
        known.sort_by(|a, b| a.path.cmp(&b.path));
        for Known { inode, path, links } in known {
            let stored = inode.nlink();
            let found = if inode.is_dir() {
                links.saturating_add(2)
            } else {
                links
            };
            if u64::from(stored) == found {
                continue;
            }
            let what = Detail::LinkCount { stored, found };
            if !inode.is_dir() {
                report.error(Some(&path), inode.corrupt(inode.position(), what));
            } else if stored != 1 {
                // 1 says that the subdirectories were not counted, as in many file systems.
                report.warn(Some(inode.nid()), Some(&path), inode.position(), what);
            }
        }
        self.inodes.finish(report);
        let sb = self.image.superblock();
        // The packed and the metabox inode have no names; whether tools count them differs.
        let special = [sb.packed_nid, sb.metabox_nid].into_iter().flatten();
        let upper = special.fold(report.inodes, |n, _| n.saturating_add(1));
        if !(report.inodes..=upper).contains(&sb.inodes) {
            let what = Detail::InodeCount {
                stored: sb.inodes,
                found: report.inodes,
            };
            report.warn(None, None, crate::format::EROFS_SUPER_OFFSET, what);
        }
    }
}
