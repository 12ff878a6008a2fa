//! Reading sparse images. Every address is checked against the file's length and the header.

use std::io;
use std::sync::Mutex;

use flate2::{Decompress, FlushDecompress, Status};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::format::{
    DEFLATE, DIRECTORY_AT_END, FLAG_COMPRESSED, FLAG_LINE_ENDS, FLAG_MARKERS, FLAG_ZERO_GRAINS,
    FLAGS_INCOMPATIBLE, GrainMarker, Header, LINE_ENDS, MAGIC, MARKER_END, MARKER_FOOTER, Marker,
    TABLE_ENTRIES, TABLE_SECTORS,
};
use super::plan::{Table, empty_table, is_grain_size};
use crate::files::Opened;
use crate::{Error, MAX_DESCRIPTOR, SECTOR, SparseProblem};

/// Whether a file that begins like this is a sparse image.
pub(crate) fn is_sparse(start: &[u8]) -> bool {
    start.starts_with(&MAGIC.to_le_bytes())
}

/// The descriptor inside the image `file`, as it is stored: padded with NULs.
pub(crate) fn embedded_descriptor(file: &Opened) -> Result<Vec<u8>, Error> {
    let header: Header = read_struct(file, 0)?;
    let offset = header.descriptor_offset.get().checked_mul(SECTOR);
    let size = header.descriptor_size.get().checked_mul(SECTOR);
    match (offset, size) {
        (Some(offset @ SECTOR..), Some(size @ 1..=MAX_DESCRIPTOR))
            if offset
                .checked_add(size)
                .is_some_and(|end| end <= file.size()) =>
        {
            let mut bytes = vec![0; size as usize];
            file.read(&mut bytes, offset)?;
            Ok(bytes)
        }
        _ => Err(file.damaged(0, SparseProblem::Descriptor)),
    }
}

/// An extent of grains.
#[derive(Debug)]
pub(crate) struct SparseExtent {
    file: Opened,
    grain_sectors: u64,
    /// The first byte of the grain directory.
    directory: u64,
    compressed: bool,
    zero_grains: bool,
    cache: Mutex<Cache>,
}

/// The grain table and the grain that were used last.
#[derive(Debug)]
struct Cache {
    /// The number of the grain table in `table`.
    table_number: Option<u64>,
    table: Box<Table>,
    /// The number of the grain in `grain`.
    grain_number: Option<u64>,
    /// An inflated grain.
    grain: Vec<u8>,
}

impl SparseExtent {
    /// Opens the image `file` for an extent of `sectors`.
    pub(crate) fn open(file: Opened, sectors: u64) -> Result<Self, Error> {
        let len = file.size();
        let mut header: Header = read_struct(&file, 0)?;
        check(&file, &header, 0)?;
        if header.gd_offset.get() == DIRECTORY_AT_END {
            header = footer(&file, &header)?;
        }
        let (capacity, grain_sectors) = (header.capacity.get(), header.grain_size.get());
        if capacity < sectors || capacity > i64::MAX as u64 / SECTOR {
            return Err(file.damaged(0, SparseProblem::Capacity));
        }
        let tables = capacity
            .div_ceil(grain_sectors)
            .div_ceil(TABLE_ENTRIES as u64);
        let directory = header
            .gd_offset
            .get()
            .checked_mul(SECTOR)
            .filter(|&at| at >= SECTOR && at.checked_add(tables * 4).is_some_and(|end| end <= len))
            .ok_or_else(|| file.damaged(0, SparseProblem::Bounds))?;
        let compressed = header.flags.get() & FLAG_COMPRESSED != 0;
        Ok(Self {
            file,
            grain_sectors,
            directory,
            compressed,
            zero_grains: header.flags.get() & FLAG_ZERO_GRAINS != 0,
            cache: Mutex::new(Cache {
                table_number: None,
                table: empty_table(),
                grain_number: None,
                grain: vec![
                    0;
                    if compressed {
                        (grain_sectors * SECTOR) as usize
                    } else {
                        0
                    }
                ],
            }),
        })
    }

    /// Fills `buffer` with what is at `offset` bytes, all of it inside the extent.
    pub(crate) fn read(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        let grain_bytes = self.grain_sectors * SECTOR;
        while !buffer.is_empty() {
            let (grain, within) = (offset / grain_bytes, offset % grain_bytes);
            let here = usize::try_from(grain_bytes - within)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let (now, rest) = buffer.split_at_mut(here);
            self.read_in_grain(now, grain, within)?;
            buffer = rest;
            offset += here as u64;
        }
        Ok(())
    }

    fn read_in_grain(&self, buffer: &mut [u8], grain: u64, within: u64) -> io::Result<()> {
        let mut cache = self
            .cache
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let Some(sector) = self.address(&mut cache, grain)? else {
            buffer.fill(0);
            return Ok(());
        };
        if self.compressed {
            if cache.grain_number != Some(grain) {
                cache.grain_number = None;
                self.inflate(&mut cache.grain, grain, sector)?;
                cache.grain_number = Some(grain);
            }
            let within = within as usize;
            buffer.copy_from_slice(&cache.grain[within..within + buffer.len()]);
            return Ok(());
        }
        drop(cache);
        let at = sector * SECTOR + within;
        if at + buffer.len() as u64 > self.file.size() {
            return Err(self.corrupt(sector, SparseProblem::Bounds));
        }
        Ok(self.file.read(buffer, at)?)
    }

