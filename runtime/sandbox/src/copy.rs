//! Copies files between this host and a sandbox, with docker's rules for the name and place of a
//! copy.

use std::fs;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;

use blockbox_archive::{FileStat, PackOptions, UnpackOptions, Unpacked};
use blockbox_store::Meter;

use crate::error::{Error, Result};
use crate::sandbox::Sandbox;

/// The size of the copy buffer, in bytes.
const BUFFER: usize = 256 << 10;

/// Options of a copy.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CopyOptions {
    /// Whether copies keep the owners of the originals; otherwise they belong to root in a sandbox,
    /// and to this process's user on the host.
    pub owners: bool,
    /// Whether a source that is a symbolic link is followed.
    pub follow: bool,
    /// Counts the bytes that are copied.
    pub meter: Meter,
}

impl CopyOptions {
    /// Sets [`owners`](Self::owners).
    #[must_use]
    pub fn owners(mut self, owners: bool) -> Self {
        self.owners = owners;
        self
    }

    /// Sets [`follow`](Self::follow).
    #[must_use]
    pub fn follow(mut self, follow: bool) -> Self {
        self.follow = follow;
        self
    }

    /// Sets [`meter`](Self::meter).
    #[must_use]
    pub fn meter(mut self, meter: Meter) -> Self {
        self.meter = meter;
        self
    }
}

impl Sandbox {
    /// Copies the file or the tree at `source` in the sandbox to `target` on this host, whether the
    /// sandbox is running or not. If `target` is a directory, the copy goes into it under its own
    /// name or, if `source` ends in `/.`, the contents of the source go into it; otherwise the copy
    /// is called `target`. Nothing outside `target` is created or changed, whatever the sandbox
    /// contains.
    ///
    /// # Errors
    ///
    /// [`Error::NoFile`], [`Error::NotADirectory`], [`Error::OverFile`]; [`Error::Archive`] if
    /// files cannot be created.
    pub fn copy_out(
        &self,
        source: &[u8],
        target: &Path,
        options: &CopyOptions,
    ) -> Result<Unpacked> {
        let stat = self.stat(source, options.follow)?;
        let stat = stat.ok_or_else(|| Error::no_file(source))?;
        let exists = blockbox_archive::stat(target, true).ok();
        // A link to a file is followed.
        let resolved = match exists {
            Some(found) if !found.is_directory() => fs::canonicalize(target).ok(),
            _ => None,
        };
        let to = resolved.as_deref().unwrap_or(target);
        let place = Place::of(source, stat, to.as_os_str().as_bytes(), exists)?;
        let folder = match &place.folder[..] {
            b"" => PathBuf::from("."),
            folder => Error::path(folder),
        };
        if !folder.is_dir() {
            return Err(Error::NotADirectory(folder));
        }
        let unpack = UnpackOptions::untrusted().owners(options.owners);
        let (reader, writer) = pipe()?;
        thread::scope(|scope| {
            let packing = scope.spawn(move || {
                let out = BufWriter::with_capacity(BUFFER, options.meter.measure(writer));
                self.pack(source, &place.name, options.follow, out)
            });
            let input = BufReader::with_capacity(BUFFER, reader);
            let unpacked = blockbox_archive::unpack(&folder, input, unpack);
            let packed = packing.join().unwrap_or(Ok(()));
            match (packed, unpacked) {
                // The cause of the archive's end is reported before the end itself.
                (Err(error), Err(blockbox_archive::Error::Archive(_)) | Ok(_)) => Err(error),
                (_, unpacked) => Ok(unpacked?),
            }
        })
    }

    /// Copies the file or the tree at `source` on this host to `target` in the sandbox, whether it
    /// is running or not, with the rules of [`copy_out`](Self::copy_out).
    ///
    /// # Errors
    ///
    /// Those of [`unpack`](Self::unpack) and of reading the source.
    pub fn copy_in(&self, source: &Path, target: &[u8], options: &CopyOptions) -> Result<()> {
        let stat = blockbox_archive::stat(source, options.follow)?;
        let exists = self.stat(target, true)?;
        let bytes = source.as_os_str().as_bytes();
        let mut place = Place::of(bytes, stat, target, exists)?;
        if place.folder.is_empty() {
            place.folder = b"/".to_vec();
        }
        let pack = PackOptions::default()
            .name(place.name)
            .follow(options.follow);
        let (reader, writer) = pipe()?;
        thread::scope(|scope| {
            let packing = scope.spawn(move || {
                let mut out = BufWriter::with_capacity(BUFFER, options.meter.measure(writer));
                blockbox_archive::pack(source, &pack, &mut out)?;
                let flushed = out.flush();
                flushed.map_err(blockbox_archive::Error::Output)
            });
            let mut joined = None;
            let mut packing = Some(packing);
            // The reader must not see the archive's end before the archive is known to be complete.
            let input = Whole {
                reader,
                finish: || {
                    let packed = packing.take().map(|thread| thread.join());
                    match packed {
                        Some(Ok(Err(error))) => {
                            let shown = io::Error::other(error.to_string());
                            joined = Some(error);
                            Err(shown)
                        }
                        _ => Ok(()),
                    }
                },
            };
            let unpacked = self.unpack(&place.folder, options.owners, input);
            match (joined, unpacked) {
                (Some(error), _) => Err(error.into()),
                (None, unpacked) => unpacked,
            }
        })
    }
}

