//! The tree as a tar stream.

use std::collections::HashMap;
use std::io::Write;

use blockbox_path::BytePath;
use blockbox_tar::encode::{Header, NAME_BYTES, Records, pad};
use blockbox_tar::{BLOCK, Timestamp};

use super::Extracted;
use super::ahead::{self, Stream};
use super::budget::Budget;
use super::sparse::SparseMap;
use crate::error::Error;
use crate::file_type::FileType;
use crate::image::Image;
use crate::inode::Inode;
use crate::nid::Nid;
use crate::num::{narrow, wide};
use crate::progress::Progress;
use crate::read_at::ReadAt;

/// How to write a tar stream.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TarOptions {
    /// Whether holes are left out, as PAX records of GNU tar's sparse format 1.0 describe; on by
    /// default.
    ///
    /// GNU tar, libarchive, Go and Python read that. For others (busybox, `mkfs.erofs --tar`) turn
    /// it off: holes are then written as zeros, however many.
    pub sparse: bool,
    /// How many bytes the archive may have, holes counted as if they were written; any number if
    /// `None`.
    ///
    /// A small image can describe files of any size, all holes: set this where the image is not
    /// trusted.
    pub max_bytes: Option<u64>,
    /// The callback that receives the progress of the extraction.
    pub progress: Option<Progress>,
}

impl Default for TarOptions {
    fn default() -> Self {
        Self {
            sparse: true,
            max_bytes: None,
            progress: None,
        }
    }
}

impl TarOptions {
    /// Sets [`sparse`](Self::sparse).
    #[must_use]
    pub fn sparse(mut self, sparse: bool) -> Self {
        self.sparse = sparse;
        self
    }

    /// Sets [`max_bytes`](Self::max_bytes).
    #[must_use]
    pub fn max_bytes(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.max_bytes = bytes.into();
        self
    }

    /// Sets [`progress`](Self::progress).
    #[must_use]
    pub fn progress(mut self, progress: impl Into<Option<Progress>>) -> Self {
        self.progress = progress.into();
        self
    }
}

/// Writes the tree of `image` to `out` as a tar archive, and its end-of-archive blocks.
///
/// The same image always gives the same bytes. Entries are in the order of [`Image::walk`], the
/// root first as `./`; directories end with a slash; every name of a file but the first is a hard
/// link. Times, owners, sizes, paths and link targets that the ustar header cannot hold, and all
/// xattrs, are PAX records. Holes of 4 KiB and more are left out, as [`TarOptions::sparse`] says.
/// Sockets, which tar cannot hold, are skipped.
///
/// Compressed contents are decoded ahead by as many threads as the machine runs at once; this one
/// writes.
///
/// ```no_run
/// use std::fs::File;
/// use erofs_reader::extract::{TarOptions, extract_to_tar};
/// use erofs_reader::{Buffered, Image};
///
/// let image = Image::open(Buffered::new(File::open("image.erofs")?))?;
/// let tar = File::create("image.tar")?;
/// extract_to_tar(&image, tar, &TarOptions::default())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`Error::At`] where the image is damaged: what was written before is then no whole archive.
/// [`Error::Output`] where `out` fails, [`Error::Limit`] where there is more than
/// `options.max_bytes`.
pub fn extract_to_tar<R: ReadAt + Sync, W: Write>(
    image: &Image<R>,
    out: W,
    options: &TarOptions,
) -> Result<Extracted, Error> {
    ahead::with(image, out, options.progress.clone(), |stream| {
        let mut entries = Entries {
            image,
            options,
            stream,
            budget: Budget::new(options.max_bytes),
            written: HashMap::new(),
            done: Extracted::default(),
        };
        let result = entries.write_all();
        let done = entries.done;
        // An error is reported after the bytes before it.
        stream.flush()?;
        result?;
        stream.bytes(&[], vec![0; BLOCK * 2])?;
        stream.flush()?;
        Ok(done)
    })
}

/// The entries of an archive.
struct Entries<'e, 'a, 'i, R, W> {
    image: &'e Image<R>,
    options: &'e TarOptions,
    stream: &'e mut Stream<'a, 'i, R, W>,
    budget: Budget,
    /// Where the inodes with several names were written.
    written: HashMap<Nid, BytePath>,
    done: Extracted,
}

