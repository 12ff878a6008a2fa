//! An image as a directory, through FUSE: what the kernel's own mount shows, without its privileges.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Args;
use erofs_reader::{DirEntry, FileType, Image, Inode, Nid, ReadAt};
use fuser::{
    Config, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyXattr, Request, Session, SessionACL,
};
use rustix::io::Errno as Os;
use signal_hook::consts::signal::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::source::Source;
use crate::error::Error;

/// How long the kernel may remember what it was told: nothing ever changes.
const FOREVER: Duration = Duration::from_secs(1 << 30);

/// The longest read to answer: what the kernel sends is shorter.
const LONGEST_READ: u32 = 16 << 20;

/// Mount an image through FUSE until it is unmounted.
#[derive(Debug, Args)]
pub(in crate::cli) struct Mount {
    #[command(flatten)]
    source: Source,
    /// The directory to mount on
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
}

impl Mount {
    /// Returns when the mount is gone: unmounted from outside, or after SIGINT or SIGTERM.
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let failed = |source| Error::Read {
            path: self.source.image.clone(),
            source,
        };
        let image = self.source.open()?;
        let tree = Tree::new(image).map_err(failed)?;
        let context = || self.mountpoint.display().to_string();
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let mut session = Session::new(tree, &self.mountpoint, &config(&self.source.image))
            .with_context(context)?;
        let mut unmounter = session.unmount_callable();
        let handle = signals.handle();
        let mountpoint = self.mountpoint.clone();
        let waiting = thread::spawn(move || {
            for _ in signals.forever() {
                if let Err(e) = unmounter.unmount() {
                    eprintln!("blockbox: {}: {e}", mountpoint.display());
                }
            }
        });
        let ended = session.run().with_context(context);
        handle.close();
        let _ = waiting.join();
        ended
    }
}

fn config(image: &Path) -> Config {
    let mut config = Config::default();
    // What follows a comma would be another option.
    let name = image.display().to_string().replace([',', '\\'], "_");
    config.mount_options = vec![
        MountOption::RO,
        MountOption::FSName(name),
        MountOption::Subtype("erofs".to_owned()),
        MountOption::DefaultPermissions,
        // The image is not trusted.
        MountOption::NoDev,
        MountOption::NoSuid,
    ];
    // Only root may show a mount to others, unless the administrator says so.
    if rustix::process::geteuid().is_root() {
        config.acl = SessionACL::All;
    }
    config.n_threads = thread::available_parallelism().ok().map(Into::into);
    config.clone_fd = true;
    config
}

/// The entries of a directory, `.` and `..` first.
type Listing = Arc<Vec<DirEntryOf>>;

/// A name, what it refers to and its type.
struct DirEntryOf {
    name: Vec<u8>,
    node: INodeNo,
    kind: fuser::FileType,
}

/// An image's tree, as FUSE asks for it.
struct Tree<R> {
    image: Image<R>,
    root: Nid,
    /// What open directories hold, so that a large one is read once.
    open: Mutex<HashMap<u64, Listing>>,
    next_handle: AtomicU64,
}

impl<R: ReadAt> Tree<R> {
    fn new(image: Image<R>) -> Result<Self, erofs_reader::Error> {
        let root = image.root()?.nid();
        Ok(Self {
            image,
            root,
            open: Mutex::default(),
            next_handle: AtomicU64::new(1),
        })
    }

    /// The number that FUSE knows an inode by: its nid. But there 1 is the root and 0 is nothing: so the nid 1 gets the
    /// root's number, and 0 (or 1, where 0 is the root's) the last one, at which no inode can be.
    fn node(&self, nid: Nid) -> INodeNo {
        let root = self.root.get();
        INodeNo(match nid.get() {
            nid if nid == root => 1,
            0 => u64::MAX,
            1 if root == 0 => u64::MAX,
            1 => root,
            nid => nid,
        })
    }

    /// The inverse of [`Tree::node`].
    fn nid(&self, node: INodeNo) -> Nid {
        let root = self.root.get();
        Nid::new(match node.0 {
            1 => root,
            u64::MAX => u64::from(root == 0),
            node if node == root => 1,
            node => node,
        })
    }

    fn inode(&self, node: INodeNo) -> Result<Inode, Errno> {
        self.image.inode(self.nid(node)).map_err(errno)
    }

