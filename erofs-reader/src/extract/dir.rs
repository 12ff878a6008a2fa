//! The tree as files in a directory.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use blockbox_path::BytePath;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, mkdirat, openat};
use rustix::io::Errno;

use super::Extracted;
use super::attributes::{OriginalAttrs, Restored, restore};
use super::budget::Budget;
use super::files::{ExtractEvent, Job, Large, Worker, create};
use super::folders::Folders;
use super::meter::Meter;
use super::pieces::Pieces;
use super::terms::{DirOptions, Terms, at};
use super::workers::{self, Queue};
use crate::error::Error;
use crate::file_type::FileType;
use crate::image::Image;
use crate::inode::Inode;
use crate::nid::Nid;
use crate::read_at::ReadAt;

/// Writes the tree of `image` into the directory `to`, which must exist and be empty.
///
/// Modes, times to the nanosecond, hard links and holes are always restored; `options` selects the
/// rest. Nothing outside `to` is changed, even by a hostile image: extraction enters only
/// directories that it created, follows no links, and reuses no existing names. Paths may be longer
/// than the system's limit. Devices, fifos and sockets are skipped where the system cannot make
/// them, and xattrs where the filesystem does not keep any, or none of that name or size.
///
/// The calling thread creates the directories, and one thread for each processor creates all other
/// names with their contents and attributes. The result does not depend on the number of threads.
///
/// ```no_run
/// use erofs_reader::extract::{DirOptions, extract_to_dir};
/// use erofs_reader::{Buffered, Image};
///
/// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
/// let options = DirOptions::unprivileged().max_bytes(1 << 30);
/// let done = extract_to_dir(&image, "rootfs".as_ref(), &options)?;
/// println!("{} names", done.entries);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`Error::At`] if the image is damaged; [`Error::Output`] if a name cannot be created or written;
/// [`Error::Limit`]. Files that were written before the error remain.
pub fn extract_to_dir<R: ReadAt + Sync>(
    image: &Image<R>,
    to: &Path,
    options: &DirOptions,
) -> Result<Extracted, Error> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    extract(image, to, options, threads)
}

fn extract<R: ReadAt + Sync>(
    image: &Image<R>,
    to: &Path,
    options: &DirOptions,
    threads: usize,
) -> Result<Extracted, Error> {
    let mut entries = to.read_dir().map_err(|source| at(&[], source))?;
    if entries.next().is_some() {
        return Err(at(&[], io::ErrorKind::DirectoryNotEmpty.into()));
    }
    let root = openat(CWD, to, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = root.map_err(|e| at(&[], e.into()))?;
    let terms = Terms {
        options,
        budget: Budget::new(options.max_bytes),
        meter: Meter::new(options.progress.clone()),
    };
    let ((mut done, names), events) = workers::with(
        threads,
        || Worker::new(image, &terms, to, root.as_fd()),
        Worker::run,
        |queue| Names::new(image, &terms, root.as_fd(), queue).send_all(),
    )?;
    for event in events {
        match event {
            ExtractEvent::Refused(refused) => done.refused_xattrs.push(refused),
            ExtractEvent::Skipped(path) => {
                done.entries = done.entries.saturating_sub(1);
                done.skipped.push(path);
            }
        }
    }
    names.link(root.as_fd(), &mut done)?;
    names.finish(image, &terms, root.as_fd(), &mut done)?;
    done.skipped.sort();
    done.refused_xattrs.sort();
    Ok(done)
}

/// Bytes that a file has at least whose pieces are given to several threads, and about as many as
/// each gets at once.
const SHARE: u64 = 4 << 20;

/// Names that a thread gets at once, and bytes of their contents: handing each over by itself would
/// cost as much as making it.
const TOGETHER: usize = 32;
const BYTES_TOGETHER: u64 = 1 << 20;

/// All names, on their way to the threads.
struct Names<'a, R> {
    image: &'a Image<R>,
    terms: &'a Terms<'a>,
    queue: &'a Queue<'a, Job, ExtractEvent>,
    folders: Folders<'a>,
    /// The names of the next job, and their number of bytes.
    batch: Vec<(BytePath, Inode)>,
    bytes: u64,
    done: Extracted,
    later: Later,
}

