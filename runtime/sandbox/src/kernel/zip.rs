//! Extracts one member of a zip archive, as in PKWARE's APPNOTE.TXT: stored or deflated, without
//! encryption, and smaller than 4 GiB.

use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};

use flate2::read::DeflateDecoder;
use flate2::{Crc, CrcReader};

/// "End of central directory record": 22 bytes, and a comment of at most 65,535.
const END: &[u8] = b"PK\x05\x06";
const END_BYTES: usize = 22;

/// A header in the central directory: 46 bytes, and three strings.
const CENTRAL: &[u8] = b"PK\x01\x02";
const CENTRAL_BYTES: usize = 46;

/// A header before a member's bytes: 30 bytes, and two strings.
const LOCAL: &[u8] = b"PK\x03\x04";
const LOCAL_BYTES: usize = 30;

/// The largest central directory that is read, in bytes.
const MAX_DIRECTORY: u64 = 64 << 20;

/// A member's entry in the central directory.
struct Member {
    flags: u16,
    method: u16,
    crc: u32,
    compressed: u32,
    size: u32,
    offset: u32,
}

/// Copies the first member whose name is `wanted`, of at most `limit` bytes; returns whether there
/// is one.
///
/// # Errors
///
/// If the archive cannot be read, is damaged or uses a feature that is not supported.
pub(super) fn copy_member(
    archive: &mut (impl Read + Seek),
    wanted: impl Fn(&[u8]) -> bool,
    limit: u64,
    output: &mut impl Write,
) -> io::Result<bool> {
    let directory = central_directory(archive)?;
    let Some(member) = find(&directory, wanted)? else {
        return Ok(false);
    };
    if member.flags & 1 != 0 {
        return Err(bad("the member is encrypted"));
    }
    if u64::from(member.size) > limit {
        return Err(bad("the member is too large"));
    }
    let mut local = [0; LOCAL_BYTES];
    archive.seek(SeekFrom::Start(member.offset.into()))?;
    archive.read_exact(&mut local)?;
    if !local.starts_with(LOCAL) {
        return Err(bad("a member has no header"));
    }
    let texts = i64::from(u16_at(&local, 26)?) + i64::from(u16_at(&local, 28)?);
    archive.seek(SeekFrom::Current(texts))?;
    let stored = BufReader::new(archive.take(member.compressed.into()));
    let crc = match member.method {
        0 => copy(stored, member.size, output)?,
        8 => copy(DeflateDecoder::new(stored), member.size, output)?,
        _ => {
            return Err(bad(
                "the member is compressed in a way that is not supported",
            ));
        }
    };
    match crc == member.crc {
        true => Ok(true),
        false => Err(bad("the member's checksum is wrong")),
    }
}

/// Copies exactly `size` bytes and returns their CRC.
fn copy(input: impl Read, size: u32, output: &mut impl Write) -> io::Result<u32> {
    // One more byte shows that the member is too long.
    let mut input = CrcReader::new(input.take(u64::from(size) + 1));
    match io::copy(&mut input, output)? == u64::from(size) {
        true => Ok(Crc::sum(input.crc())),
        false => Err(bad(
            "the member is longer or shorter than the directory says",
        )),
    }
}

fn central_directory(archive: &mut (impl Read + Seek)) -> io::Result<Vec<u8>> {
    let length = archive.seek(SeekFrom::End(0))?;
    let tail_bytes = length.min(END_BYTES as u64 + u64::from(u16::MAX));
    archive.seek(SeekFrom::Start(length - tail_bytes))?;
    let mut tail = Vec::new();
    archive.take(tail_bytes).read_to_end(&mut tail)?;
    let end = tail
        .windows(END_BYTES)
        .rev()
        .find(|window| window.starts_with(END))
        .ok_or_else(|| bad("it has no directory at its end"))?;
    let (bytes, offset) = (u32_at(end, 12)?, u32_at(end, 16)?);
    if bytes == u32::MAX || offset == u32::MAX {
        return Err(bad("archives of 4 GiB and more are not supported"));
    }
    if u64::from(bytes) > MAX_DIRECTORY || u64::from(bytes) + u64::from(offset) > length {
        return Err(bad("its directory is too large"));
    }
    archive.seek(SeekFrom::Start(offset.into()))?;
    let mut directory = Vec::new();
    archive.take(bytes.into()).read_to_end(&mut directory)?;
    Ok(directory)
}

fn find(mut directory: &[u8], wanted: impl Fn(&[u8]) -> bool) -> io::Result<Option<Member>> {
    while !directory.is_empty() {
        if !directory.starts_with(CENTRAL) {
            return Err(bad("its directory is damaged"));
        }
        let cut_off = || bad("its directory is cut off");
        let lengths = [
            u16_at(directory, 28)?,
            u16_at(directory, 30)?,
            u16_at(directory, 32)?,
        ];
        let [name, extra, comment] = lengths.map(usize::from);
        let texts = directory.get(CENTRAL_BYTES..).ok_or_else(cut_off)?;
        if wanted(texts.get(..name).ok_or_else(cut_off)?) {
            return Ok(Some(Member {
                flags: u16_at(directory, 8)?,
                method: u16_at(directory, 10)?,
                crc: u32_at(directory, 16)?,
                compressed: u32_at(directory, 20)?,
                size: u32_at(directory, 24)?,
                offset: u32_at(directory, 42)?,
            }));
        }
        directory = texts.get(name + extra + comment..).ok_or_else(cut_off)?;
    }
    Ok(None)
}

fn u16_at(bytes: &[u8], at: usize) -> io::Result<u16> {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk);
    field
        .map(|field| u16::from_le_bytes(*field))
        .ok_or_else(|| bad("it is cut off"))
}

fn u32_at(bytes: &[u8], at: usize) -> io::Result<u32> {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk);
    field
        .map(|field| u32::from_le_bytes(*field))
        .ok_or_else(|| bad("it is cut off"))
}

fn bad(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}
