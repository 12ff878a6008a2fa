//! Files that commands write.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

use anyhow::Context;
use blockbox::store::atomic::{self, NewFile};

use super::signals;

/// The size of the write buffer, in bytes.
const BUFFER: usize = 256 << 10;

/// Writes the file that a user named. The file appears only when it is complete; a signal removes
/// the partial file.
pub(super) fn write<T, E: From<blockbox::store::Error>>(
    path: &Path,
    write: impl FnOnce(&mut NewFile) -> Result<T, E>,
) -> Result<T, E> {
    signals::clean_up();
    atomic::write_output(path, write)
}

/// Writes a file that appears only when it is complete, or standard output.
pub(super) fn to_file(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if path == Path::new("-") {
        let out = io::stdout().lock();
        anyhow::ensure!(
            !out.is_terminal(),
            "standard output is a terminal: use -o FILE, or a pipe"
        );
        let mut out = BufWriter::with_capacity(BUFFER, out);
        write(&mut out)?;
        return Ok(out.flush()?);
    }
    // Devices and pipes are written directly.
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        let file = File::options().write(true).open(path);
        let file = file.with_context(|| path.display().to_string())?;
        let mut out = BufWriter::with_capacity(BUFFER, file);
        write(&mut out)?;
        return Ok(out.flush()?);
    }
    let written = self::write(path, |file| {
        let mut out = BufWriter::with_capacity(BUFFER, file.as_file_mut());
        let written = write(&mut out).and_then(|()| Ok(out.flush()?));
        written.map_err(Failed::Other)
    });
    written.map_err(|failed| match failed {
        Failed::Store(error) => error.into(),
        Failed::Other(error) => error,
    })
}

/// Why a file was not written.
enum Failed {
    Store(blockbox::store::Error),
    Other(anyhow::Error),
}

impl From<blockbox::store::Error> for Failed {
    fn from(error: blockbox::store::Error) -> Self {
        Self::Store(error)
    }
}
