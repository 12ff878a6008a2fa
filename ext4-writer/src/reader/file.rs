//! The contents of a file.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

use crate::mapped::Mapped;

/// The contents of a file; holes read as zeros.
pub struct FileReader<'a, R> {
    image: &'a RefCell<R>,
    map: Mapped,
    block_size: u64,
    size: u64,
    position: u64,
}

impl<R> fmt::Debug for FileReader<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileReader")
            .field("size", &self.size)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl<'a, R> FileReader<'a, R> {
    pub(super) fn new(image: &'a RefCell<R>, map: Mapped, block_size: u32, size: u64) -> Self {
        Self {
            image,
            map,
            block_size: block_size.into(),
            size,
            position: 0,
        }
    }

    /// Returns where in the image the byte at the current position lies; `None` in a hole.
    pub(super) fn offset(&self) -> Option<u64> {
        self.place().0
    }

    /// Returns the place in the image of the byte at the current position, `None` in a hole, and
    /// the number of bytes for which that holds.
    fn place(&self) -> (Option<u64>, u64) {
        let logical = self.position / self.block_size;
        let runs = self.map.runs();
        let behind = runs.partition_point(|(first, _)| *first <= logical);
        let length = |blocks: &std::ops::Range<u64>| blocks.end - blocks.start;
        if let Some((first, blocks)) = behind.checked_sub(1).and_then(|at| runs.get(at))
            && logical - first < length(blocks)
        {
            let within = self.position - first * self.block_size;
            let at = blocks.start * self.block_size + within;
            return (Some(at), length(blocks) * self.block_size - within);
        }
        let next = runs.get(behind).map(|(first, _)| first * self.block_size);
        (
            None,
            next.unwrap_or(self.size).saturating_sub(self.position),
        )
    }
}

impl<R: Read + Seek> Read for FileReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.size.saturating_sub(self.position);
        if left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let (place, length) = self.place();
        let length = length.min(left).min(buffer.len() as u64) as usize;
        let buffer = &mut buffer[..length];
        let read = match place {
            None => {
                buffer.fill(0);
                length
            }
            Some(at) => {
                let mut image = self.image.borrow_mut();
                image.seek(SeekFrom::Start(at))?;
                match image.read(buffer)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => read,
                }
            }
        };
        self.position += read as u64;
        Ok(read)
    }
}

impl<R> Seek for FileReader<'_, R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(to) => Some(to),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
        };
        self.position = to.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
