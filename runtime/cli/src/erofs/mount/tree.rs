//! Answers the kernel's FUSE requests from an image.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use erofs_reader::{DirEntry, FileType, Image, Inode, Nid, ReadAt};
use fuser::{
    Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use rustix::io::Errno as Os;

/// How long the kernel may cache answers: the image never changes.
const FOREVER: Duration = Duration::from_secs(1 << 30);

/// The longest read to answer, in bytes: the kernel's requests are shorter.
const LONGEST_READ: u32 = 16 << 20;

thread_local! {
    /// A thread's read buffer.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
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
pub(super) struct Tree<R> {
    image: Image<R>,
    pub(super) root: Nid,
    /// Listings of open directories, so that a large one is read once.
    open: Mutex<HashMap<u64, Listing>>,
    next_handle: AtomicU64,
    /// Whether files need not be opened.
    without_open: bool,
}

impl<R: ReadAt> Tree<R> {
    pub(super) fn new(image: Image<R>) -> Result<Self, erofs_reader::Error> {
        let root = image.root()?.nid();
        Ok(Self {
            image,
            root,
            open: Mutex::default(),
            next_handle: AtomicU64::new(1),
            without_open: false,
        })
    }

    /// Returns the FUSE number of an inode: its nid. FUSE reserves 1 for the root and 0 for no
    /// inode, so nid 1 gets the root's number, and nid 0 (or 1, if the root's nid is 0) gets the
    /// largest number, which no inode can have.
    pub(super) fn node(&self, nid: Nid) -> INodeNo {
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
    pub(super) fn nid(&self, node: INodeNo) -> Nid {
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
        let (major, minor) = inode.rdev().into();
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
        let entry = self.image.child(&parent, name).map_err(errno)?;
        entry
            .map(|entry| self.image.inode(entry.nid).map_err(errno))
            .transpose()
    }

    fn list(&self, node: INodeNo) -> Result<Listing, Errno> {
        let directory = self.inode(node)?;
        let parent = self.image.child(&directory, b"..").map_err(errno)?;
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
                name: name.into(),
                node: self.node(nid),
                kind: kind(file_type),
            });
        }
        Ok(Arc::new(entries))
    }

    /// Reads into `buffer`, which grows only if needed, and returns the bytes read.
    fn read_file<'b>(
        &self,
        node: INodeNo,
        offset: u64,
        size: u32,
        buffer: &'b mut Vec<u8>,
    ) -> Result<&'b [u8], Errno> {
        let inode = self.inode(node)?;
        let file = self.image.file(&inode).map_err(errno)?;
        let left = file.size().saturating_sub(offset);
        let wanted = usize::try_from(left.min(size.min(LONGEST_READ).into())).unwrap_or(0);
        if buffer.len() < wanted {
            buffer.resize(wanted, 0);
        }
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            match file.read_at(&mut buffer[done..wanted], at).map_err(errno)? {
                0 => break,
                n => done += n,
            }
        }
        Ok(&buffer[..done])
    }

    /// Returns the attributes to report with an entry's name, and how long they hold. For a damaged
    /// inode only its existence is reported, so that the kernel asks again when a program reads its
    /// attributes.
    fn entry(&self, entry: &DirEntryOf) -> (FileAttr, Duration) {
        match self.inode(entry.node) {
            Ok(inode) => (self.attributes(&inode), FOREVER),
            Err(_) => (unknown(entry), Duration::ZERO),
        }
    }

    fn directories(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Listing>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: ReadAt + Send + Sync + 'static> Filesystem for Tree<R> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Each flag is requested only if the kernel supports it. With ACLs, the kernel enforces
        // them.
        for flag in [
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_EXPORT_SUPPORT,
            // Listed names are mostly looked up next.
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
        ] {
            let _ = config.add_capabilities(flag);
        }
        let capabilities = config.capabilities();
        self.without_open = capabilities.contains(InitFlags::FUSE_NO_OPEN_SUPPORT);
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
                // Only `stat` shows this number.
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
        if self.without_open {
            // From now on the kernel opens and closes files without a request, and keeps its cache
            // of their contents.
            return reply.error(Errno::ENOSYS);
        }
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
        BUFFER.with_borrow_mut(|buffer| match self.read_file(node, offset, size, buffer) {
            Ok(bytes) => reply.data(bytes),
            Err(e) => reply.error(e),
        });
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

    fn readdirplus(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let Some(listing) = self.directories().get(&handle.0).cloned() else {
            return reply.error(Errno::EBADF);
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (entry, next) in listing.iter().zip(1..).skip(from) {
            let (attributes, ttl) = self.entry(entry);
            let name = OsStr::from_bytes(&entry.name);
            if reply.add(entry.node, next, name, &ttl, &attributes, Generation(0)) {
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
                    // As in the kernel: users who may not read these attributes do not see them.
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

/// Replies with `bytes`, or with their number if `size` is 0.
fn answer(bytes: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match bytes.map(|bytes| (u32::try_from(bytes.len()), bytes)) {
        Ok((Ok(length), _)) if size == 0 => reply.size(length),
        Ok((Ok(length), bytes)) if length <= size => reply.data(&bytes),
        Ok(_) => reply.error(Errno::ERANGE),
        Err(e) => reply.error(e),
    }
}

/// Returns the attributes that are known from an entry alone.
fn unknown(entry: &DirEntryOf) -> FileAttr {
    FileAttr {
        ino: entry.node,
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: entry.kind,
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 512,
        flags: 0,
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

/// Returns an inode's time; the epoch if the system cannot represent it.
fn time(inode: &Inode) -> SystemTime {
    let (seconds, nanoseconds) = inode.mtime().into();
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

/// Returns the kernel's error number for the same damage.
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
