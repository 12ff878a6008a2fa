//! Sources of bytes that are read at any position.

use std::error::Error;
use std::fs::File;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

/// What a source reports when it fails: any error, such as an [`io::Error`], which `?` converts.
pub type ReadAtError = Box<dyn Error + Send + Sync>;

/// Bytes that can be read at any position, by any number of readers at once.
///
/// Implemented for files (which need no seek, so that one handle serves many threads), for byte
/// slices, for vectors, for [`Disk`](crate::Disk) and for every usual kind of pointer to a source.
/// `erofs_reader::ReadAt` has the same shape.
pub trait ReadAt {
    /// Reads at most `buf.len()` bytes at `offset` and returns how many; 0 means that `offset` is
    /// at or past the end, or that `buf` is empty.
    ///
    /// # Errors
    ///
    /// Whatever the source reports. After an [`io::Error`] of kind
    /// [`Interrupted`](io::ErrorKind::Interrupted) this crate reads again.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, ReadAtError>;

    /// Returns the number of bytes in the source.
    ///
    /// # Errors
    ///
    /// Where the source cannot report it.
    fn size(&self) -> Result<u64, ReadAtError>;
}

impl ReadAt for [u8] {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, ReadAtError> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.get(start..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn size(&self) -> Result<u64, ReadAtError> {
        Ok(self.len() as u64)
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, ReadAtError> {
        self.as_slice().read_at(buf, offset)
    }

    fn size(&self) -> Result<u64, ReadAtError> {
        self.as_slice().size()
    }
}

impl ReadAt for File {
    #[cfg(unix)]
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, ReadAtError> {
        Ok(std::os::unix::fs::FileExt::read_at(self, buf, offset)?)
    }

    #[cfg(windows)]
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, ReadAtError> {
        Ok(std::os::windows::fs::FileExt::seek_read(self, buf, offset)?)
    }

    #[cfg(not(any(unix, windows)))]
    fn read_at(&self, _: &mut [u8], _: u64) -> Result<usize, ReadAtError> {
        // Such targets (wasm32-unknown-unknown) have no files that could be opened.
        Err(io::Error::from(io::ErrorKind::Unsupported).into())
    }

    fn size(&self) -> Result<u64, ReadAtError> {
        let meta = self.metadata()?;
        if meta.is_file() {
            return Ok(meta.len());
        }
        // The metadata of a block device has a length of 0. Reads never use the position that this
        // moves.
        let mut file = self;
        Ok(io::Seek::seek(&mut file, io::SeekFrom::End(0))?)
    }
}

macro_rules! pointer {
    ($($pointer:ty),+) => {$(
        impl<T: ReadAt + ?Sized> ReadAt for $pointer {
            fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, ReadAtError> {
                (**self).read_at(buf, offset)
            }

            fn size(&self) -> Result<u64, ReadAtError> {
                (**self).size()
            }
        }
    )+};
}

pointer!(&T, Box<T>, Rc<T>, Arc<T>);

/// Fills `buf` with the bytes at `offset`.
///
/// # Errors
///
/// [`io::ErrorKind::UnexpectedEof`] where the source ends before, and what it reports.
pub(crate) fn read_exact_at<S: ReadAt + ?Sized>(
    source: &S,
    mut buf: &mut [u8],
    mut offset: u64,
) -> io::Result<()> {
    while !buf.is_empty() {
        match source.read_at(buf, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                // A source that reports more than it was asked for must not make this panic.
                buf = buf.get_mut(n..).unwrap_or_default();
                offset = offset.saturating_add(n as u64);
            }
            Err(error) => {
                let error = into_io(error);
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// The [`io::Error`] that a source reported, or one around what else it did.
pub(crate) fn into_io(error: ReadAtError) -> io::Error {
    match error.downcast::<io::Error>() {
        Ok(error) => *error,
        Err(error) => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slice_reads_at_or_past_the_end_return_no_bytes() {
        let bytes = [1_u8, 2, 3];
        let mut buf = [0; 4];
        assert_eq!(bytes[..].read_at(&mut buf, 3).unwrap(), 0);
        assert_eq!(bytes[..].read_at(&mut buf, u64::MAX).unwrap(), 0);
        assert_eq!(bytes[..].read_at(&mut buf, 1).unwrap(), 2);
        assert_eq!(buf, [2, 3, 0, 0]);
        let error = read_exact_at(&bytes[..], &mut buf, 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    /// Interrupts every other read, and returns a byte at a time.
    struct Slow(std::sync::atomic::AtomicU64);

    impl ReadAt for Slow {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, ReadAtError> {
            if self
                .0
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed)
                .is_multiple_of(2)
            {
                return Err(io::Error::from(io::ErrorKind::Interrupted).into());
            }
            buf[0] = offset as u8;
            Ok(1)
        }

        fn size(&self) -> Result<u64, ReadAtError> {
            Ok(10)
        }
    }

    #[test]
    fn interrupted_and_short_reads_are_continued() {
        let mut buf = [0; 5];
        read_exact_at(&Slow(0.into()), &mut buf, 3).unwrap();
        assert_eq!(buf, [3, 4, 5, 6, 7]);
    }
}
