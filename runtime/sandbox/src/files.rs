//! The files of a sandbox: its changes, exports, and archives copied into and out of it.
//!
//! The disks of a stopped sandbox are read on the host. For a running sandbox, operations on all
//! files also read the disk on the host, while the guest's file system is frozen; single files are
//! read and written by the guest's init, which also sees mounts.

pub(crate) mod hold;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::thread;

use blockbox_archive::FileStat;
use blockbox_convert::commit::{CommitOptions, Committed};
use blockbox_convert::files::{self, Change, CopyOptions, Sources, View};
use blockbox_convert::image::Image;
use blockbox_store::{Info, atomic};
use blockbox_vmm::guest::{ExitStatus, FileTask};

use crate::error::{Error, Result};
use crate::root::image;
use crate::sandbox::Sandbox;
use hold::{Consistency, Hold};

impl Sandbox {
    /// Lists what changed in the sandbox since its image. The disk of a running sandbox is frozen
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// If a disk cannot be read.
    pub fn changes(&self) -> Result<Vec<Change>> {
        self.with_view(|view, _| Ok(files::changes(view)))
    }

    /// Writes all files to `out` as a tar archive: the image's with the sandbox's changes, without
    /// mounts. The disk of a running sandbox is frozen meanwhile.
    ///
    /// # Errors
    ///
    /// If a disk cannot be read, or `out` fails.
    pub fn export(&self, out: impl Write) -> Result<()> {
        self.with_view(|view, _| {
            let root = files::find(view, b"/", true);
            let root = root.ok_or_else(|| Error::NoFile("/".into()))?;
            Ok(files::write_tree(view, root.node, b"", out)?)
        })
    }

    /// Makes an image from the sandbox's image and one more layer with the sandbox's changes. It
    /// has no name yet. The disk of a running sandbox is frozen meanwhile.
    ///
    /// # Errors
    ///
    /// If a disk cannot be read, or a change of the configuration is unknown.
    pub fn commit(&self, options: &CommitOptions) -> Result<Image> {
        // No other process removes the image before its folder holds its layers.
        let _access = self.store().share()?;
        let committed = self.with_view(|view, info| {
            let image = image(self.store(), &info.spec)?;
            Ok(Committed::read(&image, &info.spec, view, options)?)
        })?;
        // The image is stored only after the disk is known to have been held to the end.
        Ok(committed.store(self.store())?)
    }

