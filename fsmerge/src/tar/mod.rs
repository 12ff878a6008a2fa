//! Reading the tar stream of a layer into a [`LayerTree`].
//!
//! `blockbox_tar` reads the archive: V7, ustar, PAX and GNU, as POSIX.1-2001 (`pax`) and the GNU
//! tar manual ("Basic Tar Format") define them. Where readers disagree, it does as the container
//! runtimes do, since a layer must look the same to all of them.

mod content;
mod frame;
mod ingest;
mod place;
mod stats;

pub use content::{Content, Segment, Sink};
pub use stats::Stats;

use crate::error::{Error, Problem, ReadError};
use crate::intake::Intake;
use crate::layer::LayerTree;
use crate::limits::Limits;
use crate::metadata::Metadata;
use crate::progress::Meter;
use crate::timestamp::Timestamp;
use blockbox_tar::{Reader, Source, What};
use ingest::Ingest;
use place::Place;
use std::io::{BufRead, Seek};

/// Reads one layer's archive. It reads to the end-of-archive blocks as GNU tar does; what follows
/// them is the caller's to read, for a digest for instance. An archive without them ends with its
/// last entry.
///
/// The archive is read once, front to back. What it is read from is buffered so that contents can
/// be looked at where they are in memory, through [`Content`]'s [`BufRead`].
///
/// ```
/// use fsmerge::{Limits, read_tar};
///
/// # let tar = &[0; 1024][..];
/// // Names and attributes alone.
/// let (layer, stats) = read_tar(tar, &mut (), &Limits::default())?;
/// println!("{} names in {} entries", layer.names(), stats.entries);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`ReadError::Layer`] where the archive is damaged, hostile, or beyond `limits`;
/// [`ReadError::Sink`] where the sink failed.
pub fn read_tar<R: BufRead, S: Sink>(
    tar: R,
    sink: &mut S,
    limits: &Limits,
) -> Result<(LayerTree, Stats), ReadError<S::Error>> {
    read(Source::new(tar), sink, limits)
}

/// As [`read_tar`], but skips contents that the sink does not read, by seeking. It suits a sink
/// that only records where contents are, and an archive whose digest is known.
///
/// ```no_run
/// use fsmerge::{Limits, read_tar_seek};
///
/// let tar = std::io::BufReader::new(std::fs::File::open("layer.tar")?);
/// // Names and attributes alone: contents are not even read.
/// let (layer, _) = read_tar_seek(tar, &mut (), &Limits::default())?;
/// println!("{} names", layer.names());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// Those of [`read_tar`].
pub fn read_tar_seek<R: BufRead + Seek, S: Sink>(
    tar: R,
    sink: &mut S,
    limits: &Limits,
) -> Result<(LayerTree, Stats), ReadError<S::Error>> {
    read(
        Source::seeking(tar).map_err(Error::of_framing)?,
        sink,
        limits,
    )
}

fn read<R: BufRead, S: Sink>(
    source: Source<R>,
    sink: &mut S,
    limits: &Limits,
) -> Result<(LayerTree, Stats), ReadError<S::Error>> {
    let mut reader = Reader::new(source, limits.framing());
    let mut stats = Stats::default();
    let mut intake = Intake::new(limits);
    let mut ingest = Ingest::new(limits);
    let mut meter = Meter::default();
    while let Some(entry) = reader
        .next(|remark| stats.remark(remark, limits))
        .map_err(Error::of_framing)?
    {
        stats.entries += 1;
        let at = |problem| Error::Entry {
            path: entry.path.clone().into(),
            offset: entry.offset,
            problem,
        };
        // Recorded before the body, which is skipped.
        if let What::Unknown { kind, .. } = entry.what {
            return Err(at(Problem::UnknownType { kind }).into());
        }
        let attributes = entry
            .attributes()
            .map_err(|problem| at(Problem::of_framing(problem)))?;
        let xattrs = intake
            .take(attributes.xattrs, attributes.mode, |kind| {
                stats.warn(&entry.path, entry.offset, kind, limits);
            })
            .map_err(at)?;
        let attributes = Metadata {
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: Timestamp::of_framing(attributes.mtime),
            xattrs,
        };
        let place = Place::of(&entry.path, limits).map_err(at)?;
        let (mut data, mut size) = (None, 0);
        if let What::File(map) = &entry.what {
            let stored = map.stored();
            if map.size > 0 && place.is_entry() {
                let path = place.path();
                let offset = reader.source.offset();
                let content = Content::new(map.size, &map.ranges, &mut reader.source);
                let content = content.in_archive(offset);
                let (result, unread) = content.pass_to(sink, &path);
                // The sink's error does not contain the cause of a failed read, so it is taken from
                // the source.
                if let Some(failure) = reader.source.take_failure() {
                    return Err(Error::of_framing(failure).into());
                }
                data = Some(result.map_err(|source| ReadError::Sink {
                    path: path.into(),
                    source,
                })?);
                reader.source.skip(unread).map_err(Error::of_framing)?;
                size = map.size;
                stats.files += 1;
                stats.content_bytes = stats.content_bytes.saturating_add(size);
            } else {
                reader.source.skip(stored).map_err(Error::of_framing)?;
            }
            reader.source.padding(stored).map_err(Error::of_framing)?;
        }
        ingest
            .add(&place, attributes, &entry.what, data, entry.offset)
            .map_err(|problem| Error::Entry {
                path: entry.path.into(),
                offset: entry.offset,
                problem,
            })?;
        if let Some(new) = meter.entry(size) {
            sink.progress(new);
        }
    }
    sink.progress(meter.rest());
    stats.archive_bytes = reader.source.offset();
    Ok((ingest.finish()?, stats))
}