/// Work that waits until every inode has its first name.
#[derive(Default)]
struct Later {
    /// Directories get their attributes last: a read-only directory could not be filled, and
    /// filling changes its time.
    directories: Vec<(BytePath, Inode)>,
    /// First names, and those that are to be linked to them.
    links: Vec<(Arc<BytePath>, BytePath)>,
}

impl<'a, R: ReadAt> Names<'a, R> {
    fn new(
        image: &'a Image<R>,
        terms: &'a Terms<'a>,
        root: BorrowedFd<'a>,
        queue: &'a Queue<'a, Job, ExtractEvent>,
    ) -> Self {
        Self {
            image,
            terms,
            queue,
            folders: Folders::new(root),
            batch: Vec::new(),
            bytes: 0,
            done: Extracted::default(),
            later: Later::default(),
        }
    }

    /// Makes every directory, and gives all other names to the threads.
    fn send_all(mut self) -> Result<(Extracted, Later), Error> {
        let mut first: HashMap<Nid, Arc<BytePath>> = HashMap::new();
        for step in self.image.walk() {
            let (path, inode) = step?;
            if inode.is_dir() {
                if !path.is_empty() {
                    let made = self.folders.find(&path);
                    made.and_then(|(dir, name)| mkdirat(dir, name, Mode::RWXU))
                        .map_err(|e| at(&path, e.into()))?;
                }
                self.done.entries = self.done.entries.saturating_add(1);
                self.terms.meter.add(1, 0);
                self.later.directories.push((path, inode));
                continue;
            }
            if let Some(first) = first.get(&inode.nid()) {
                self.later.links.push((Arc::clone(first), path));
                continue;
            }
            let device = matches!(
                inode.file_type(),
                FileType::CharDevice | FileType::BlockDevice
            );
            if device && !self.terms.options.devices {
                self.done.skipped.push(path);
                continue;
            }
            if inode.nlink() != 1 {
                first.insert(inode.nid(), Arc::new(path.clone()));
            }
            self.done.entries = self.done.entries.saturating_add(1);
            if !self.send(path, inode)? {
                break;
            }
        }
        self.flush();
        Ok((self.done, self.later))
    }

    /// Queues a name for the threads, a large file in parts. Returns false if a thread has failed.
    fn send(&mut self, path: BytePath, inode: Inode) -> Result<bool, Error> {
        if inode.is_file() {
            self.terms.budget.charge(inode.size())?;
            self.done.bytes = self.done.bytes.saturating_add(inode.size());
            if inode.size() >= SHARE {
                return self.share(path, inode);
            }
            self.bytes = self.bytes.saturating_add(inode.size());
        }
        self.batch.push((path, inode));
        let enough = self.batch.len() >= TOGETHER || self.bytes >= BYTES_TOGETHER;
        Ok(!enough || self.flush())
    }

    fn flush(&mut self) -> bool {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        self.queue.send(Job::Names(batch))
    }

    /// Makes a file, and gives its pieces to several threads.
    fn share(&mut self, path: BytePath, inode: Inode) -> Result<bool, Error> {
        let file = create(&mut self.folders, &path, &inode)?;
        let large = Arc::new(Large { file, inode, path });
        let of_path = |e: Error| e.of_path(&large.path);
        let mut pieces = Vec::new();
        let mut share = 0_u64;
        for piece in Pieces::new(self.image, &inode).map_err(of_path)? {
            let piece = piece.map_err(of_path)?;
            share = share.saturating_add(if piece.is_hole() { 0 } else { piece.length });
            pieces.push(piece);
            if share >= SHARE {
                share = 0;
                let job = Job::Pieces(Arc::clone(&large), std::mem::take(&mut pieces));
                if !self.queue.send(job) {
                    return Ok(false);
                }
            }
        }
        Ok(self.queue.send(Job::Pieces(large, pieces)))
    }
}