impl<R: ReadAt + Sync, W: Write> Entries<'_, '_, '_, R, W> {
    fn write_all(&mut self) -> Result<(), Error> {
        self.budget.charge(wide(BLOCK * 2))?;
        for step in self.image.walk() {
            let (path, inode) = step?;
            if inode.file_type() == FileType::Socket {
                self.done.skipped.push(path);
                continue;
            }
            self.done.entries = self.done.entries.saturating_add(1);
            if let Some(first) = self.written.get(&inode.nid()) {
                let link = header(&inode, &path, first, b'1', 0).encode(Records::default());
                self.put(&path, link)?;
                continue;
            }
            if inode.nlink() != 1 && !inode.is_dir() {
                self.written.insert(inode.nid(), path.clone());
            }
            self.write(&path, &inode)?;
            self.stream.meter.add(1, 0);
        }
        Ok(())
    }

    /// Writes the first name of an inode.
    fn write(&mut self, path: &[u8], inode: &Inode) -> Result<(), Error> {
        let mut records = Records::default();
        for (name, value) in self.image.xattrs(inode).map_err(|e| e.of_path(path))? {
            records.add_xattr(&name, &value);
        }
        let mut link = Vec::new();
        let kind = match inode.file_type() {
            FileType::Regular | FileType::Socket => return self.file(path, inode, records),
            FileType::Symlink => {
                link = self.image.read_link(inode).map_err(|e| e.of_path(path))?;
                b'2'
            }
            FileType::CharDevice => b'3',
            FileType::BlockDevice => b'4',
            FileType::Directory => b'5',
            FileType::Fifo => b'6',
        };
        let mut name = path.to_vec();
        if inode.is_dir() {
            if name.is_empty() {
                name.push(b'.');
            }
            name.push(b'/');
        }
        self.put(path, header(inode, &name, &link, kind, 0).encode(records))
    }

    /// Writes a regular file with its contents.
    fn file(&mut self, path: &[u8], inode: &Inode, mut records: Records) -> Result<(), Error> {
        let size = inode.size();
        // Checked before anything is decoded and before a map is made.
        self.budget.charge(size)?;
        self.done.bytes = self.done.bytes.saturating_add(size);
        let map = if self.options.sparse {
            SparseMap::of(self.image, inode).map_err(|e| e.of_path(path))?
        } else {
            None
        };
        let stored = if let Some(map) = &map {
            let mut text = map.encode();
            pad(&mut text);
            let stored = map.stored().saturating_add(wide(text.len()));
            records.add_sparse(path, size);
            let name = sparse_name(path);
            let mut bytes = header(inode, &name, b"", b'0', stored).encode(records);
            bytes.append(&mut text);
            self.put(path, bytes)?;
            stored
        } else {
            self.put(path, header(inode, path, b"", b'0', size).encode(records))?;
            size
        };
        self.stream.contents(path, inode, map.as_ref())?;
        let used = narrow(stored & 511);
        let padding = BLOCK.saturating_sub(used).checked_rem(BLOCK).unwrap_or(0);
        self.put(path, vec![0; padding])
    }

    fn put(&mut self, path: &[u8], bytes: Vec<u8>) -> Result<(), Error> {
        self.budget.charge(wide(bytes.len()))?;
        self.stream.bytes(path, bytes)
    }
}

/// The name of a sparse file for readers without sparse support, cut to the length of a header
/// field. GNU tar writes the same name with the number of its process.
fn sparse_name(path: &[u8]) -> Vec<u8> {
    let base = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let folder = path.strip_suffix(base).unwrap_or_default();
    let mut name = [folder, b"GNUSparseFile.0/", base].concat();
    name.truncate(NAME_BYTES);
    name
}

fn header<'a>(inode: &Inode, path: &'a [u8], link: &'a [u8], kind: u8, size: u64) -> Header<'a> {
    let (secs, nanos) = inode.mtime().into();
    Header {
        path,
        link,
        kind,
        mode: inode.mode().into(),
        uid: inode.uid(),
        gid: inode.gid(),
        size,
        mtime: Timestamp { secs, nanos },
        device: inode.rdev().into(),
    }
}
