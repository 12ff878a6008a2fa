//! Sources of an image's bytes.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::error::Error;
#[cfg(feature = "std")]
use std::fs::File;
#[cfg(feature = "std")]
use std::io;

use crate::num::{clamp_len, narrow, wide};

/// The error of a source: any error, such as a [`std::io::Error`], which `?` converts.
pub type ReadAtError = Box<dyn Error + Send + Sync>;

/// Bytes that can be read at any position, by any number of readers at once.
///
/// Implemented for files (which need no seek, so that one handle serves many threads), for byte
/// slices and for every usual kind of pointer to a reader.
pub trait ReadAt {
    /// Reads at most `buf.len()` bytes at `offset`; 0 means that `offset` is at or past the end (or
    /// that `buf` is empty).
    ///
    /// # Errors
    ///
    /// Whatever the source reports. A [`std::io::Error`] that says
    /// [`Interrupted`](std::io::ErrorKind::Interrupted) makes this crate read again.
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
        let rest = self.get(narrow(offset)..).unwrap_or_default();
        let n = clamp_len(buf.len(), wide(rest.len()));
        if let (Some(to), Some(from)) = (buf.get_mut(..n), rest.get(..n)) {
            to.copy_from_slice(from);
        }
        Ok(n)
    }

    fn size(&self) -> Result<u64, ReadAtError> {
        Ok(wide(self.len()))
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

#[cfg(feature = "std")]
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

/// Fills `buf` from `offset`, or returns the number of bytes that exist.
pub(crate) fn read_full<R: ReadAt + ?Sized>(
    reader: &R,
    buf: &mut [u8],
    offset: u64,
) -> Result<usize, ReadAtError> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let Some(at) = offset.checked_add(wide(done)) else {
            break;
        };
        match reader.read_at(rest, at) {
            Ok(0) => break,
            Ok(n) => done = done.saturating_add(n),
            Err(e) if is_interruption(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

#[cfg(feature = "std")]
fn is_interruption(error: &ReadAtError) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::Interrupted)
}

#[cfg(not(feature = "std"))]
fn is_interruption(_: &ReadAtError) -> bool {
    false
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn reading_at_or_past_the_end_gives_no_bytes() {
        let bytes = vec![1_u8, 2, 3];
        let mut buf = [0; 4];
        assert_eq!(bytes.read_at(&mut buf, 3).unwrap(), 0);
        assert_eq!(bytes.read_at(&mut buf, u64::MAX).unwrap(), 0);
        assert_eq!(read_full(&bytes, &mut buf, 1).unwrap(), 2);
        assert_eq!(buf, [2, 3, 0, 0]);
    }

    #[test]
    fn a_file_is_read_without_moving_its_position() {
        use std::io::{Read, Write};
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"hello").unwrap();
        let mut buf = [0; 2];
        assert_eq!(ReadAt::read_at(&file, &mut buf, 1).unwrap(), 2);
        assert_eq!(&buf, b"el");
        assert_eq!(file.size().unwrap(), 5);
        let mut rest = String::new();
        file.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
    }
}
