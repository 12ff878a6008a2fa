//! Open directories in which names are created. No path is resolved again, so links that replace a
//! directory are not followed, and paths may be longer than the system's limit.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

/// Directories that stay open on the way to the innermost one.
const OPEN: usize = 8;

/// Opens a directory only for lookups, where the system supports that.
#[cfg(target_os = "linux")]
const LOOKUP: OFlags = OFlags::PATH;
#[cfg(not(target_os = "linux"))]
const LOOKUP: OFlags = OFlags::RDONLY;

/// A place in the tree below `root`.
#[derive(Debug)]
pub(super) struct Folders<'a> {
    root: BorrowedFd<'a>,
    /// The path of the innermost directory.
    path: Vec<u8>,
    /// That one and some around it, outermost first, with the lengths of their paths.
    open: Vec<(usize, OwnedFd)>,
}

impl<'a> Folders<'a> {
    pub(super) fn new(root: BorrowedFd<'a>) -> Self {
        Self {
            root,
            path: Vec::new(),
            open: Vec::new(),
        }
    }

    /// The directory that `path`, which is not empty, is in; and its name there.
    pub(super) fn find<'p>(&mut self, path: &'p [u8]) -> Result<(BorrowedFd<'_>, &'p [u8]), Errno> {
        let mut names = path.rsplitn(2, |&byte| byte == b'/');
        let name = names.next().unwrap_or_default();
        let parent = names.next().unwrap_or_default();
        while let Some(&(length, _)) = self.open.last()
            && !(parent.get(..length) == self.path.get(..length)
                && parent.get(length).is_none_or(|&byte| byte == b'/'))
        {
            self.open.pop();
        }
        let mut end = self.open.last().map_or(0, |&(length, _)| length);
        self.path.clear();
        self.path.extend_from_slice(parent);
        while let Some(rest) = parent.get(end..).filter(|rest| !rest.is_empty()) {
            let rest = rest.strip_prefix(b"/").unwrap_or(rest);
            let next = rest.split(|&byte| byte == b'/').next().unwrap_or_default();
            let flags = LOOKUP | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let folder = openat(self.innermost(), next, flags, Mode::empty())?;
            end = parent
                .len()
                .saturating_sub(rest.len())
                .saturating_add(next.len());
            if self.open.len() >= OPEN {
                self.open.remove(0);
            }
            self.open.push((end, folder));
        }
        Ok((self.innermost(), name))
    }

    fn innermost(&self) -> BorrowedFd<'_> {
        self.open.last().map_or(self.root, |(_, fd)| fd.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, mkdirat, symlinkat};

    #[test]
    fn every_directory_is_found_from_every_other_however_deep() {
        let dir = tempfile::tempdir().unwrap();
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, dir.path(), flags, Mode::empty()).unwrap();
        let mut folders = Folders::new(root.as_fd());
        let name = "n".repeat(200);
        // Longer together than any path that the system takes.
        let paths: Vec<_> = (1..=40)
            .map(|depth| vec![&name[..]; depth].join("/"))
            .collect();
        for path in &paths {
            for path in [path.clone(), format!("{path}-")] {
                let (at, name) = folders.find(path.as_bytes()).unwrap();
                mkdirat(at, name, Mode::RWXU).unwrap();
            }
        }
        for index in [39, 0, 20, 3, 38, 21, 1, 30] {
            let path = format!("{}/file", paths[index]);
            let (at, name) = folders.find(path.as_bytes()).unwrap();
            mkdirat(at, name, Mode::RWXU).unwrap();
            let path = format!("{}-/file", paths[index]);
            let (at, name) = folders.find(path.as_bytes()).unwrap();
            mkdirat(at, name, Mode::RWXU).unwrap();
        }
        let made = walk_depth(root.as_fd(), &name);
        assert_eq!(
            made,
            (1..=40)
                .map(|d| [1, 2, 4, 21, 22, 31, 39, 40].contains(&d))
                .collect::<Vec<_>>()
        );
    }

    /// Whether there is `file` in each directory of the chain.
    fn walk_depth(root: BorrowedFd<'_>, name: &str) -> Vec<bool> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = root.try_clone_to_owned().unwrap();
        std::iter::from_fn(|| {
            at = openat(&at, name, flags, Mode::empty()).ok()?;
            Some(openat(&at, "file", flags, Mode::empty()).is_ok())
        })
        .collect()
    }

    #[test]
    fn a_link_in_the_place_of_a_directory_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, dir.path(), flags, Mode::empty()).unwrap();
        symlinkat("/tmp", &root, "link").unwrap();
        let found = Folders::new(root.as_fd())
            .find(b"link/file")
            .map(|(_, name)| name);
        assert_eq!(found, Err(Errno::NOTDIR));
    }
}
