//! The layout of a sparse image.

use std::io::{self, Read, Write};

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32};

use super::SparseOptions;
use super::format::{FLAG_LINE_ENDS, Header, LINE_ENDS, MAGIC, TABLE_ENTRIES};
use crate::{Descriptor, Error, Extent, Progress, SECTOR, SparseProblem, name};

/// Sectors for the embedded descriptor, after the header; VMware and QEMU keep as many.
pub(super) const DESCRIPTOR_SECTORS: u64 = 20;

/// A grain table that is being filled.
pub(super) type Table = [U32; TABLE_ENTRIES];

/// The numbers that follow from a disk's size.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) capacity: u64,
    pub(super) grain_sectors: u64,
    pub(super) grains: u64,
    pub(super) tables: u64,
    pub(super) descriptor: Descriptor,
    progress: Option<Progress>,
}

impl Plan {
    pub(super) fn new(
        bytes: u64,
        create_type: &str,
        options: &SparseOptions,
    ) -> Result<Self, Error> {
        name::portable(&options.name)?;
        if bytes == 0 || !bytes.is_multiple_of(SECTOR) {
            return Err(Error::DiskSize { bytes });
        }
        if !is_grain_size(options.grain_sectors) {
            return Err(Error::Sparse {
                file: None,
                sector: 0,
                problem: SparseProblem::GrainSize,
            });
        }
        let capacity = bytes / SECTOR;
        let extent = Extent::sparse(&options.name, capacity)?;
        let mut descriptor = Descriptor::new(create_type, vec![extent])?;
        descriptor.cid = options.cid.unwrap_or(descriptor.cid);
        let grains = capacity.div_ceil(options.grain_sectors);
        Ok(Self {
            capacity,
            grain_sectors: options.grain_sectors,
            grains,
            tables: grains.div_ceil(TABLE_ENTRIES as u64),
            descriptor,
            progress: options.progress.clone(),
        })
    }

    /// The descriptor's text, padded with NULs to [`DESCRIPTOR_SECTORS`].
    pub(super) fn embedded(&self) -> Vec<u8> {
        let mut text = self.descriptor.to_string().into_bytes();
        // A name has at most 511 bytes, so this always fits.
        text.resize((DESCRIPTOR_SECTORS * SECTOR) as usize, 0);
        text
    }

    /// The length of a grain directory, in sectors.
    pub(super) fn directory_sectors(&self) -> u64 {
        (self.tables * 4).div_ceil(SECTOR)
    }

    /// The header, but for the offsets of the directories, the flags and the compression.
    pub(super) fn header(&self, version: u32, over_head: u64) -> Header {
        Header {
            magic_number: MAGIC.into(),
            version: version.into(),
            flags: FLAG_LINE_ENDS.into(),
            capacity: self.capacity.into(),
            grain_size: self.grain_sectors.into(),
            descriptor_offset: 1.into(),
            descriptor_size: DESCRIPTOR_SECTORS.into(),
            num_gtes_per_gt: (TABLE_ENTRIES as u32).into(),
            rgd_offset: 0.into(),
            gd_offset: 0.into(),
            over_head: over_head.into(),
            unclean_shutdown: 0,
            line_ends: LINE_ENDS,
            compress_algorithm: U16::ZERO,
            pad: [0; 433],
        }
    }

    /// A buffer for a grain.
    pub(super) fn grain(&self) -> Vec<u8> {
        vec![0; (self.grain_sectors * SECTOR) as usize]
    }

    /// Reads the grain `index` into `grain`, the last one padded with zeros; says whether it is all
    /// zeros.
    pub(super) fn read_grain(
        &self,
        input: &mut impl Read,
        index: u64,
        grain: &mut [u8],
    ) -> Result<bool, Error> {
        let sectors = (self.capacity - index * self.grain_sectors).min(self.grain_sectors);
        let (data, padding) = grain.split_at_mut((sectors * SECTOR) as usize);
        input.read_exact(data).map_err(stream)?;
        padding.fill(0);
        if let Some(progress) = &self.progress {
            progress.report((index * self.grain_sectors + sectors) * SECTOR);
        }
        const ZEROS: [u8; 4096] = [0; 4096];
        Ok(data
            .chunks(ZEROS.len())
            .all(|chunk| *chunk == ZEROS[..chunk.len()]))
    }
}

pub(super) fn is_grain_size(sectors: u64) -> bool {
    sectors.is_power_of_two() && (8..=8192).contains(&sectors)
}

pub(super) fn empty_table() -> Box<Table> {
    Box::new([U32::ZERO; TABLE_ENTRIES])
}

/// The address of sector `sector` of the file, as tables have it.
pub(super) fn address(sector: u64) -> Result<U32, Error> {
    u32::try_from(sector)
        .map(U32::new)
        .map_err(|_| Error::GrainAddress)
}

pub(super) fn stream(source: io::Error) -> Error {
    Error::Stream { source }
}

/// Counts the bytes written.
pub(super) struct Counted<W> {
    pub(super) inner: W,
    pub(super) bytes: u64,
}

impl<W: Write> Counted<W> {
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.inner.write_all(bytes).map_err(stream)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn put_struct(
        &mut self,
        value: &(impl IntoBytes + zerocopy::Immutable),
    ) -> Result<(), Error> {
        self.put(value.as_bytes())
    }

    /// Writes zeros up to sector `sector`, which must not lie before the current position.
    pub(super) fn pad_to(&mut self, sector: u64) -> Result<(), Error> {
        let rest = (sector * SECTOR).saturating_sub(self.bytes);
        let copied = io::copy(&mut io::repeat(0).take(rest), &mut self.inner).map_err(stream)?;
        self.bytes += copied;
        Ok(())
    }

    /// Writes zeros up to the next sector and returns its number.
    pub(super) fn align(&mut self) -> Result<u64, Error> {
        let sector = self.bytes.div_ceil(SECTOR);
        self.pad_to(sector)?;
        Ok(sector)
    }
}
