//! A folder or a tar archive as files by name: how layouts, `docker save` archives and skopeo's
//! directories are read.

use std::collections::HashMap;
use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blockbox_files::open_regular;

use crate::members::{self, Body, Member, normal};
use crate::{Document, Error, SourceProblem, json};

/// Files by their name relative to a root, with `/` between folders.
pub(crate) trait Tree: Debug + Send + Sync {
    /// Opens the regular file `name`. Returns it with its size in bytes.
    fn open(&self, name: &str) -> Result<(Box<dyn Read + Send>, u64), Error>;

    /// The folder or archive.
    fn path(&self) -> &Path;
}

pub(crate) type SharedTree = Arc<dyn Tree>;

/// A folder. Symlinks in it are followed wherever they lead: Bazel makes layouts of links to its
/// cache.
#[derive(Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Tree for Folder {
    fn open(&self, name: &str) -> Result<(Box<dyn Read + Send>, u64), Error> {
        let path = self.0.join(name);
        let failed = |source| Error::Io {
            path: path.clone(),
            source,
        };
        let file = match open_regular(&path) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Err(Error::InvalidSource {
                    path: self.0.clone(),
                    problem: SourceProblem::NotAFile(name.to_owned()),
                });
            }
            file => file.map_err(failed)?,
        };
        let size = file.metadata().map_err(failed)?.len();
        Ok((Box::new(Named { file, path }), size))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

/// A file whose errors name it.
#[derive(Debug)]
struct Named {
    file: File,
    path: PathBuf,
}

impl Read for Named {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer).map_err(|source| {
            let path = self.path.clone();
            Error::Io { path, source }.into()
        })
    }
}

/// A tar archive whose members were located in one scan; nothing is unpacked.
#[derive(Debug)]
pub(crate) struct Archive {
    path: PathBuf,
    file: Arc<File>,
    members: HashMap<String, Member>,
}

/// The most links on the way to a file, as in Linux's path walk.
const MAX_LINKS: usize = 40;

impl Archive {
    /// Locates the members of `file`, an uncompressed archive that errors call `path`.
    pub(crate) fn scan(file: File, path: &Path) -> Result<Self, Error> {
        let path = path.to_owned();
        let members = members::scan(&file).map_err(|error| match error {
            blockbox_tar::Error::Io { source, .. } => Error::Io {
                path: path.clone(),
                source,
            },
            other => Error::InvalidSource {
                path: path.clone(),
                problem: match other {
                    blockbox_tar::Error::Truncated { offset } => SourceProblem::CutOff(offset),
                    blockbox_tar::Error::NotTar => SourceProblem::NoArchive,
                    blockbox_tar::Error::OtherFormat { format } => {
                        SourceProblem::OtherFormat(format)
                    }
                    other => SourceProblem::NotTar(other.to_string()),
                },
            },
        })?;
        let file = Arc::new(file);
        Ok(Self {
            path,
            file,
            members,
        })
    }

    /// The file that `name` leads to.
    fn find(&self, name: &str) -> Result<&Body, SourceProblem> {
        let mut at = name;
        for _ in 0..MAX_LINKS {
            match self.members.get(at) {
                Some(Member::File(body)) => return Ok(body),
                Some(Member::Link(target)) => at = target,
                Some(Member::Other) => return Err(SourceProblem::NotAFile(name.to_owned())),
                None => {
                    let file = name.to_owned();
                    return Err(SourceProblem::Missing {
                        kind: "a complete image archive",
                        file,
                    });
                }
            }
        }
        Err(SourceProblem::Links(name.to_owned()))
    }
}

