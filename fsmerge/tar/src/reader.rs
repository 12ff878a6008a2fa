//! Headers to entries: extended headers applied, fields decoded.

use crate::error::{Error, Problem};
use crate::format::known_format;
use crate::header::{self, in_range, number, text};
use crate::limits::Limits;
use crate::pax::{Pax, Timestamp};
use crate::source::{BLOCK, Block, Source};
use crate::sparse::{self, Format, Map};
use ::tar::Header;
use blockbox_path::BytePath;
use std::collections::BTreeMap;
use std::io::BufRead;

/// One entry of an archive. The body of a file, and of an entry of unknown type, comes next in the
/// source.
#[derive(Debug)]
pub struct Entry {
    /// The path as the archive has it.
    pub path: Vec<u8>,
    /// Where its headers begin, in bytes.
    pub offset: u64,
    /// What the entry is.
    pub what: What,
    header: Header,
    pax: Pax,
}

/// What the entry's type says it is.
#[derive(Debug)]
pub enum What {
    /// A directory.
    Directory,
    /// A regular file.
    File(Map),
    /// A hard link, by its target as the archive has it.
    HardLink(Vec<u8>),
    /// A symbolic link, by its target as the archive has it.
    Symlink(Vec<u8>),
    /// A character device.
    CharDevice {
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
    },
    /// A fifo.
    Fifo,
    /// An entry of a type that POSIX and GNU tar do not define.
    Unknown {
        /// The header's `typeflag`.
        kind: u8,
        /// Bytes of its body.
        stored: u64,
    },
}

/// The attributes of an entry: everything but name, type and contents.
#[derive(Debug)]
pub struct Attributes {
    /// The permission bits with set-uid, set-gid and sticky: `0o7777` at most.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The time of the last change of the contents.
    pub mtime: Timestamp,
    /// The extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Something in an archive that is not an entry and that the reader passed over.
#[derive(Debug)]
pub struct Remark {
    /// The name in its header.
    pub path: BytePath,
    /// Where its header begins, in bytes.
    pub offset: u64,
    /// What it is.
    pub kind: RemarkKind,
}

/// The kinds of remark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemarkKind {
    /// A volume label or a part of a multi-volume archive.
    Volume {
        /// The header's `typeflag`.
        kind: u8,
    },
    /// A single block of zeros where two end an archive: what follows is not read, as GNU tar does
    /// not.
    LoneZeroBlock,
}

/// The error for a file that begins with `start`.
fn not_tar(start: &[u8]) -> Error {
    match known_format(start) {
        Some(format) => Error::OtherFormat { format },
        None => Error::NotTar,
    }
}

/// Reads the headers of an archive, front to back.
#[derive(Debug)]
pub struct Reader<R> {
    /// The archive, positioned after the headers of the entry that was read last.
    pub source: Source<R>,
    limits: Limits,
    global: Pax,
    headers: u64,
}

/// The records of the extended headers before the next entry.
#[derive(Default)]
struct Extended {
    pax: Pax,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    /// Where the first of them begins.
    offset: Option<u64>,
}

impl<R: BufRead> Reader<R> {
    /// A reader at the beginning of an archive.
    pub fn new(source: Source<R>, limits: Limits) -> Self {
        Self {
            source,
            limits,
            global: Pax::default(),
            headers: 0,
        }
    }

