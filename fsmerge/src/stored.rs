//! The data of a sparse file.

use std::io::{self, BufReader, Read};

/// The bytes of a file's ranges, one after the other, as [`Content`](crate::Content) wants them.
pub(crate) struct Stored<'a, F> {
    read_at: F,
    ranges: &'a [(u64, u64)],
    /// The position in the first range.
    position: u64,
    /// The cause of a failed read, which a sink's error does not contain.
    /// [`io::ErrorKind::UnexpectedEof`] where the file ends too early.
    pub(crate) failure: Option<io::Error>,
}

impl<'a, F: FnMut(&mut [u8], u64) -> io::Result<usize>> Stored<'a, F> {
    /// `read_at` reads at a position of the file; `ranges` are offsets and lengths.
    pub(crate) fn new(ranges: &'a [(u64, u64)], read_at: F) -> Self {
        Self {
            read_at,
            ranges,
            position: 0,
            failure: None,
        }
    }

    /// With a buffer that suits a file of `size` bytes.
    pub(crate) fn buffered(self, size: u64) -> BufReader<Self> {
        const LARGEST: usize = 256 << 10;
        let capacity = usize::try_from(size).map_or(LARGEST, |size| size.min(LARGEST));
        BufReader::with_capacity(capacity, self)
    }
}

impl<F: FnMut(&mut [u8], u64) -> io::Result<usize>> Read for Stored<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (start, left) = loop {
            let Some((&(start, len), rest)) = self.ranges.split_first() else {
                return Ok(0);
            };
            if self.position < len {
                break (start + self.position, len - self.position);
            }
            self.ranges = rest;
            self.position = 0;
        };
        let wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if wanted == 0 {
            return Ok(0);
        }
        let failure = match (self.read_at)(&mut buffer[..wanted], start) {
            Ok(0) => io::ErrorKind::UnexpectedEof.into(),
            Ok(n) => {
                self.position += n as u64;
                return Ok(n);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
            Err(e) => e,
        };
        let said = failure.kind().into();
        self.failure = Some(failure);
        Err(said)
    }
}