impl Later {
    /// Creates further names of inodes.
    fn link(&self, root: BorrowedFd<'_>, done: &mut Extracted) -> Result<(), Error> {
        let skipped: BTreeSet<_> = done.skipped.iter().cloned().collect();
        let (mut from, mut to) = (Folders::new(root), Folders::new(root));
        for (first, path) in &self.links {
            if skipped.contains(first.as_bytes()) {
                done.skipped.push(path.clone());
                continue;
            }
            let mut link = || -> Result<(), Errno> {
                let (old_dir, old) = from.find(first)?;
                let (new_dir, new) = to.find(path)?;
                linkat(old_dir, old, new_dir, new, AtFlags::empty())
            };
            link().map_err(|e| at(path, e.into()))?;
            done.entries = done.entries.saturating_add(1);
        }
        Ok(())
    }

    /// Gives directories their attributes, inner ones first.
    fn finish<R: ReadAt>(
        &self,
        image: &Image<R>,
        terms: &Terms<'_>,
        root: BorrowedFd<'_>,
        done: &mut Extracted,
    ) -> Result<(), Error> {
        let mut folders = Folders::new(root);
        for (path, inode) in self.directories.iter().rev() {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = if path.is_empty() {
                openat(root, ".", flags, Mode::empty())
            } else {
                let found = folders.find(path);
                found.and_then(|(dir, name)| openat(dir, name, flags, Mode::empty()))
            };
            let file = File::from(opened.map_err(|e| at(path, e.into()))?);
            let original = OriginalAttrs::of(&file).map_err(|e| at(path, e))?;
            let refused = restore(image, inode, path, &Restored::Open(&file, original), terms);
            let refused = refused.map_err(|e| e.of_path(path))?;
            done.refused_xattrs.extend(refused);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use erofs_writer::{Builder, Metadata, Node, Options};
    use testkit::walk;

    use super::*;
    use crate::extract::{TarOptions, extract_to_tar};
    use crate::read_at::ReadAtError;

    /// Many names in many directories, with every kind of permission and of link.
    fn image() -> Vec<u8> {
        let mut builder = Builder::new(Cursor::new(Vec::new()), Options::default()).unwrap();
        let owned = |mode, uid| Metadata::new(mode).uid(uid).gid(uid);
        for number in 0..300_usize {
            let mut data = builder.data();
            let length = [0, 10, 3000, 70_000][number % 4];
            data.write_all(&vec![number as u8; length]).unwrap();
            let contents = data.finish().unwrap();
            let mode = [0o644, 0o666, 0o777, 0o4755, 0o2771, 0o000, 0o1600][number % 7];
            let meta = owned(mode, [0, 1000, 70_000][number % 3]);
            let path = format!("{}/{}/{number:03}", number % 5, number % 30);
            let file = builder
                .add_path(path.as_bytes(), meta, Node::File(contents))
                .unwrap();
            if number % 9 == 0 {
                // Before or after the other name.
                let name = format!("{number}-");
                builder.link(builder.root(), name.as_bytes(), file).unwrap();
            }
            if number % 11 == 0 {
                let target = Node::Symlink(path.into_bytes());
                let path = format!("{}/link-{number}", number % 5);
                builder
                    .add_path(path.as_bytes(), owned(0o777, 5), target)
                    .unwrap();
            }
        }
        for (path, mode) in [("0", 0o500), ("1", 0o2775), ("z", 0o1777)] {
            builder
                .add_path(path.as_bytes(), owned(mode, 7), Node::Directory)
                .unwrap();
        }
        builder.finish().unwrap().0.into_inner()
    }

    /// A source that fails at a given offset.
    struct Failing(Vec<u8>, Vec<u64>);

    impl ReadAt for Failing {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, ReadAtError> {
            let end = offset + buf.len() as u64;
            if let Some(at) = self.1.iter().find(|at| (offset..end).contains(at)) {
                return Err(io::Error::other(at.to_string()).into());
            }
            self.0.read_at(buf, offset)
        }

        fn size(&self) -> Result<u64, ReadAtError> {
            self.0.size()
        }
    }

    #[test]
    fn any_number_of_threads_gives_the_same_tree() {
        // As root.
        if !testkit::kernel_mounts() {
            return;
        }
        let image = Image::open(image()).unwrap();
        let mut expected = None;
        for threads in [1, 2, 7] {
            let to = tempfile::tempdir().unwrap();
            let done = extract(&image, to.path(), &DirOptions::default(), threads).unwrap();
            let tree = walk(to.path()).unwrap();
            assert_eq!(done.entries, tree.len() as u64);
            let (first, first_tree) = expected.get_or_insert((done.clone(), tree.clone()));
            assert_eq!(*first, done);
            testkit::Difference::between(&tree, first_tree).assert_none();
        }
    }

    #[test]
    fn extracted_owners_are_those_of_the_image_in_a_setgid_directory() {
        // As root.
        if !testkit::kernel_mounts() {
            return;
        }
        let image = Image::open(image()).unwrap();
        let [plain, passing] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        std::os::unix::fs::chown(passing.path(), Some(3), Some(1000)).unwrap();
        let setgid = std::os::unix::fs::PermissionsExt::from_mode(0o2777);
        std::fs::set_permissions(passing.path(), setgid).unwrap();
        let trees = [plain, passing].map(|to| {
            extract(&image, to.path(), &DirOptions::default(), 2).unwrap();
            walk(to.path()).unwrap()
        });
        testkit::Difference::between(&trees[0], &trees[1]).assert_none();
    }

    #[test]
    fn the_first_error_is_returned_for_any_number_of_threads() {
        let bytes = image();
        let damage = {
            let image = Image::open(&bytes[..]).unwrap();
            let place = |path: &[u8]| {
                let inode = image.metadata(path).unwrap();
                let extent = image.extents(&inode).unwrap()[0];
                match extent.source {
                    crate::Source::Data { offset, .. } => offset + 1000,
                    other => panic!("{other:?}"),
                }
            };
            [place(b"1/11/131"), place(b"3/3/183"), place(b"4/29/299")]
        };
        let image = Image::open(Failing(bytes, damage.to_vec())).unwrap();
        for threads in [1, 2, 7] {
            let to = tempfile::tempdir().unwrap();
            let options = DirOptions::unprivileged();
            let error = extract(&image, to.path(), &options, threads).unwrap_err();
            let said = error.io_error().unwrap().to_string();
            assert_eq!(said, damage[0].to_string());
            assert!(error.to_string().ends_with(" 1/11/131"), "{error}");
            let error = extract_to_tar(&image, io::sink(), &TarOptions::default()).unwrap_err();
            assert!(error.to_string().ends_with(" 1/11/131"), "{error}");
        }
    }

    #[test]
    fn paths_longer_than_path_max_are_extracted() {
        let mut builder = Builder::new(Cursor::new(Vec::new()), Options::default()).unwrap();
        let path = vec!["n".repeat(250); 40].join("/");
        let contents = builder.data().finish().unwrap();
        let file = builder
            .add_path(path.as_bytes(), Metadata::new(0o755), Node::File(contents))
            .unwrap();
        builder.link(builder.root(), b"short", file).unwrap();
        let image = Image::open(builder.finish().unwrap().0.into_inner()).unwrap();
        let to = tempfile::tempdir().unwrap();
        let options = DirOptions::unprivileged();
        let done = extract(&image, to.path(), &options, 2).unwrap();
        assert_eq!(done.entries, 42);
        let link = to.path().join("short").metadata().unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::nlink(&link), 2);
    }
}
