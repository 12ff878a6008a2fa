//! The tree as files in a directory.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::CWD;

use super::Extracted;
use super::attributes::{Refused, To, restore};
use super::pieces::{Piece, PieceReader, Pieces};
use super::workers::{self, Queue};
use crate::error::Error;
use crate::image::Image;
use crate::inode::{FileType, Inode, Nid};
use crate::num::narrow;
use crate::read_at::ReadAt;

/// What to restore in a directory.
#[derive(Clone, Debug)]
pub struct DirOptions {
    /// Owners and groups, which takes root.
    pub owners: bool,
    /// Devices, which take root. Skipped if not wanted.
    pub devices: bool,
    /// Xattrs, of which `trusted.*` and `security.*` take root.
    pub xattrs: bool,
    /// How many bytes of file contents may be written, holes included; any number if `None`.
    pub max_bytes: Option<u64>,
}

impl Default for DirOptions {
    /// Everything, as root extracts.
    fn default() -> Self {
        Self {
            owners: true,
            devices: true,
            xattrs: true,
            max_bytes: None,
        }
    }
}

impl DirOptions {
    /// What a user without privileges can restore: no owners, no devices, no xattrs.
    pub fn unprivileged() -> Self {
        Self {
            owners: false,
            devices: false,
            xattrs: false,
            max_bytes: None,
        }
    }
}

/// Writes the tree of `image` into the directory `to`, which must exist and be empty.
///
/// Modes, times to the nanosecond, hard links and holes are restored, and what `options` say. Nothing outside `to` is
/// touched, whatever the image holds: every directory on the way was made here, and no existing name is ever reused.
/// Devices, fifos and sockets are skipped where the system cannot make them, and xattrs where the filesystem does not keep
/// any, or none of that name or size.
///
/// Files' contents are decoded and written by as many threads as the machine runs at once.
///
/// # Errors
///
/// Where the image is damaged; [`Error::Output`] where a file cannot be written, for instance because its path is longer
/// than the system's limit; [`Error::Limit`]. What was written before stays.
pub fn extract_to_dir<R: ReadAt + Sync>(
    image: &Image<R>,
    to: &Path,
    options: &DirOptions,
) -> Result<Extracted, Error> {
    let mut entries = to.read_dir().map_err(|source| at(&[], source))?;
    if entries.next().is_some() {
        return Err(at(&[], io::ErrorKind::DirectoryNotEmpty.into()));
    }
    let mut done = Extracted::default();
    let (dirs, refused) = workers::with(
        || (PieceReader::new(image), Vec::new()),
        |(reader, buffer), jobs: Vec<Job>| {
            let mut refused = Vec::new();
            for job in jobs {
                job.run(image, reader, buffer)?;
                // Whoever is last to write to a file finishes it.
                if let Some(file) = Arc::into_inner(job.file) {
                    let open = To::Open(&file.file);
                    refused.extend(restore(image, &file.inode, &file.path, &open, options)?);
                }
            }
            Ok(refused)
        },
        |queue| make_names(image, to, options, Jobs::new(queue), &mut done),
    )?;
    done.refused_xattrs = refused;
    for (path, target, inode) in dirs.iter().rev() {
        if let Some(refused) = restore(image, inode, path, &To::Named(target), options)? {
            done.refused_xattrs.push(refused);
        }
    }
    done.refused_xattrs.sort();
    Ok(done)
}

/// A file that was made, and waits for its contents and attributes.
struct Contents {
    file: File,
    inode: Inode,
    path: Vec<u8>,
}

/// What one thread is to write to a file.
struct Job {
    file: Arc<Contents>,
    /// These pieces of it, or all of it.
    pieces: Option<Vec<Piece>>,
}

/// Bytes that a file has at least whose pieces are given to several threads, and about as many as each gets at once.
const SHARE: u64 = 4 << 20;

impl Job {
    fn run<'a, R: ReadAt>(
        &self,
        image: &'a Image<R>,
        reader: &mut PieceReader<'a, R>,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let inode = &self.file.inode;
        let Some(pieces) = &self.pieces else {
            for piece in Pieces::new(image, inode)? {
                self.file.write(reader, &piece?, buffer)?;
            }
            return Ok(());
        };
        for piece in pieces {
            self.file.write(reader, piece, buffer)?;
        }
        Ok(())
    }
}

impl Contents {
    fn write<R: ReadAt>(
        &self,
        reader: &mut PieceReader<'_, R>,
        piece: &Piece,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let output = |source| at(&self.path, source);
        if !piece.is_hole() {
            buffer.resize(narrow(piece.length), 0);
            reader.read(&self.inode, piece, buffer)?;
            return self.file.write_all_at(buffer, piece.start).map_err(output);
        }
        // A file ends where it was last written to, or where it is said to.
        if piece.start.saturating_add(piece.length) == self.inode.size() {
            self.file.set_len(self.inode.size()).map_err(output)?;
        }
        Ok(())
    }
}

/// Files that a thread gets at once where they are small, and bytes of them: handing each over by itself would cost as much as
/// writing it.
const TOGETHER: usize = 16;
const BYTES_TOGETHER: u64 = 1 << 20;