impl Tree for Archive {
    fn open(&self, name: &str) -> Result<(Box<dyn Read + Send>, u64), Error> {
        let plain = normal("", name).unwrap_or_default();
        let body = self.find(&plain).map_err(|problem| Error::InvalidSource {
            path: self.path.clone(),
            problem,
        })?;
        let reader = MemberReader {
            path: self.path.clone(),
            file: self.file.clone(),
            offset: body.offset,
            ranges: body.map.ranges.clone(),
            range: 0,
            position: 0,
            size: body.map.size,
        };
        Ok((Box::new(reader), body.map.size))
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// Reads one member, holes as zeros. Reads at positions of its own, so that several members can be
/// read at once.
#[derive(Debug)]
struct MemberReader {
    path: PathBuf,
    file: Arc<File>,
    /// Where the next stored byte lies.
    offset: u64,
    ranges: Vec<(u64, u64)>,
    /// Which of `ranges` is at the position or comes next.
    range: usize,
    position: u64,
    size: u64,
}

impl MemberReader {
    /// Whether data is at the position, not a hole, and for how many bytes. 0 at the end.
    fn run(&mut self) -> (bool, u64) {
        while let Some(&(start, len)) = self.ranges.get(self.range) {
            if self.position < start {
                return (false, start - self.position);
            }
            let left = (start + len).saturating_sub(self.position);
            if left > 0 {
                return (true, left);
            }
            self.range += 1;
        }
        (false, self.size.saturating_sub(self.position))
    }
}

impl Read for MemberReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (data, len) = self.run();
        let wanted = usize::try_from(len).map_or(buffer.len(), |len| len.min(buffer.len()));
        let buffer = &mut buffer[..wanted];
        if data && wanted > 0 {
            let read = match read_at(&self.file, buffer, self.offset) {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                other => other,
            };
            let read = read.map_err(|source| {
                let path = self.path.clone();
                io::Error::from(Error::Io { path, source })
            })?;
            self.offset += read as u64;
            self.position += read as u64;
            return Ok(read);
        }
        buffer.fill(0);
        self.position += wanted as u64;
        Ok(wanted)
    }
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

/// All of the file `name`, at most `limit` bytes; `None` if it does not exist.
pub(crate) fn read_small(
    tree: &dyn Tree,
    name: &str,
    document: Document,
    limit: u64,
) -> Result<Option<Vec<u8>>, Error> {
    let (reader, _) = match tree.open(name) {
        Ok(open) => open,
        Err(Error::InvalidSource {
            problem: SourceProblem::Missing { .. },
            ..
        }) => return Ok(None),
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    reader
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| match error.downcast() {
            Ok(error) => error,
            Err(source) => Error::Io {
                path: tree.path().join(name),
                source,
            },
        })?;
    if bytes.len() as u64 > limit {
        return Err(Error::TooLarge { document, limit });
    }
    Ok(Some(bytes))
}

/// As [`read_small`], but a file that does not exist is an error; without it, the tree is not
/// `kind`.
pub(crate) fn read_needed(
    tree: &dyn Tree,
    kind: &'static str,
    name: &str,
    document: Document,
    limit: u64,
) -> Result<Vec<u8>, Error> {
    if let Some(bytes) = read_small(tree, name, document, limit)? {
        return Ok(bytes);
    }
    let path = tree.path().to_owned();
    if !path.exists() {
        return Err(Error::Io {
            path,
            source: io::Error::new(io::ErrorKind::NotFound, "no such folder"),
        });
    }
    let file = name.to_owned();
    let problem = SourceProblem::Missing { kind, file };
    Err(Error::InvalidSource { path, problem })
}

/// The JSON file `name`, at most `limit` bytes; without it, the tree is not `kind`.
pub(crate) fn read_json<T: json::Tolerant>(
    tree: &dyn Tree,
    kind: &'static str,
    name: &str,
    limit: u64,
) -> Result<T, Error> {
    let bytes = read_needed(tree, kind, name, Document::Index, limit)?;
    json::parse(&bytes).map_err(|error| Error::InvalidSource {
        path: tree.path().to_owned(),
        problem: SourceProblem::Json {
            file: name.to_owned(),
            problem: error.to_string(),
        },
    })
}