    /// Calls `work` with the sandbox's files as they are on its disks, which do not change
    /// meanwhile.
    pub(crate) fn with_view<T>(
        &self,
        act: impl FnOnce(&mut View<'_>, &Info) -> Result<T>,
    ) -> Result<T> {
        let hold = Hold::of(self, Consistency::Frozen)?;
        let sources = self.sources(hold.info())?;
        let mut view = sources.view()?;
        let value = act(&mut view, hold.info())?;
        hold.release()?;
        Ok(value)
    }

    fn sources(&self, info: &Info) -> Result<Sources> {
        let image = image(self.store(), &info.spec)?;
        let upper = (!info.spec.diskless).then(|| self.upper());
        Ok(Sources::open(&image, upper.as_deref())?)
    }

    /// Returns the status of the file at `path` in the sandbox; `None` if it does not exist.
    /// Relative paths begin at the root. A symbolic link at the end is followed with `follow`, or
    /// if the path ends in a slash.
    ///
    /// # Errors
    ///
    /// If the status cannot be read.
    pub fn stat(&self, path: &[u8], follow: bool) -> Result<Option<FileStat>> {
        let path = absolute(path);
        if self.is_up()? {
            let task = FileTask::Stat { path, follow };
            let mut line = Vec::new();
            return match self.task(&task, io::empty(), &mut line) {
                Ok(()) => FileStat::decode(&line)
                    .map(Some)
                    .ok_or_else(|| Error::Copy("the guest's answer is malformed".to_owned())),
                Err(Error::NoFile(_) | Error::NotADirectory(_)) => Ok(None),
                Err(error) => Err(error),
            };
        }
        self.with_view(|view, _| {
            Ok(files::find(view, &path, follow).map(|found| {
                let kind = match (found.is_directory, found.is_symlink) {
                    (true, _) => blockbox_archive::FileKind::Directory,
                    (_, true) => blockbox_archive::FileKind::Symlink,
                    _ => blockbox_archive::FileKind::Other,
                };
                FileStat::new(kind, 0)
            }))
        })
    }

    /// Writes the file or the tree at `path` in the sandbox to `out` as a tar archive, whose root
    /// entry is `name`; if that is empty, the directory's contents. `follow` is as for
    /// [`stat`](Self::stat).
    ///
    /// # Errors
    ///
    /// [`Error::NoFile`]; if `out` fails.
    pub fn pack(&self, path: &[u8], name: &[u8], follow: bool, mut out: impl Write) -> Result<()> {
        let path = absolute(path);
        if self.is_up()? {
            let name = name.to_vec();
            let task = FileTask::Pack { path, name, follow };
            return self.task(&task, io::empty(), &mut out);
        }
        self.with_view(|view, _| {
            let found = files::find(view, &path, follow);
            let found = found.ok_or_else(|| Error::no_file(&path))?;
            Ok(files::write_tree(view, found.node, name, out)?)
        })
    }

    /// Unpacks the tar archive `input` in the directory at `path` in the sandbox: a file replaces
    /// an existing one of its name, an existing directory keeps its contents. Files belong to root
    /// or, with `owners`, to the owners in the archive. The disk of a stopped sandbox is written
    /// anew, and replaces the old one when it is complete.
    ///
    /// # Errors
    ///
    /// [`Error::NoFile`], [`Error::NotADirectory`]; [`Error::Diskless`] if the sandbox is stopped
    /// and has no disk; if the archive cannot be unpacked. In a running sandbox, files that were
    /// unpacked before the error stay.
    pub fn unpack(&self, path: &[u8], owners: bool, input: impl Read + Send) -> Result<()> {
        let path = absolute(path);
        if self.is_up()? {
            let task = FileTask::Unpack { path, owners };
            return self.task(&task, input, &mut io::sink());
        }
        let hold = Hold::of(self, Consistency::Frozen)?;
        if hold.info().spec.diskless {
            return Err(Error::Diskless(self.name().to_owned()));
        }
        let sources = self.sources(hold.info())?;
        let target = {
            let view = sources.view()?;
            let found = files::find(&view, &path, true);
            let found = found.ok_or_else(|| Error::no_file(&path))?;
            if !found.is_directory {
                return Err(Error::NotADirectory(Error::path(&path)));
            }
            found.path
        };
        let disk = self.upper();
        let options = CopyOptions::default().owners(owners);
        let input = BufReader::new(input);
        atomic::write_private(&disk, |file| {
            let out = file.as_file().try_clone().map_err(Error::io(&disk))?;
            Ok::<_, Error>(files::copy_in(&sources, &target, input, options, out)?)
        })?;
        hold.release().map(drop)
    }

    /// Runs a file task in the guest's init.
    fn task(&self, task: &FileTask, input: impl Read + Send, out: &mut dyn Write) -> Result<()> {
        let connection = self.running()?;
        let mut exec = connection.files(task)?;
        let mut complaint = Vec::new();
        let stdin = exec.take_stdin();
        let (copied, status) = thread::scope(|scope| {
            let feeding = stdin.map(|mut stdin| {
                scope.spawn(move || {
                    let mut input = BufReader::with_capacity(256 << 10, input);
                    feed(&mut input, &mut stdin)
                })
            });
            let status = exec.stream(out, &mut complaint);
            let copied = feeding.map(|thread| thread.join());
            (copied, status)
        });
        match status? {
            ExitStatus::Code(0) => {}
            status => {
                complaint.truncate(4096);
                let text = String::from_utf8_lossy(&complaint).into_owned();
                let path = match task {
                    FileTask::Stat { path, .. }
                    | FileTask::Pack { path, .. }
                    | FileTask::Unpack { path, .. } => Error::path(path),
                    _ => Default::default(),
                };
                return Err(match status.code() {
                    FileTask::NOT_FOUND => Error::NoFile(path),
                    FileTask::NOT_A_DIRECTORY => Error::NotADirectory(path),
                    _ if text.is_empty() => Error::Copy(format!("it ended with {status:?}")),
                    _ => Error::Copy(text),
                });
            }
        }
        match copied {
            Some(Ok(Err(error))) => Err(Error::Input(error)),
            _ => Ok(()),
        }
    }
}

/// Copies all of `input`. An error of `out` is ignored, because its reader reports the cause
/// itself.
fn feed(input: &mut impl BufRead, out: &mut impl Write) -> io::Result<()> {
    loop {
        let bytes = match input.fill_buf() {
            Ok([]) => return Ok(()),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let count = bytes.len();
        if out.write_all(bytes).is_err() {
            return Ok(());
        }
        input.consume(count);
    }
}

/// Returns a path from the sandbox's root.
fn absolute(path: &[u8]) -> Vec<u8> {
    match path.first() {
        Some(b'/') => path.to_vec(),
        _ => [b"/", path].concat(),
    }
}
