//! Positioned, gathered writes to the image.

use std::io::{Seek, SeekFrom, Write};

use crate::Error;

/// The number of adjacent bytes that are gathered before a write.
const GATHER: usize = 1 << 18;

/// An output that is written at byte offsets; adjacent small writes reach it as one.
#[derive(Debug)]
pub(crate) struct Output<W> {
    out: W,
    /// The output's own position, if known.
    position: Option<u64>,
    gathered: Vec<u8>,
    gathered_at: u64,
}

impl<W: Write + Seek> Output<W> {
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            position: None,
            gathered: Vec::new(),
            gathered_at: 0,
        }
    }

    pub(crate) fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        if offset != self.gathered_at + self.gathered.len() as u64
            || self.gathered.len() + bytes.len() > GATHER
        {
            self.flush()?;
        }
        if bytes.len() >= GATHER {
            return self.write_through(offset, bytes);
        }
        if self.gathered.is_empty() {
            self.gathered_at = offset;
        }
        self.gathered.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        let bytes = std::mem::take(&mut self.gathered);
        self.write_through(self.gathered_at, &bytes)?;
        self.gathered = bytes;
        self.gathered.clear();
        Ok(())
    }

    fn write_through(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        let failed = |source| Error::Output { offset, source };
        if self.position != Some(offset) {
            self.position = None;
            self.out.seek(SeekFrom::Start(offset)).map_err(failed)?;
        }
        self.position = None;
        self.out.write_all(bytes).map_err(failed)?;
        self.position = Some(offset + bytes.len() as u64);
        Ok(())
    }

    /// Writes the gathered bytes, and makes the output at least `size` bytes long.
    pub(crate) fn finish(mut self, size: u64) -> Result<W, Error> {
        self.flush()?;
        let failed = |source| Error::Output {
            offset: size,
            source,
        };
        let end = self.out.seek(SeekFrom::End(0)).map_err(failed)?;
        if end < size {
            self.position = Some(end);
            self.write_through(size - 1, &[0])?;
        }
        self.out.flush().map_err(failed)?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn adjacent_and_scattered_writes_land_where_they_were_sent() {
        let mut out = Output::new(Cursor::new(Vec::new()));
        for (offset, bytes) in [(4, &b"ef"[..]), (6, b"gh"), (0, b"ab"), (2, b"cd")] {
            out.write_at(offset, bytes).unwrap();
        }
        out.write_at(1 << 20, &vec![7; GATHER + 1]).unwrap();
        let image = out.finish(2 << 20).unwrap().into_inner();
        assert_eq!(&image[..8], b"abcdefgh");
        assert_eq!(image[1 << 20..][..GATHER + 1], vec![7; GATHER + 1]);
        assert_eq!(image.len(), 2 << 20);
    }
}
