use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

/// The data of a file's ranges, one after the other: what
/// [`Builder::add_sparse_file`](crate::Builder::add_sparse_file) takes, from a file that can be
/// read anywhere.
#[derive(Debug)]
pub struct Ranges<R> {
    file: R,
    ranges: std::vec::IntoIter<Range<u64>>,
    /// Of the range that is being read.
    left: u64,
}

impl<R: Read + Seek> Ranges<R> {
    /// Returns the bytes in `ranges` of `file`.
    ///
    /// ```
    /// use std::io::{Cursor, Read};
    ///
    /// use ext4_writer::Ranges;
    ///
    /// let mut data = String::new();
    /// Ranges::new(Cursor::new("one two three"), [0..3, 8..13]).read_to_string(&mut data)?;
    /// assert_eq!(data, "onethree");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn new(file: R, ranges: impl Into<Vec<Range<u64>>>) -> Self {
        Self {
            file,
            ranges: ranges.into().into_iter(),
            left: 0,
        }
    }
}

impl<R: Read + Seek> Read for Ranges<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            let Some(range) = self.ranges.next() else {
                return Ok(0);
            };
            self.file.seek(SeekFrom::Start(range.start))?;
            self.left = range.end.saturating_sub(range.start);
        }
        let read = (&mut self.file).take(self.left).read(bytes)?;
        self.left -= read as u64;
        Ok(read)
    }
}
