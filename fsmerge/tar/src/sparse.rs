//! GNU's sparse files: the old format's header, and the three that use PAX records.
//!
//! See "Storing Sparse Files" in the GNU tar manual.

use crate::error::{Error, Problem};
use crate::header::{number, size};
use crate::limits::Limits;
use crate::pax::{Pax, decimal};
use crate::source::{BLOCK, Source};
use ::tar::{GnuExtSparseHeader, GnuSparseHeader, Header};
use std::io::BufRead;

/// A file's length and where its data is.
#[derive(Debug, PartialEq, Eq)]
pub struct Map {
    /// The file's length in bytes, holes included.
    pub size: u64,
    /// Where the data is: offsets and lengths in bytes, ascending and not touching; none is empty.
    pub ranges: Vec<(u64, u64)>,
}

impl Map {
    /// A file without holes.
    pub(crate) fn dense(size: u64) -> Self {
        let ranges = if size == 0 {
            Vec::new()
        } else {
            vec![(0, size)]
        };
        Self { size, ranges }
    }

    /// Checks what a header said: ranges ascend inside the file, and together have the `stored`
    /// bytes of the body.
    fn checked(size: u64, listed: &[(u64, u64)], stored: u64) -> Result<Self, Problem> {
        let mut ranges: Vec<(u64, u64)> = Vec::with_capacity(listed.len());
        let (mut end, mut total) = (0_u64, 0_u64);
        for &(start, len) in listed {
            let next = start.checked_add(len).ok_or(Problem::SparseMap)?;
            if start < end || next > size {
                return Err(Problem::SparseMap);
            }
            // Below the file's size, so it cannot overflow.
            total += len;
            match ranges.last_mut() {
                _ if len == 0 => {}
                Some(last) if last.0 + last.1 == start => last.1 += len,
                _ => ranges.push((start, len)),
            }
            end = next;
        }
        if total != stored {
            return Err(Problem::SparseMap);
        }
        Ok(Self { size, ranges })
    }

    /// Bytes of the body: of the ranges together.
    pub fn stored(&self) -> u64 {
        // Checked to be below the file's size.
        self.ranges.iter().map(|&(_, len)| len).sum()
    }
}

/// Which sparse format the PAX records speak of.
pub(crate) enum Format {
    /// 0.0 and 0.1: the map is in the records.
    Records,
    /// 1.0: the map is at the beginning of the body.
    Body,
}

pub(crate) fn pax_format(pax: &Pax) -> Result<Option<Format>, Problem> {
    let version = (
        pax.number("GNU.sparse.major")?,
        pax.number("GNU.sparse.minor")?,
    );
    match version {
        (Some(1), Some(0)) => Ok(Some(Format::Body)),
        (Some(0), Some(0 | 1)) => Ok(Some(Format::Records)),
        (None, None) if !pax.sparse.is_empty() || pax.get("GNU.sparse.map").is_some() => {
            Ok(Some(Format::Records))
        }
        (None, None) if pax.get("GNU.sparse.size").is_some() => Ok(Some(Format::Records)),
        (None, None) => Ok(None),
        _ => Err(Problem::SparseMap),
    }
}

/// The map of format 0.0 or 0.1 for a body of `stored` bytes.
pub(crate) fn from_records(pax: &Pax, stored: u64, limits: &Limits) -> Result<Map, Problem> {
    let map = pax.get("GNU.sparse.map").unwrap_or(&pax.sparse);
    let mut numbers = Vec::new();
    if !map.is_empty() {
        for text in map.split(|&byte| byte == b',') {
            numbers.push(size(Some(decimal(text).ok_or(Problem::SparseMap)?))?);
        }
    }
    if let Some(blocks) = pax.number("GNU.sparse.numblocks")?
        && blocks != (numbers.len() / 2) as i128
    {
        return Err(Problem::SparseMap);
    }
    let real = pax.number("GNU.sparse.size")?;
    let real = size(Some(real.ok_or(Problem::SparseMap)?))?;
    Map::checked(real, &pairs(&numbers, limits)?, stored)
}

