//! A folder or a tar archive as files by name: what layouts and `docker save` archives are read through.

use std::collections::HashMap;
use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::members::{self, Member, normal};
use crate::{Error, SourceProblem};

/// Files by their name relative to a root, with `/` between folders.
pub(crate) trait Tree: Debug + Send + Sync {
    /// Opens the regular file `name`, and says how many bytes it has.
    fn open(&self, name: &str) -> Result<(Box<dyn Read + Send>, u64), Error>;

    /// The folder or archive.
    fn path(&self) -> &Path;
}

/// A folder.
#[derive(Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Tree for Folder {
    fn open(&self, name: &str) -> Result<(Box<dyn Read + Send>, u64), Error> {
        let path = self.0.join(name);
        let failed = |source| Error::Io {
            path: path.clone(),
            source,
        };
        // Asked before opening: opening a pipe would wait for its other end.
        let meta = path.metadata().map_err(failed)?;
        if !meta.is_file() {
            let problem = SourceProblem::NotAFile(name.to_owned());
            return Err(Error::InvalidSource {
                path: self.0.clone(),
                problem,
            });
        }
        let file = File::open(&path).map_err(failed)?;
        Ok((Box::new(Named { file, path }), meta.len()))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

/// A file whose errors say its name.
#[derive(Debug)]
struct Named {
    file: File,
    path: PathBuf,
}

impl Read for Named {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer).map_err(|source| {
            Error::Io {
                path: self.path.clone(),
                source,
            }
            .into()
        })
    }
}

/// A tar archive whose members were located in one scan; nothing is unpacked.
#[derive(Debug)]
pub(crate) struct Archive {
    path: PathBuf,
    members: HashMap<String, Member>,
}

/// How many links lead to a file at most, as in Linux's path walk.
const MAX_LINKS: usize = 40;

impl Archive {
    pub(crate) fn scan(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        if !path.metadata().map_err(failed)?.is_file() {
            let problem = SourceProblem::NotAFile(path.display().to_string());
            return Err(Error::InvalidSource {
                path: path.to_owned(),
                problem,
            });
        }
        let mut file = File::open(path).map_err(failed)?;
        let mut magic = Vec::new();
        file.by_ref()
            .take(4)
            .read_to_end(&mut magic)
            .map_err(failed)?;
        let invalid = |problem| Error::InvalidSource {
            path: path.to_owned(),
            problem,
        };
        if let Some(name) = crate::compression::compressed(&magic) {
            return Err(invalid(SourceProblem::Compressed(name)));
        }
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let members = members::scan(file)
            .map_err(|error| invalid(SourceProblem::NotTar(error.to_string())))?;
        Ok(Self {
            path: path.to_owned(),
            members,
        })
    }

    /// The file that `name` leads to.
    fn find(&self, name: &str) -> Result<(u64, u64), SourceProblem> {
        let mut at = name;
        for _ in 0..MAX_LINKS {
            match self.members.get(at) {
                Some(&Member::File { offset, size }) => return Ok((offset, size)),
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
        let (offset, size) = self.find(&plain).map_err(|problem| Error::InvalidSource {
            path: self.path.clone(),
            problem,
        })?;
        let failed = |source| Error::Io {
            path: self.path.clone(),
            source,
        };
        // A file of its own, so that several members can be read at once.
        let mut file = File::open(&self.path).map_err(failed)?;
        file.seek(SeekFrom::Start(offset)).map_err(failed)?;
        let named = Named {
            file,
            path: self.path.clone(),
        };
        Ok((Box::new(named.take(size)), size))
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// All of the file `name`, at most `limit` bytes; `None` where there is none.
pub(crate) fn read_small(
    tree: &dyn Tree,
    name: &str,
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
        return Err(Error::TooLarge {
            document: crate::Document::Index,
            limit,
        });
    }
    Ok(Some(bytes))
}

/// The JSON file `name`, at most `limit` bytes; `kind` is what the tree is not without it.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(
    tree: &dyn Tree,
    kind: &'static str,
    name: &str,
    limit: u64,
) -> Result<T, Error> {
    let file = name.to_owned();
    let invalid = |problem| Error::InvalidSource {
        path: tree.path().to_owned(),
        problem,
    };
    let Some(bytes) = read_small(tree, name, limit)? else {
        return Err(invalid(SourceProblem::Missing { kind, file }));
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        invalid(SourceProblem::Json {
            file,
            problem: error.to_string(),
        })
    })
}

pub(crate) type SharedTree = Arc<dyn Tree>;
