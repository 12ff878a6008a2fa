//! The work of one thread: creating names with contents and attributes, and writing parts of large
//! files.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use blockbox_path::BytePath;
use rustix::fs::{Mode, OFlags, RawMode, openat, symlinkat};

use super::attributes::{CREATED_WITH, NewFiles, Refused, Restored, restore};
use super::folders::Folders;
use super::input::room;
use super::pieces::{Piece, PieceReader, Pieces};
use super::terms::{Terms, at};
use crate::error::Error;
use crate::image::Image;
use crate::inode::Inode;
use crate::read_at::ReadAt;

/// A job for a thread.
pub(super) enum Job {
    /// Names to create, with contents and attributes. None is a directory.
    Names(Vec<(BytePath, Inode)>),
    /// A part of a large file.
    Pieces(Arc<Large>, Vec<Piece>),
}

/// An event to report for an extracted name.
pub(super) enum ExtractEvent {
    Refused(Refused),
    Skipped(BytePath),
}

/// A file that was made, and that several threads write to.
pub(super) struct Large {
    pub(super) file: File,
    pub(super) inode: Inode,
    pub(super) path: BytePath,
}

/// The state of a thread.
pub(super) struct Worker<'a, R> {
    image: &'a Image<R>,
    terms: &'a Terms<'a>,
    to: &'a Path,
    folders: Folders<'a>,
    reader: PieceReader<'a, R>,
    buffer: Vec<u8>,
    new_files: NewFiles,
}

impl<'a, R: ReadAt> Worker<'a, R> {
    /// A thread that extracts into the directory `to`, which is open as `root`.
    pub(super) fn new(
        image: &'a Image<R>,
        terms: &'a Terms<'a>,
        to: &'a Path,
        root: BorrowedFd<'a>,
    ) -> Self {
        Self {
            image,
            terms,
            to,
            folders: Folders::new(root),
            reader: PieceReader::new(image),
            buffer: Vec::new(),
            new_files: NewFiles::default(),
        }
    }

    pub(super) fn run(&mut self, job: Job) -> Result<Vec<ExtractEvent>, Error> {
        let mut events = Vec::new();
        match job {
            Job::Names(names) => {
                for (path, inode) in names {
                    let made = self.make(&path, &inode);
                    events.extend(made.map_err(|e| e.of_path(&path))?);
                    let bytes = if inode.is_file() { inode.size() } else { 0 };
                    self.terms.meter.add(1, bytes);
                }
            }
            Job::Pieces(large, pieces) => {
                let Large { file, inode, path } = &*large;
                for piece in &pieces {
                    let written = self.write(file, inode, path, piece);
                    written.map_err(|e| e.of_path(path))?;
                    self.terms.meter.add(0, piece.length);
                }
                // The last thread that writes to a file finishes it.
                if let Some(Large { file, inode, path }) = Arc::into_inner(large) {
                    let original = self.new_files.attributes_of(&file, &inode);
                    let to = Restored::Open(&file, original.map_err(|e| at(&path, e))?);
                    let refused = restore(self.image, &inode, &path, &to, self.terms);
                    let refused = refused.map_err(|e| e.of_path(&path))?;
                    events.extend(refused.map(ExtractEvent::Refused));
                    self.terms.meter.add(1, 0);
                }
            }
        }
        Ok(events)
    }

    fn make(&mut self, path: &[u8], inode: &Inode) -> Result<Option<ExtractEvent>, Error> {
        if inode.is_file() {
            let file = create(&mut self.folders, path, inode)?;
            for piece in Pieces::new(self.image, inode)? {
                self.write(&file, inode, path, &piece?)?;
            }
            let original = self
                .new_files
                .attributes_of(&file, inode)
                .map_err(|e| at(path, e))?;
            let to = Restored::Open(&file, original);
            let refused = restore(self.image, inode, path, &to, self.terms)?;
            return Ok(refused.map(ExtractEvent::Refused));
        }
        let output = |e: io::Error| at(path, e);
        let (dir, name) = self.folders.find(path).map_err(|e| output(e.into()))?;
        if inode.is_symlink() {
            let link = self.image.read_link(inode)?;
            symlinkat(link, dir, name).map_err(|e| output(e.into()))?;
        } else {
            match make_node(dir, name, inode) {
                Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                    return Ok(Some(ExtractEvent::Skipped(path.into())));
                }
                made => made.map_err(output)?,
            }
        }
        let whole = self.to.join(std::ffi::OsStr::from_bytes(path));
        let to = Restored::Named(dir, name, &whole);
        let refused = restore(self.image, inode, path, &to, self.terms)?;
        Ok(refused.map(ExtractEvent::Refused))
    }

    fn write(
        &mut self,
        file: &File,
        inode: &Inode,
        path: &[u8],
        piece: &Piece,
    ) -> Result<(), Error> {
        let output = |source| at(path, source);
        if !piece.is_hole() {
            let bytes = room(&mut self.buffer, piece.length);
            self.reader.read(inode, piece, bytes)?;
            return file.write_all_at(bytes, piece.start).map_err(output);
        }
        // A file ends where it was last written to, so a hole at its end needs an explicit length.
        if piece.start.saturating_add(piece.length) == inode.size() {
            file.set_len(inode.size()).map_err(output)?;
        }
        Ok(())
    }
}

/// Makes a regular file, empty, where there is nothing yet.
pub(super) fn create(folders: &mut Folders<'_>, path: &[u8], inode: &Inode) -> Result<File, Error> {
    let mode = Mode::from_raw_mode(RawMode::from(inode.mode() & CREATED_WITH));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = folders
        .find(path)
        .and_then(|(dir, name)| openat(dir, name, flags, mode));
    made.map(File::from).map_err(|e| at(path, e.into()))
}

/// Makes a device, fifo or socket.
#[cfg(not(target_vendor = "apple"))]
fn make_node(dir: BorrowedFd<'_>, name: &[u8], inode: &Inode) -> io::Result<()> {
    use rustix::fs::FileType as Kind;

    use crate::file_type::FileType;

    let kind = match inode.file_type() {
        FileType::CharDevice => Kind::CharacterDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let number = inode.rdev();
    let device = rustix::fs::makedev(number.major, number.minor);
    rustix::fs::mknodat(dir, name, kind, Mode::from_raw_mode(0o600), device)?;
    Ok(())
}

/// macOS has no `mknodat`.
#[cfg(target_vendor = "apple")]
fn make_node(_: BorrowedFd<'_>, _: &[u8], _: &Inode) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
