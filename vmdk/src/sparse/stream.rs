use std::io::{Read, Write};

use flate2::Compression;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::format::{
    DEFLATE, DIRECTORY_AT_END, FLAG_COMPRESSED, FLAG_MARKERS, GrainMarker, MARKER_DIRECTORY,
    MARKER_END, MARKER_FOOTER, MARKER_TABLE, Marker, TABLE_ENTRIES, TABLE_SECTORS,
};
use super::plan::{Counted, Plan, address, empty_table, stream};
use super::{SparseOptions, SparseSummary};
use crate::{Error, create_type};

/// Sectors before the first grain, as VMware has it.
const OVER_HEAD: u64 = 128;

/// Writes a streamOptimized image of the `bytes` bytes of `input`: compressed, from front to back,
/// to be read or sent but not written to.
///
/// ```text
/// header │ descriptor │ grains … table │ grains … table │ … │ directory │ footer │ end
/// ```
///
/// # Errors
///
/// [`Error::DiskSize`], [`Error::Name`], [`Error::Overflow`] and
/// [`SparseProblem::GrainSize`](crate::SparseProblem::GrainSize) before anything is written;
/// [`Error::GrainAddress`]; [`Error::Stream`], also where `input` ends early.
pub fn write_stream_optimized(
    mut input: impl Read,
    bytes: u64,
    output: impl Write,
    options: &SparseOptions,
) -> Result<SparseSummary, Error> {
    let plan = Plan::new(bytes, create_type::STREAM_OPTIMIZED, options)?;
    let mut header = plan.header(3, OVER_HEAD);
    header.flags = (header.flags.get() | FLAG_COMPRESSED | FLAG_MARKERS).into();
    header.compress_algorithm = DEFLATE.into();
    header.gd_offset = DIRECTORY_AT_END.into();
    let mut output = Counted {
        inner: output,
        bytes: 0,
    };
    output.put_struct(&header)?;
    output.put(&plan.embedded())?;
    output.pad_to(OVER_HEAD)?;

    let level = Compression::new(options.compression.clamp(1, 9));
    let mut summary = SparseSummary::default();
    let mut directory = Vec::new();
    let mut grain = plan.grain();
    let mut table = empty_table();
    for index in 0..plan.grains {
        let entry = (index % TABLE_ENTRIES as u64) as usize;
        if plan.read_grain(&mut input, index, &mut grain)? {
            summary.zero_grains += 1;
        } else {
            table[entry] = address(output.align()?)?;
            put_grain(&mut output, index * plan.grain_sectors, &grain, level)?;
            summary.grains += 1;
        }
        if entry + 1 == TABLE_ENTRIES || index + 1 == plan.grains {
            directory.push(put_table(&mut output, table.as_bytes())?);
            table.fill(U32::ZERO);
        }
    }
    put_marker(&mut output, MARKER_DIRECTORY, plan.directory_sectors())?;
    header.gd_offset = output.align()?.into();
    address(header.gd_offset.get())?;
    output.put(directory.as_bytes())?;
    put_marker(&mut output, MARKER_FOOTER, 1)?;
    output.put_struct(&header)?;
    put_marker(&mut output, MARKER_END, 0)?;
    output.inner.flush().map_err(stream)?;
    summary.bytes = output.bytes;
    Ok(summary)
}

fn put_grain(
    output: &mut Counted<impl Write>,
    lba: u64,
    grain: &[u8],
    level: Compression,
) -> Result<(), Error> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
    encoder.write_all(grain).map_err(stream)?;
    let data = encoder.finish().map_err(stream)?;
    // A grain has at most 4 MiB, and deflate adds little to what it cannot compress.
    let size = u32::try_from(data.len()).map_err(|_| Error::GrainAddress)?;
    output.put_struct(&GrainMarker {
        lba: lba.into(),
        size: size.into(),
    })?;
    output.put(&data)
}

/// Writes a table, unless it is empty; its address, or 0.
fn put_table(output: &mut Counted<impl Write>, table: &[u8]) -> Result<U32, Error> {
    if table.iter().all(|&byte| byte == 0) {
        return Ok(U32::ZERO);
    }
    put_marker(output, MARKER_TABLE, TABLE_SECTORS)?;
    let at = address(output.align()?)?;
    output.put(table)?;
    Ok(at)
}

fn put_marker(output: &mut Counted<impl Write>, kind: u32, sectors: u64) -> Result<(), Error> {
    output.align()?;
    let num_sectors = sectors.into();
    output.put_struct(&Marker {
        num_sectors,
        size: 0.into(),
        kind: kind.into(),
        pad: [0; 496],
    })
}