/// The map of format 1.0, read from the beginning of a body of `stored` bytes: decimal numbers, one
/// a line, padded to a whole number of blocks.
pub(crate) fn from_body<R: BufRead>(
    source: &mut Source<R>,
    pax: &Pax,
    stored: u64,
    limits: &Limits,
) -> Result<Result<Map, Problem>, Error> {
    let mut left = stored;
    let mut numbers: Vec<u64> = Vec::new();
    let mut line = Vec::new();
    let mut wanted = 1;
    while numbers.len() < wanted {
        let Some(rest) = left.checked_sub(BLOCK as u64) else {
            return Ok(Err(Problem::SparseMap));
        };
        left = rest;
        let mut block = [0; BLOCK];
        source.exactly(&mut block)?;
        for byte in block {
            if byte != b'\n' {
                line.push(byte);
                // More digits than any number has.
                if line.len() > 20 {
                    return Ok(Err(Problem::SparseMap));
                }
                continue;
            }
            match decimal(&line).and_then(|number| u64::try_from(number).ok()) {
                Some(number) => numbers.push(number),
                None => return Ok(Err(Problem::SparseMap)),
            }
            line.clear();
            if numbers.len() == 1 {
                match usize::try_from(numbers[0]) {
                    Ok(ranges) if ranges <= limits.sparse_ranges => wanted = 1 + ranges * 2,
                    _ => return Ok(Err(too_many(limits))),
                }
            }
            if numbers.len() == wanted {
                break;
            }
        }
    }
    Ok((|| {
        let real = match pax.number("GNU.sparse.realsize")? {
            Some(real) => Some(real),
            None => pax.number("GNU.sparse.size")?,
        };
        let real = size(Some(real.ok_or(Problem::SparseMap)?))?;
        Map::checked(real, &pairs(&numbers[1..], limits)?, left)
    })())
}

/// The map of the old format (type `S`): four ranges in the header, more in the blocks after it.
pub(crate) fn from_header<R: BufRead>(
    source: &mut Source<R>,
    header: &Header,
    stored: u64,
    limits: &Limits,
) -> Result<Result<Map, Problem>, Error> {
    let Some(gnu) = header.as_gnu() else {
        return Ok(Err(Problem::SparseMap));
    };
    let mut numbers = Vec::new();
    let mut more = gnu.isextended[0] != 0;
    let mut problem = collect(&gnu.sparse, &mut numbers).err();
    while more {
        let mut extension = GnuExtSparseHeader::new();
        source.exactly(extension.as_mut_bytes())?;
        more = extension.isextended[0] != 0;
        if numbers.len() / 2 > limits.sparse_ranges {
            return Ok(Err(too_many(limits)));
        }
        problem = problem.or(collect(&extension.sparse, &mut numbers).err());
    }
    Ok(match problem {
        Some(problem) => Err(problem),
        None => (|| {
            let real = size(number(&gnu.realsize, "realsize")?)?;
            Map::checked(real, &pairs(&numbers, limits)?, stored)
        })(),
    })
}

fn collect(slots: &[GnuSparseHeader], numbers: &mut Vec<u64>) -> Result<(), Problem> {
    for slot in slots {
        let (offset, len) = (
            number(&slot.offset, "offset")?,
            number(&slot.numbytes, "numbytes")?,
        );
        // Slots that are not used are zeros.
        if let (Some(offset), Some(len)) = (offset, len) {
            numbers.extend([size(Some(offset))?, size(Some(len))?]);
        }
    }
    Ok(())
}

fn pairs(numbers: &[u64], limits: &Limits) -> Result<Vec<(u64, u64)>, Problem> {
    let (pairs, odd) = numbers.as_chunks::<2>();
    if !odd.is_empty() {
        return Err(Problem::SparseMap);
    }
    if pairs.len() > limits.sparse_ranges {
        return Err(too_many(limits));
    }
    Ok(pairs.iter().map(|&[start, len]| (start, len)).collect())
}

fn too_many(limits: &Limits) -> Problem {
    Problem::Limit {
        name: "sparse_ranges",
        limit: limits.sparse_ranges as u64,
    }
}
