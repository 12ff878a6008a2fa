use std::io::{Read, Seek, SeekFrom, Write};

use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::format::{FLAG_REDUNDANT, TABLE_ENTRIES, TABLE_SECTORS};
use super::plan::{DESCRIPTOR_SECTORS, Plan, address, empty_table, stream};
use super::{SparseOptions, SparseSummary};
use crate::{ContentId, Error, SECTOR, create_type};

/// Writes a monolithicSparse image of the `bytes` bytes of `input`: one file, writable, with room
/// for every grain.
///
/// `output` must be empty: what is not written (grains of zeros, and their tables) is left to be
/// holes.
///
/// ```text
/// header │ descriptor │ redundant directory, tables │ directory, tables │ grains …
/// ```
///
/// # Errors
///
/// [`Error::DiskSize`], [`Error::Name`], [`Error::Overflow`] and
/// [`SparseProblem::GrainSize`](crate::SparseProblem::GrainSize) before anything is written;
/// [`Error::GrainAddress`]; [`Error::Stream`], also where `input` ends early.
pub fn write_monolithic_sparse(
    mut input: impl Read,
    bytes: u64,
    mut output: impl Write + Seek,
    options: &SparseOptions,
) -> Result<SparseSummary, Error> {
    let mut plan = Plan::new(bytes, create_type::MONOLITHIC_SPARSE, options)?;
    let directory_sectors = plan.directory_sectors();
    let tables_sectors = plan.tables * TABLE_SECTORS;
    let redundant = 1 + DESCRIPTOR_SECTORS;
    let directory = redundant + directory_sectors + tables_sectors;
    let tables = [redundant, directory].map(|at| at + directory_sectors);
    let over_head =
        (directory + directory_sectors + tables_sectors).next_multiple_of(plan.grain_sectors);
    // All tables have addresses if the first grain has one.
    address(over_head)?;

    for (at, first) in [redundant, directory].into_iter().zip(tables) {
        let entries = (0..plan.tables)
            .map(|table| address(first + table * TABLE_SECTORS))
            .collect::<Result<Vec<U32>, Error>>()?;
        write_at(&mut output, at, entries.as_bytes())?;
    }
    let mut summary = SparseSummary::default();
    let mut next = over_head;
    let mut grain = plan.grain();
    let mut table = empty_table();
    let mut contents = ContentId::new();
    for index in 0..plan.grains {
        let entry = (index % TABLE_ENTRIES as u64) as usize;
        if plan.read_grain(&mut input, index, &mut grain)? {
            contents.zeros(grain.len() as u64);
            summary.zero_grains += 1;
        } else {
            contents.update(&grain);
            table[entry] = address(next)?;
            write_at(&mut output, next, &grain)?;
            next += plan.grain_sectors;
            summary.grains += 1;
        }
        if entry + 1 == TABLE_ENTRIES || index + 1 == plan.grains {
            if table.iter().any(|entry| entry.get() != 0) {
                let number = index / TABLE_ENTRIES as u64;
                for first in tables {
                    write_at(
                        &mut output,
                        first + number * TABLE_SECTORS,
                        table.as_bytes(),
                    )?;
                }
            }
            table.fill(U32::ZERO);
        }
    }
    // Tables of zeros at the end would be missing from the file without this.
    if next == over_head {
        write_at(&mut output, over_head - 1, &[0; SECTOR as usize])?;
    }
    let mut header = plan.header(1, over_head);
    header.flags = (header.flags.get() | FLAG_REDUNDANT).into();
    header.rgd_offset = redundant.into();
    header.gd_offset = directory.into();
    plan.descriptor.cid = options.cid.unwrap_or_else(|| contents.finish());
    write_at(&mut output, 1, &plan.embedded())?;
    // Last, so that a file which is not complete is no image.
    write_at(&mut output, 0, header.as_bytes())?;
    output.flush().map_err(stream)?;
    summary.bytes = next * SECTOR;
    Ok(summary)
}

fn write_at(output: &mut (impl Write + Seek), sector: u64, bytes: &[u8]) -> Result<(), Error> {
    output
        .seek(SeekFrom::Start(sector * SECTOR))
        .map_err(stream)?;
    output.write_all(bytes).map_err(stream)
}