/// Files on their way to the threads.
struct Jobs<'a> {
    queue: &'a Queue<'a, Vec<Job>, Refused>,
    small: Vec<Job>,
    bytes: u64,
}

impl<'a> Jobs<'a> {
    fn new(queue: &'a Queue<'a, Vec<Job>, Refused>) -> Self {
        Self {
            queue,
            small: Vec::new(),
            bytes: 0,
        }
    }

    /// Gives a file to the threads, soon, a large one in parts. False where one has failed.
    fn send<R: ReadAt>(&mut self, image: &Image<R>, file: Contents) -> Result<bool, Error> {
        let inode = file.inode;
        let file = Arc::new(file);
        if inode.size() < SHARE {
            self.small.push(Job { file, pieces: None });
            self.bytes = self.bytes.saturating_add(inode.size());
            let enough = self.small.len() >= TOGETHER || self.bytes >= BYTES_TOGETHER;
            return Ok(!enough || self.flush());
        }
        let mut pieces = Vec::new();
        let mut share = 0_u64;
        for piece in Pieces::new(image, &inode)? {
            let piece = piece?;
            share = share.saturating_add(if piece.is_hole() { 0 } else { piece.length });
            pieces.push(piece);
            if share >= SHARE {
                share = 0;
                let job = Job {
                    file: Arc::clone(&file),
                    pieces: Some(std::mem::take(&mut pieces)),
                };
                if !self.queue.send(vec![job]) {
                    return Ok(false);
                }
            }
        }
        let pieces = Some(pieces);
        Ok(self.queue.send(vec![Job { file, pieces }]))
    }

    /// Gives the small files away that there are. False where a thread has failed.
    fn flush(&mut self) -> bool {
        self.bytes = 0;
        self.queue.send(std::mem::take(&mut self.small))
    }
}

type Directory = (Vec<u8>, PathBuf, Inode);

/// Makes every name of the tree, and sends files to `files` to be filled. Returns the directories, which get their
/// attributes last: a read-only one could not be filled, and filling changes its time.
fn make_names<R: ReadAt>(
    image: &Image<R>,
    to: &Path,
    options: &DirOptions,
    mut files: Jobs<'_>,
    done: &mut Extracted,
) -> Result<Vec<Directory>, Error> {
    let mut written: HashMap<Nid, PathBuf> = HashMap::new();
    let mut dirs = Vec::new();
    for step in image.walk() {
        let (path, inode) = step?;
        let target = to.join(OsStr::from_bytes(&path));
        let output = |source| at(&path, source);
        if let Some(first) = written.get(&inode.nid()) {
            fs::hard_link(first, &target).map_err(output)?;
            done.entries = done.entries.saturating_add(1);
            continue;
        }
        match inode.file_type() {
            FileType::Directory => {
                if !path.is_empty() {
                    let mut builder = fs::DirBuilder::new();
                    builder.mode(0o700).create(&target).map_err(output)?;
                }
                dirs.push((path, target, inode));
                done.entries = done.entries.saturating_add(1);
                continue;
            }
            FileType::Regular => {
                done.charge(inode.size(), options.max_bytes)?;
                let file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&target)
                    .map_err(output)?;
                if inode.nlink() != 1 {
                    written.insert(inode.nid(), target.clone());
                }
                done.entries = done.entries.saturating_add(1);
                if !files.send(image, Contents { file, inode, path })? {
                    return Ok(dirs);
                }
                continue;
            }
            FileType::Symlink => {
                let link = image.read_link(&inode)?;
                std::os::unix::fs::symlink(OsStr::from_bytes(&link), &target).map_err(output)?;
            }
            FileType::CharDevice | FileType::BlockDevice if !options.devices => {
                done.skipped.push(path);
                continue;
            }
            FileType::CharDevice | FileType::BlockDevice | FileType::Fifo | FileType::Socket => {
                match make_node(&target, &inode) {
                    Ok(()) => {}
                    Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                        done.skipped.push(path);
                        continue;
                    }
                    Err(e) => return Err(output(e)),
                }
            }
        }
        files
            .queue
            .keep(restore(image, &inode, &path, &To::Named(&target), options)?);
        done.entries = done.entries.saturating_add(1);
        if inode.nlink() != 1 {
            written.insert(inode.nid(), target);
        }
    }
    files.flush();
    Ok(dirs)
}

pub(super) fn at(path: &[u8], source: io::Error) -> Error {
    Error::Output {
        path: path.to_vec(),
        source,
    }
}

/// Makes a device, fifo or socket.
#[cfg(not(target_vendor = "apple"))]
fn make_node(target: &Path, inode: &Inode) -> io::Result<()> {
    use rustix::fs::{FileType as Kind, Mode};
    let kind = match inode.file_type() {
        FileType::CharDevice => Kind::CharacterDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let (major, minor) = inode.rdev();
    let device = rustix::fs::makedev(major, minor);
    rustix::fs::mknodat(CWD, target, kind, Mode::from_raw_mode(0o600), device)?;
    Ok(())
}

/// macOS has no `mknodat`.
#[cfg(target_vendor = "apple")]
fn make_node(_: &Path, _: &Inode) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
