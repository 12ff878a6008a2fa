//! Image archives that cannot be read in place: compressed as a whole, or from standard input. They
//! go to an unnamed temporary file first.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::compression::Compression;
use crate::tree::Archive;
use crate::{Error, Event, Events, Options, SourceProblem, decompress_bounded};
use blockbox_files::open_regular;

/// The name of standard input in a reference.
pub(crate) const STDIN: &str = "-";

/// Opens the archive `path`, or standard input if that is `-`, whatever its compression.
pub(crate) fn open_archive(path: &Path, options: &Options) -> Result<Archive, Error> {
    if path.as_os_str() == STDIN {
        return from_stdin(options);
    }
    let failed = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let mut file = match open_regular(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            return Err(Error::InvalidSource {
                path: path.to_owned(),
                problem: SourceProblem::NotAFile(path.display().to_string()),
            });
        }
        file => file.map_err(failed)?,
    };
    let mut start = Vec::new();
    (&file).take(16).read_to_end(&mut start).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    if Compression::sniff(&start) != Compression::None {
        let size = file.metadata().map_err(failed)?.len();
        file = decompressed(file, path, options.limit(size), options)?;
    }
    Archive::scan(file, path)
}

fn from_stdin(options: &Options) -> Result<Archive, Error> {
    let path = Path::new("standard input");
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(Error::InvalidSource {
            path: path.to_owned(),
            problem: SourceProblem::Terminal,
        });
    }
    let file = decompressed(stdin, path, options.max_layer_bytes, options)?;
    Archive::scan(file, path)
}

/// The uncompressed bytes of `input`, at most `limit` of them, in a temporary file. Errors call the
/// input `path`.
fn decompressed(
    input: impl Read + Send + 'static,
    path: &Path,
    limit: u64,
    options: &Options,
) -> Result<File, Error> {
    let place = |error| match error {
        Error::Compression {
            compression,
            source,
            ..
        } => Error::InvalidSource {
            path: path.to_owned(),
            problem: SourceProblem::BadCompression {
                compression,
                problem: source.to_string(),
            },
        },
        Error::Bomb { limit, .. } => Error::InvalidSource {
            path: path.to_owned(),
            problem: SourceProblem::TooLong { limit },
        },
        Error::Read { source } => Error::Io {
            path: path.to_owned(),
            source,
        },
        other => other,
    };
    let mut plain = decompress_bounded(input, limit).map_err(place)?;
    let mut spool = Spool::new(path.display().to_string(), options)?;
    let mut buffer = vec![0; 1 << 17];
    loop {
        let read = plain.read(&mut buffer).map_err(|error| {
            let error = error.downcast();
            place(error.unwrap_or_else(|source| Error::Read { source }))
        })?;
        if read == 0 {
            break;
        }
        spool.write(&buffer[..read])?;
    }
    plain.finish().map_err(place)?;
    Ok(spool.into_file())
}

/// An unnamed temporary file, which disappears with the process. Its growth is reported.
#[derive(Debug)]
pub(crate) struct Spool {
    file: File,
    folder: PathBuf,
    source: String,
    bytes: u64,
    events: Option<Events>,
}

impl Spool {
    /// An empty file, for the image from `source`.
    pub(crate) fn new(source: String, options: &Options) -> Result<Self, Error> {
        // /tmp is often in memory; an image is too large for that.
        let large = Path::new("/var/tmp");
        let folder = match std::env::var_os("TMPDIR") {
            None if large.is_dir() => large.to_owned(),
            _ => std::env::temp_dir(),
        };
        match tempfile::tempfile_in(&folder) {
            Ok(file) => {
                let spool = Self {
                    file,
                    folder,
                    source,
                    bytes: 0,
                    events: options.events.clone(),
                };
                spool.report(false);
                Ok(spool)
            }
            Err(source) => Err(Error::Io {
                path: folder,
                source,
            }),
        }
    }

    /// Appends `bytes`.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|source| Error::Io {
            path: self.folder.clone(),
            source,
        })?;
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        self.report(false);
        Ok(())
    }

    fn report(&self, complete: bool) {
        if let Some(events) = &self.events {
            events.report(&Event::Spooling {
                source: &self.source,
                bytes: self.bytes,
                complete,
            });
        }
    }

    /// The complete file.
    pub(crate) fn into_file(self) -> File {
        self.report(true);
        self.file
    }
}