    fn attributes(&self, inode: &Inode) -> FileAttr {
        let time = time(inode);
        let unit = self.image.superblock().block_size.bytes();
        let (major, minor) = inode.rdev();
        FileAttr {
            ino: self.node(inode.nid()),
            size: inode.size(),
            blocks: inode.size().div_ceil(unit).saturating_mul(unit / 512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: kind(inode.file_type()),
            perm: inode.mode(),
            nlink: inode.nlink(),
            uid: inode.uid(),
            gid: inode.gid(),
            // `new_encode_dev` of the kernel.
            rdev: (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12),
            blksize: u32::try_from(unit).unwrap_or(4096),
            flags: 0,
        }
    }

    fn find(&self, parent: INodeNo, name: &[u8]) -> Result<Option<Inode>, Errno> {
        // `EROFS_NAME_LEN`.
        if name.len() > 255 {
            return Err(Errno::ENAMETOOLONG);
        }
        let parent = self.inode(parent)?;
        let entry = self.image.find(&parent, name).map_err(errno)?;
        entry
            .map(|entry| self.image.inode(entry.nid).map_err(errno))
            .transpose()
    }

    fn list(&self, node: INodeNo) -> Result<Listing, Errno> {
        let directory = self.inode(node)?;
        let parent = self.image.find(&directory, b"..").map_err(errno)?;
        let parent = parent.map_or(node, |entry| self.node(entry.nid));
        let mut entries: Vec<_> = [(&b"."[..], node), (b"..", parent)]
            .map(|(name, node)| DirEntryOf {
                name: name.to_vec(),
                node,
                kind: fuser::FileType::Directory,
            })
            .into();
        for entry in self.image.read_dir(&directory).map_err(errno)? {
            let DirEntry {
                name,
                nid,
                file_type,
                ..
            } = entry.map_err(errno)?;
            let file_type = match file_type {
                Some(file_type) => file_type,
                None => self.image.inode(nid).map_err(errno)?.file_type(),
            };
            entries.push(DirEntryOf {
                name,
                node: self.node(nid),
                kind: kind(file_type),
            });
        }
        Ok(Arc::new(entries))
    }

    fn read_file(&self, node: INodeNo, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let inode = self.inode(node)?;
        let mut file = self.image.file(&inode).map_err(errno)?;
        let left = file.size().saturating_sub(offset);
        let wanted = left.min(size.min(LONGEST_READ).into());
        let mut bytes = vec![0; usize::try_from(wanted).unwrap_or(0)];
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            match file.read_at(&mut bytes[done..], at).map_err(errno)? {
                0 => break,
                n => done += n,
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    fn directories(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Listing>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: ReadAt + Send + Sync + 'static> Filesystem for Tree<R> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Each is only asked for where the kernel has it. ACLs are then the kernel's to enforce.
        for flag in [
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_EXPORT_SUPPORT,
        ] {
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_readahead(1 << 20);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent, name.as_bytes()) {
            Ok(Some(inode)) => reply.entry(&FOREVER, &self.attributes(&inode), Generation(0)),
            Ok(None) => reply.error(Errno::ENOENT),
            Err(e) => reply.error(e),
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.inode(node) {
            Ok(inode) => {
                let mut attributes = self.attributes(&inode);
                // Here it is only what `stat` shows.
                attributes.ino = INodeNo(inode.nid().get());
                reply.attr(&FOREVER, &attributes);
            }
            Err(e) => reply.error(e),
        }
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        let target = self
            .inode(node)
            .and_then(|inode| self.image.read_link(&inode).map_err(errno));
        match target {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(e),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.read_file(node, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(e) => reply.error(e),
        }
    }

    fn opendir(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.list(node) {
            Ok(listing) => {
                let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
                self.directories().insert(handle, listing);
                let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
                reply.opened(FileHandle(handle), flags);
            }
            Err(e) => reply.error(e),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(listing) = self.directories().get(&handle.0).cloned() else {
            return reply.error(Errno::EBADF);
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (entry, next) in listing.iter().zip(1..).skip(from) {
            if reply.add(entry.node, next, entry.kind, OsStr::from_bytes(&entry.name)) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.directories().remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let sb = self.image.superblock();
        let unit = u32::try_from(sb.block_size.bytes()).unwrap_or(4096);
        reply.statfs(sb.blocks, 0, 0, sb.inodes, 0, unit, 255, unit);
    }

    fn getxattr(&self, _: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let xattrs = self
            .inode(node)
            .and_then(|inode| self.image.xattrs(&inode).map_err(errno));
        let value = xattrs.and_then(|xattrs| {
            let wanted = name.as_bytes();
            let found = xattrs.into_iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value).ok_or(os(Os::NODATA))
        });
        answer(value, size, reply);
    }

    fn listxattr(&self, request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self
            .inode(node)
            .and_then(|inode| self.image.xattrs(&inode).map_err(errno))
            .map(|xattrs| {
                let mut names = Vec::new();
                for (name, _) in xattrs {
                    // As the kernel: who may not read them need not know of them.
                    if request.uid() == 0 || !name.starts_with(b"trusted.") {
                        names.extend_from_slice(&name);
                        names.push(0);
                    }
                }
                names
            });
        answer(names, size, reply);
    }
}

/// Answers with `bytes`, or, where `size` is 0, with their number.
fn answer(bytes: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match bytes.map(|bytes| (u32::try_from(bytes.len()), bytes)) {
        Ok((Ok(length), _)) if size == 0 => reply.size(length),
        Ok((Ok(length), bytes)) if length <= size => reply.data(&bytes),
        Ok(_) => reply.error(Errno::ERANGE),
        Err(e) => reply.error(e),
    }
}

fn kind(file_type: FileType) -> fuser::FileType {
    match file_type {
        FileType::Regular => fuser::FileType::RegularFile,
        FileType::Directory => fuser::FileType::Directory,
        FileType::CharDevice => fuser::FileType::CharDevice,
        FileType::BlockDevice => fuser::FileType::BlockDevice,
        FileType::Fifo => fuser::FileType::NamedPipe,
        FileType::Socket => fuser::FileType::Socket,
        FileType::Symlink => fuser::FileType::Symlink,
    }
}

/// An inode's time; the epoch where the system has no such time.
fn time(inode: &Inode) -> SystemTime {
    let (seconds, nanoseconds) = inode.mtime();
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let second = if seconds < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    second
        .and_then(|second| second.checked_add(Duration::from_nanos(nanoseconds.into())))
        .unwrap_or(UNIX_EPOCH)
}

fn os(errno: Os) -> Errno {
    Errno::from_i32(errno.raw_os_error())
}

/// The kernel's answer to the same damage.
fn errno(error: erofs_reader::Error) -> Errno {
    use erofs_reader::Error as E;
    match error {
        E::Corrupt { .. } | E::NotErofs { .. } => os(Os::UCLEAN),
        E::Unsupported { .. } => os(Os::OPNOTSUPP),
        E::NotFound { .. } => Errno::ENOENT,
        E::WrongType {
            expected: FileType::Directory,
            ..
        } => Errno::ENOTDIR,
        E::Io { .. } => {
            let code = error.io_error().and_then(io::Error::raw_os_error);
            code.map_or(Errno::EIO, Errno::from_i32)
        }
        _ => Errno::EIO,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use testkit::{TarBuilder, Walk, walk};

    use super::*;

    fn image(options: &[&str], dir: &Path) -> Option<PathBuf> {
        let mut mkfs = testkit::oracle("mkfs.erofs")?;
        let tar = TarBuilder::new()
            .dir("./")
            .xattr("user.root", "of the root")
            .file("a", vec![b'a'; 3_000_000])
            .xattr("user.one", "1")
            .xattr("trusted.two", vec![2; 3000])
            .link("b", "a")
            .file("empty", "")
            .symlink("link", "a")
            .device("null", b'3', 1, 3)
            .device("disk", b'4', 259, 70_000)
            .finish();
        let tree = dir.join("tree.tar");
        std::fs::write(&tree, tar).unwrap();
        let path = dir.join("image.erofs");
        let status = mkfs
            .args(["--quiet", "--tar=f"])
            .args(options)
            .args([&path, &tree])
            .status();
        assert!(status.unwrap().success());
        Some(path)
    }

    /// The tree of `image` mounted by [`Mount`]'s means.
    fn through_fuse(image: &Path) -> Walk {
        let point = tempfile::tempdir().unwrap();
        let tree = Tree::new(Source::of(image).open().unwrap()).unwrap();
        let session = fuser::spawn_mount(tree, point.path(), &config(image)).unwrap();
        let found = walk(point.path()).unwrap();
        let root = std::fs::symlink_metadata(point.path()).unwrap();
        let many = many_threads_read(point.path());
        session.umount_and_join().unwrap();
        assert!(many.windows(2).all(|pair| pair[0] == pair[1]));
        let opened = Source::of(image).open().unwrap();
        let nid = opened.root().unwrap().nid();
        assert_eq!(std::os::unix::fs::MetadataExt::ino(&root), nid.get());
        found
    }

    /// What each of several threads reads in the middle of a file, at once.
    fn many_threads_read(root: &Path) -> Vec<(u64, u64)> {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let path = root.join("a");
                thread::spawn(move || {
                    testkit::digest(&mut std::fs::File::open(path).unwrap()).unwrap()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    }

    #[test]
    fn a_fuse_mount_shows_what_the_kernels_mount_shows() {
        if !Path::new("/dev/fuse").exists() || !rustix::process::geteuid().is_root() {
            return testkit::skip("/dev/fuse, as root");
        }
        if !testkit::kernel_mounts() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        for options in [
            &["-b4096"][..],
            &["-zlz4", "-C65536"],
            &["-E48bit,dot-omitted"],
        ] {
            let Some(image) = image(options, dir.path()) else {
                return;
            };
            let ours = through_fuse(&image);
            let mount = testkit::Mount::erofs(&image, &[]);
            let theirs = walk(mount.path()).unwrap();
            testkit::Difference::between(&ours, &theirs).assert_none();
        }
    }

    #[test]
    fn every_nid_has_a_number_of_its_own_and_the_roots_is_1() {
        let dir = tempfile::tempdir().unwrap();
        let Some(image) = image(&[], dir.path()) else {
            return;
        };
        let mut tree = Tree::new(Source::of(&image).open().unwrap()).unwrap();
        for root in [0, 1, 36] {
            tree.root = Nid::new(root);
            let mut nodes = std::collections::HashSet::new();
            for nid in [0, 1, 2, 36, 1 << 63, u64::MAX - 1] {
                let node = tree.node(Nid::new(nid));
                assert!(node.0 != 0 && nodes.insert(node.0));
                assert_eq!(node == INodeNo::ROOT, nid == root);
                assert_eq!(tree.nid(node).get(), nid);
            }
        }
    }
}