    /// The next entry; `None` at the end of the archive. The caller has passed over the body of the
    /// last one and its padding. `remark` is called with what is passed over here.
    ///
    /// # Errors
    ///
    /// An archive that cannot be read, is cut off or damaged, or goes beyond the limits.
    pub fn next(&mut self, mut remark: impl FnMut(Remark)) -> Result<Option<Entry>, Error> {
        let mut extended = Extended::default();
        loop {
            let here = self.source.offset();
            let first = here == 0;
            let block = match self.source.block() {
                Err(Error::Truncated { .. }) if first => {
                    return Err(not_tar(self.source.partial()));
                }
                block => block?,
            };
            let Some(block) = block else {
                return Ok(None);
            };
            if header::is_zero(&block) {
                let last = self.end(here, remark)?;
                if first {
                    self.refuse_zeros_of_other_formats(last)?;
                }
                return Ok(None);
            }
            let header = Header::from_byte_slice(&block);
            let offset = *extended.offset.get_or_insert(here);
            let at = |problem| Error::Entry {
                path: header::name(header).into(),
                offset,
                problem,
            };
            if !header::checksum_holds(header) {
                // The magic of POSIX and of GNU begins alike; archives before them have none.
                if first && !block[257..].starts_with(b"ustar") {
                    return Err(not_tar(&block));
                }
                return Err(at(Problem::Checksum));
            }
            self.headers += 1;
            if self.headers > self.limits.entries.into() {
                return Err(at(self.limit("entries", self.limits.entries.into())));
            }
            match header.as_old().linkflag[0] {
                // "X" is what Solaris calls it.
                b'x' | b'X' => {
                    let body = self.extended_body(header, at)?;
                    extended.pax.extend(&body).map_err(at)?;
                }
                b'g' => {
                    let body = self.extended_body(header, at)?;
                    self.global.extend(&body).map_err(at)?;
                    if extended.pax.is_empty() && extended.path.is_none() && extended.link.is_none()
                    {
                        extended.offset = None;
                    }
                }
                b'L' => extended.path = Some(text(&self.extended_body(header, at)?).to_vec()),
                b'K' => extended.link = Some(text(&self.extended_body(header, at)?).to_vec()),
                // Volume label, continuation of another volume's file, long names of before "L".
                kind @ (b'V' | b'M' | b'N') => {
                    remark(Remark {
                        path: header::name(header).into(),
                        offset: here,
                        kind: RemarkKind::Volume { kind },
                    });
                    let pax = self.global.overridden_by(std::mem::take(&mut extended).pax);
                    let size = stored(header, &pax).map_err(at)?;
                    self.source.skip(size)?;
                    self.source.padding(size)?;
                }
                _ => return self.entry(header, offset, extended).map(Some),
            }
        }
    }

    /// A block of zeros ends the archive, whether another follows or not. GNU tar reads one block
    /// more, so this reader does too, and returns it.
    fn end(&mut self, offset: u64, mut remark: impl FnMut(Remark)) -> Result<Option<Block>, Error> {
        let (block, lone) = match self.source.block() {
            Ok(Some(block)) => (Some(block), !header::is_zero(&block)),
            Ok(None) => (None, false),
            Err(Error::Truncated { .. }) => (None, true),
            Err(e) => return Err(e),
        };
        if lone {
            remark(Remark {
                path: BytePath::default(),
                offset,
                kind: RemarkKind::LoneZeroBlock,
            });
        }
        Ok(block)
    }

