//! `blockbox export`

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use blockbox::Sandbox;
use blockbox::store::{Store, atomic};
use clap::Args;

use super::progress::Shown;

/// Bytes that are written at a time.
const BUFFER: usize = 256 << 10;

/// Write all files of a sandbox, running or not, as a tar archive. The disk of one that runs is frozen meanwhile.
#[derive(Debug, Args)]
pub(super) struct Export {
    /// The sandbox's name, or the beginning of its id
    #[arg(value_name = "NAME")]
    name: String,
    /// Where to write to; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    #[command(flatten)]
    shown: Shown,
}

impl Export {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        let sandbox = Sandbox::open(store, &self.name)?;
        let work = self.shown.work(format!("exporting {}", self.name), None);
        let meter = work.meter();
        to_file(&self.output, |out| Ok(sandbox.export(meter.measure(out))?))?;
        work.finish();
        Ok(())
    }
}

/// Writes a file that appears when it is whole, or to standard output.
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
    // A device or a pipe is written to as it is.
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        let file = File::options().write(true).open(path);
        let file = file.with_context(|| path.display().to_string())?;
        let mut out = BufWriter::with_capacity(BUFFER, file);
        write(&mut out)?;
        return Ok(out.flush()?);
    }
    let written = atomic::write_file(path, |file| {
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