    /// The sector of the file that a grain begins at; `None` for zeros.
    fn address(&self, cache: &mut Cache, grain: u64) -> io::Result<Option<u64>> {
        let (number, entry) = (grain / TABLE_ENTRIES as u64, grain % TABLE_ENTRIES as u64);
        if cache.table_number != Some(number) {
            cache.table_number = None;
            let mut table = U32::ZERO;
            self.file
                .read(table.as_mut_bytes(), self.directory + number * 4)?;
            match u64::from(table.get()) {
                0 => cache.table.fill(U32::ZERO),
                sector if (sector + TABLE_SECTORS) * SECTOR > self.file.size() => {
                    return Err(self.corrupt(sector, SparseProblem::Bounds));
                }
                sector => {
                    let table = cache.table.as_mut_bytes();
                    self.file.read(table, sector * SECTOR)?;
                }
            }
            cache.table_number = Some(number);
        }
        Ok(match u64::from(cache.table[entry as usize].get()) {
            0 => None,
            1 if self.zero_grains => None,
            sector => Some(sector),
        })
    }

    fn inflate(&self, grain: &mut [u8], number: u64, sector: u64) -> io::Result<()> {
        let at = sector * SECTOR;
        let mut marker = GrainMarker::new_zeroed();
        let header = size_of::<GrainMarker>() as u64;
        if at + header > self.file.size() {
            return Err(self.corrupt(sector, SparseProblem::Bounds));
        }
        self.file.read(marker.as_mut_bytes(), at)?;
        let size = marker.size.get();
        // Incompressible data grows to far less than twice its size.
        if marker.lba.get() != number * self.grain_sectors
            || size == 0
            || size as usize > grain.len() * 2
        {
            return Err(self.corrupt(sector, SparseProblem::Marker));
        }
        if at + header + u64::from(size) > self.file.size() {
            return Err(self.corrupt(sector, SparseProblem::Bounds));
        }
        let mut data = vec![0; size as usize];
        self.file.read(&mut data, at + header)?;
        let mut decoder = Decompress::new(true);
        grain.fill(0);
        // The last grain may be cut where the disk ends: the rest of it is never read.
        match decoder.decompress(&data, grain, FlushDecompress::Finish) {
            Ok(Status::StreamEnd) => Ok(()),
            _ => Err(self.corrupt(sector, SparseProblem::Deflate)),
        }
    }

    fn corrupt(&self, sector: u64, problem: SparseProblem) -> io::Error {
        self.file.damaged(sector, problem).into()
    }
}

/// Checks what does not depend on where tables are.
fn check(file: &Opened, header: &Header, sector: u64) -> Result<(), Error> {
    let unsupported = |what: String| Err(Error::Unsupported { what });
    if header.magic_number.get() != MAGIC {
        return Err(file.damaged(sector, SparseProblem::Magic));
    }
    let (version, flags) = (header.version.get(), header.flags.get());
    if !(1..=3).contains(&version) {
        return unsupported(format!("sparse image version {version}"));
    }
    let unknown = flags & FLAGS_INCOMPATIBLE & !(FLAG_COMPRESSED | FLAG_MARKERS);
    if unknown != 0 {
        return unsupported(format!("sparse image flags {unknown:#x}"));
    }
    if flags & FLAG_LINE_ENDS != 0 && header.line_ends != LINE_ENDS {
        return Err(file.damaged(sector, SparseProblem::LineEnds));
    }
    let algorithm = header.compress_algorithm.get();
    if flags & FLAG_COMPRESSED != 0 && algorithm != DEFLATE {
        return unsupported(format!("compression algorithm {algorithm}"));
    }
    if flags & FLAG_COMPRESSED != 0 && flags & FLAG_MARKERS == 0 {
        return unsupported("compressed grains without markers".to_owned());
    }
    let entries = header.num_gtes_per_gt.get();
    if entries as usize != TABLE_ENTRIES {
        return unsupported(format!("grain tables of {entries} entries"));
    }
    if !is_grain_size(header.grain_size.get()) {
        return Err(file.damaged(sector, SparseProblem::GrainSize));
    }
    match header.capacity.get() {
        0 => Err(file.damaged(sector, SparseProblem::Capacity)),
        _ => Ok(()),
    }
}

/// The header in the last but one sector, between two markers.
fn footer(file: &Opened, header: &Header) -> Result<Header, Error> {
    let len = file.size();
    let last = (len / SECTOR).saturating_sub(1);
    let bad = file.damaged(last, SparseProblem::Footer);
    if !len.is_multiple_of(SECTOR) || last < 3 {
        return Err(bad);
    }
    let before: Marker = read_struct(file, last - 2)?;
    let footer: Header = read_struct(file, last - 1)?;
    let end: Marker = read_struct(file, last)?;
    let kinds = [&before, &end].map(|marker| (marker.size.get(), marker.kind.get()));
    let same = (
        footer.magic_number,
        footer.capacity,
        footer.grain_size,
        footer.flags,
    ) == (
        header.magic_number,
        header.capacity,
        header.grain_size,
        header.flags,
    );
    if kinds != [(0, MARKER_FOOTER), (0, MARKER_END)]
        || !same
        || footer.gd_offset.get() == DIRECTORY_AT_END
    {
        return Err(bad);
    }
    check(file, &footer, last - 1)?;
    Ok(footer)
}

fn read_struct<T: FromZeros + FromBytes + IntoBytes>(
    file: &Opened,
    sector: u64,
) -> Result<T, Error> {
    let mut value = T::new_zeroed();
    match file.read(value.as_mut_bytes(), sector * SECTOR) {
        Ok(()) => Ok(value),
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::UnexpectedEof => {
            Err(file.damaged(sector, SparseProblem::Magic))
        }
        Err(error) => Err(error),
    }
}