    /// Images of disks and file systems begin with zeros, as an empty archive does. `second` is the
    /// block after the first.
    fn refuse_zeros_of_other_formats(&mut self, second: Option<Block>) -> Result<(), Error> {
        /// As much as is needed to know any of them.
        const LOOKED_AT: usize = 33 << 10;
        let Some(second) = second else {
            return Ok(());
        };
        let mut start = vec![0; BLOCK];
        start.extend(second);
        while start.len() < LOOKED_AT {
            match self.source.block() {
                Ok(Some(block)) => start.extend(block),
                Ok(None) | Err(Error::Truncated { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        match known_format(&start) {
            Some(format) => Err(Error::OtherFormat { format }),
            None => Ok(()),
        }
    }

    fn extended_body(
        &mut self,
        header: &Header,
        at: impl Fn(Problem) -> Error,
    ) -> Result<Vec<u8>, Error> {
        let size = number(&header.as_old().size, "size")
            .and_then(header::size)
            .map_err(&at)?;
        let limit = self.limits.extended_header_bytes;
        if size > limit {
            return Err(at(self.limit("extended_header_bytes", limit)));
        }
        self.source.body(size)
    }

    fn entry(&mut self, header: &Header, offset: u64, extended: Extended) -> Result<Entry, Error> {
        let pax = self.global.overridden_by(extended.pax);
        // As Go's archive/tar does: GNU's long names over PAX records, the sparse name over both.
        let path = pax.get("GNU.sparse.name").map(<[u8]>::to_vec);
        let path = path
            .or(extended.path)
            .or_else(|| pax.get("path").map(<[u8]>::to_vec))
            .unwrap_or_else(|| header::name(header));
        let link = extended.link;
        match self.what(header, &pax, link, &path)? {
            Ok(what) => Ok(Entry {
                path,
                offset,
                what,
                header: header.clone(),
                pax,
            }),
            Err(problem) => Err(Error::Entry {
                path: path.into(),
                offset,
                problem,
            }),
        }
    }

    fn what(
        &mut self,
        header: &Header,
        pax: &Pax,
        link: Option<Vec<u8>>,
        path: &[u8],
    ) -> Result<Result<What, Problem>, Error> {
        let link = || {
            link.or_else(|| pax.get("linkpath").map(<[u8]>::to_vec))
                .unwrap_or_else(|| text(&header.as_old().linkname).to_vec())
        };
        // What follows is a body only for files, as in Go's archive/tar, which Docker, containerd
        // and umoci read with.
        let what = match header.as_old().linkflag[0] {
            // Before there was a type for directories, their names ended in a slash.
            b'0' | 0 | b'7' if path.ends_with(b"/") => Ok(What::Directory),
            kind @ (b'0' | 0 | b'7' | b'S') => return self.file(header, pax, kind),
            b'1' => Ok(What::HardLink(link())),
            b'2' => Ok(What::Symlink(link())),
            b'3' => device(header, pax).map(|(major, minor)| What::CharDevice { major, minor }),
            b'4' => device(header, pax).map(|(major, minor)| What::BlockDevice { major, minor }),
            b'5' => Ok(What::Directory),
            b'6' => Ok(What::Fifo),
            // GNU's incremental dumps: a directory whose body lists its names.
            b'D' => match stored(header, pax) {
                Ok(size) => {
                    self.source.skip(size)?;
                    self.source.padding(size)?;
                    Ok(What::Directory)
                }
                Err(problem) => Err(problem),
            },
            kind => stored(header, pax).map(|stored| What::Unknown { kind, stored }),
        };
        Ok(what)
    }

    fn file(
        &mut self,
        header: &Header,
        pax: &Pax,
        kind: u8,
    ) -> Result<Result<What, Problem>, Error> {
        let (stored, format) = match (stored(header, pax), sparse::pax_format(pax)) {
            (Ok(stored), Ok(format)) => (stored, format),
            (Err(problem), _) | (_, Err(problem)) => return Ok(Err(problem)),
        };
        let map = match format {
            _ if kind == b'S' => {
                sparse::from_header(&mut self.source, header, stored, &self.limits)?
            }
            Some(Format::Body) => sparse::from_body(&mut self.source, pax, stored, &self.limits)?,
            Some(Format::Records) => sparse::from_records(pax, stored, &self.limits),
            None => Ok(Map::dense(stored)),
        };
        Ok(map.and_then(|map| {
            if map.size > self.limits.file_bytes {
                return Err(self.limit("file_bytes", self.limits.file_bytes));
            }
            Ok(What::File(map))
        }))
    }

    fn limit(&self, name: &'static str, limit: u64) -> Problem {
        Problem::Limit { name, limit }
    }
}

impl Entry {
    /// Returns the attributes of the entry.
    ///
    /// # Errors
    ///
    /// [`Problem::Number`] and [`Problem::PaxValue`].
    pub fn attributes(&self) -> Result<Attributes, Problem> {
        let (old, pax) = (self.header.as_old(), &self.pax);
        let mode: i128 = in_range(number(&old.mode, "mode")?, "mode")?;
        let uid = match pax.number("uid")? {
            Some(uid) => Some(uid),
            None => number(&old.uid, "uid")?,
        };
        let gid = match pax.number("gid")? {
            Some(gid) => Some(gid),
            None => number(&old.gid, "gid")?,
        };
        let mtime = match pax.time("mtime")? {
            Some(mtime) => mtime,
            None => Timestamp {
                secs: in_range(number(&old.mtime, "mtime")?, "mtime")?,
                nanos: 0,
            },
        };
        Ok(Attributes {
            // Some writers leave the type bits in.
            mode: (mode & 0o7777) as u16,
            uid: in_range(uid, "uid")?,
            gid: in_range(gid, "gid")?,
            mtime,
            xattrs: pax.xattrs()?,
        })
    }
}

/// Bytes of the body, padding not counted. The PAX record counts, not the header: an entry could
/// hide in the difference (CVE-2025-62518).
fn stored(header: &Header, pax: &Pax) -> Result<u64, Problem> {
    match pax.number("size")? {
        Some(size) => header::size(Some(size)),
        None => header::size(number(&header.as_old().size, "size")?),
    }
}

fn device(header: &Header, pax: &Pax) -> Result<(u32, u32), Problem> {
    match (
        pax.number("SCHILY.devmajor")?,
        pax.number("SCHILY.devminor")?,
    ) {
        (None, None) => header::device(header),
        (major, minor) => Ok((
            in_range(major, "SCHILY.devmajor")?,
            in_range(minor, "SCHILY.devminor")?,
        )),
    }
}