/// A stream whose end is reported only if its writer succeeded.
struct Whole<R, F> {
    reader: R,
    finish: F,
}

impl<R: Read, F: FnMut() -> io::Result<()>> Read for Whole<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.reader.read(buffer)? {
            0 if !buffer.is_empty() => (self.finish)().map(|()| 0),
            count => Ok(count),
        }
    }
}

fn pipe() -> Result<(io::PipeReader, io::PipeWriter)> {
    io::pipe().map_err(Error::Input)
}

/// The destination of a copy.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// The directory that the copy is created in; empty if the target names none.
    folder: Vec<u8>,
    /// The copy's name there; empty if the source's contents go into the directory itself.
    name: Vec<u8>,
}

impl Place {
    /// Returns the destination of a copy of `source`. `exists` is the file at `target`.
    fn of(source: &[u8], stat: FileStat, target: &[u8], exists: Option<FileStat>) -> Result<Self> {
        let wants_directory = target.ends_with(b"/") || target.ends_with(b"/.");
        let own = base(source);
        if exists.is_some_and(|found| found.is_directory()) {
            return Ok(Self {
                folder: target.to_vec(),
                name: own.to_vec(),
            });
        }
        let is_directory = stat.is_directory();
        if exists.is_some() && is_directory {
            return Err(Error::OverFile(Error::path(target)));
        }
        if wants_directory && !is_directory {
            return Err(Error::NotADirectory(Error::path(target)));
        }
        let name = base(target);
        if name.is_empty() {
            return Err(Error::no_file(target));
        }
        let trimmed = trimmed(target);
        let folder = trimmed.strip_suffix(name).unwrap_or_default();
        Ok(Self {
            folder: folder.to_vec(),
            name: name.to_vec(),
        })
    }
}

fn trimmed(path: &[u8]) -> &[u8] {
    let mut path = path;
    while let Some(rest) = path.strip_suffix(b"/").or_else(|| path.strip_suffix(b"/.")) {
        path = rest;
    }
    path
}

/// Returns the last name of a path; empty for the contents of a directory (`DIR/.`) and for the
/// root.
fn base(path: &[u8]) -> &[u8] {
    if path.ends_with(b"/.") || matches!(path, b"." | b"..") || path.ends_with(b"/..") {
        return b"";
    }
    let path = trimmed(path);
    path.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use blockbox_archive::FileKind;

    fn place(source: &str, is_directory: bool, target: &str, exists: Option<bool>) -> String {
        let kind = |directory| match directory {
            true => FileKind::Directory,
            false => FileKind::Other,
        };
        let exists = exists.map(|directory| FileStat::new(kind(directory), 0));
        let stat = FileStat::new(kind(is_directory), 0);
        match Place::of(source.as_bytes(), stat, target.as_bytes(), exists) {
            Ok(Place { folder, name }) => format!(
                "{} : {}",
                String::from_utf8(folder).unwrap(),
                String::from_utf8(name).unwrap()
            ),
            Err(Error::OverFile(_)) => "over a file".to_owned(),
            Err(Error::NotADirectory(_)) => "not a directory".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn copies_have_the_name_and_place_that_docker_gives_them() {
        let (yes, no) = (Some(true), Some(false));
        for (source, directory, target, exists, expected) in [
            ("/a/file", false, "/dst", yes, "/dst : file"),
            ("/a/file", false, "/dst/", yes, "/dst/ : file"),
            ("/a/file", false, "/dst/old", no, "/dst/ : old"),
            ("/a/file", false, "/dst/new", None, "/dst/ : new"),
            ("/a/file", false, "new", None, " : new"),
            ("/a/file", false, "/dst/new/", None, "not a directory"),
            ("/a/file", false, "/dst/old/", no, "not a directory"),
            ("/a/dir", true, "/dst", yes, "/dst : dir"),
            ("/a/dir/", true, "/dst", yes, "/dst : dir"),
            ("/a/dir/.", true, "/dst", yes, "/dst : "),
            ("/", true, "/dst", yes, "/dst : "),
            (".", true, "/dst", yes, "/dst : "),
            ("/a/dir", true, "/dst/old", no, "over a file"),
            ("/a/dir", true, "/dst/new", None, "/dst/ : new"),
            ("/a/dir/.", true, "/dst/new/", None, "/dst/ : new"),
        ] {
            let found = place(source, directory, target, exists);
            assert_eq!(found, expected, "{source} to {target}");
        }
    }
}
