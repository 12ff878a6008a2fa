//! Where the holes of sparse files are: GNU tar's manual, "Storing Sparse Files".

use std::io::{self, Read, Seek, SeekFrom};

use tar::{GnuExtSparseHeader, GnuHeader, Header};

use super::Stored;

const BLOCK: u64 = 512;
/// The most pieces a file may be in: more than any program makes of one.
const PIECES: usize = 1 << 20;

/// Where the map is.
#[derive(Debug)]
pub(super) enum Sparse {
    /// There is none: the file is there as it is.
    None,
    /// In the entry's header, and blocks behind it (old GNU).
    Header,
    /// In the extended header: offsets and lengths in turn (PAX 0.0 and 0.1).
    Pax(Vec<u64>),
    /// Before the data, in decimal numbers (PAX 1.0).
    Data,
}

pub(super) enum Failed {
    Read(io::Error),
    Map,
}

impl From<io::Error> for Failed {
    fn from(source: io::Error) -> Self {
        Self::Read(source)
    }
}

impl Sparse {
    /// A size was found that is not that of what is stored.
    pub(super) fn is_pax(&mut self) {
        if matches!(self, Self::None) {
            *self = Self::Pax(Vec::new());
        }
    }

    pub(super) fn precedes_data(&mut self) {
        *self = Self::Data;
    }

    pub(super) fn extend(&mut self, numbers: impl IntoIterator<Item = u64>) {
        self.is_pax();
        if let Self::Pax(map) = self {
            map.extend(numbers);
        }
    }
}

/// Says where the contents of `file` begin and what parts of it they are.
pub(super) fn resolve(
    tar: &mut (impl Read + Seek),
    file: &mut Stored,
    sparse: Sparse,
) -> Result<(), Failed> {
    let numbers = match sparse {
        Sparse::None => {
            file.ranges.push(0..file.size);
            return Ok(());
        }
        Sparse::Header => read_headers(tar, file)?,
        Sparse::Pax(numbers) => numbers,
        Sparse::Data => read_decimal(tar, file)?,
    };
    let (pieces, rest) = numbers.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Failed::Map);
    }
    let mut end = 0;
    for &[offset, len] in pieces {
        let behind = offset.checked_add(len).ok_or(Failed::Map)?;
        if offset < end || behind > file.size {
            return Err(Failed::Map);
        }
        end = behind;
        // An empty piece says how long the file is.
        if len > 0 {
            file.ranges.push(offset..behind);
        }
    }
    Ok(())
}

/// The map in the header and the blocks behind it.
fn read_headers(tar: &mut (impl Read + Seek), file: &mut Stored) -> Result<Vec<u64>, Failed> {
    let start = file.position.checked_sub(BLOCK).ok_or(Failed::Map)?;
    tar.seek(SeekFrom::Start(start))?;
    let mut header = Header::new_gnu();
    tar.read_exact(header.as_mut_bytes())?;
    let gnu: &GnuHeader = header.as_gnu().ok_or(Failed::Map)?;
    file.size = gnu.real_size()?;
    let mut numbers = Vec::new();
    let mut add = |piece: &tar::GnuSparseHeader| -> Result<(), Failed> {
        if !piece.is_empty() {
            numbers.extend([piece.offset()?, piece.length()?]);
        }
        match numbers.len() > PIECES * 2 {
            true => Err(Failed::Map),
            false => Ok(()),
        }
    };
    gnu.sparse.iter().try_for_each(&mut add)?;
    let mut extended = gnu.is_extended();
    while extended {
        let mut more = GnuExtSparseHeader::new();
        tar.read_exact(more.as_mut_bytes())?;
        file.position += BLOCK;
        more.sparse.iter().try_for_each(&mut add)?;
        extended = more.is_extended();
    }
    Ok(numbers)
}

/// The map before the data: how many pieces, then each one's offset and length, a line each, padded to a block.
fn read_decimal(tar: &mut (impl Read + Seek), file: &mut Stored) -> Result<Vec<u64>, Failed> {
    tar.seek(SeekFrom::Start(file.position))?;
    let mut numbers = Vec::new();
    let mut count = None;
    let mut number: Option<u64> = None;
    while count.is_none_or(|count| numbers.len() < count) {
        let mut block = [0; BLOCK as usize];
        tar.read_exact(&mut block)?;
        file.position += BLOCK;
        for byte in block {
            match (byte, number, count) {
                (b'0'..=b'9', _, _) => {
                    let digit = u64::from(byte - b'0');
                    let more = number.unwrap_or(0).checked_mul(10);
                    number = more.and_then(|more| more.checked_add(digit));
                    if number.is_none() {
                        return Err(Failed::Map);
                    }
                }
                (b'\n', Some(pieces), None) if pieces <= PIECES as u64 => {
                    count = Some(pieces as usize * 2);
                    number = None;
                }
                (b'\n', Some(value), Some(_)) => {
                    numbers.push(value);
                    number = None;
                }
                _ => return Err(Failed::Map),
            }
            if count.is_some_and(|count| numbers.len() == count) {
                break;
            }
        }
    }
    Ok(numbers)
}
