//! Stored bytes on their way to the decoders.

use crate::areas::Areas;
use crate::error::Error;
use crate::image::Image;
use crate::nid::Nid;
use crate::num::{narrow, wide};
use crate::read_at::ReadAt;

/// Bytes that are read at once at least, where what was read before ended there: the clusters of
/// small files follow each other. So many go past [`Buffered`](crate::Buffered), which would copy
/// them once more.
const AHEAD: u64 = 64 << 10;

/// The last read of a device.
#[derive(Debug, Default)]
pub(super) struct Input {
    device: u16,
    start: u64,
    length: u64,
    bytes: Vec<u8>,
    /// The end of the last request.
    next: (u16, u64),
}

impl Input {
    /// The `length` bytes at `start` of a device.
    pub(super) fn read<R: ReadAt>(
        &mut self,
        image: &Image<R>,
        nid: Nid,
        (device, start): (u16, u64),
        length: u64,
    ) -> Result<&[u8], Error> {
        image
            .storage()
            .check_range(device, Some(nid), start, length)?;
        let follows = (device, start) == self.next;
        self.next = (device, start.saturating_add(length));
        if !self.holds(device, start, length) {
            let left = image.device_size(device).unwrap_or(0).saturating_sub(start);
            let ahead = if follows { AHEAD.min(left) } else { 0 };
            // The bytes read ahead may be unreadable, and were not requested.
            if ahead <= length || self.fill(image, nid, (device, start), ahead).is_err() {
                self.fill(image, nid, (device, start), length)?;
            }
        }
        let within = narrow(start.saturating_sub(self.start));
        let end = within.saturating_add(narrow(length));
        Ok(self.bytes.get(within..end).unwrap_or_default())
    }

    fn holds(&self, device: u16, start: u64, length: u64) -> bool {
        let end = self.start.saturating_add(self.length);
        device == self.device && start >= self.start && start.saturating_add(length) <= end
    }

    fn fill<R: ReadAt>(
        &mut self,
        image: &Image<R>,
        nid: Nid,
        (device, start): (u16, u64),
        length: u64,
    ) -> Result<(), Error> {
        self.length = 0;
        let bytes = room(&mut self.bytes, length);
        image
            .storage()
            .read_device(device, Some(nid), bytes, start)?;
        (self.device, self.start) = (device, start);
        self.length = wide(bytes.len());
        Ok(())
    }
}

/// The first `length` bytes of a buffer, which grows where it must and never shrinks: growing
/// writes zeros.
pub(super) fn room(buffer: &mut Vec<u8>, length: u64) -> &mut [u8] {
    let length = narrow(length);
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
    buffer.get_mut(..length).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::{self, Cursor, Write};
    use std::sync::Mutex;

    use erofs_writer::{Builder, Metadata, Node, Options};

    use super::*;
    use crate::read_at::ReadAtError;

    /// Where a source cannot be read.
    const BAD: u64 = 200_000;

    /// A source that records reads.
    struct Watched<'a>(&'a [u8], &'a Mutex<Vec<(u64, usize)>>);

    impl ReadAt for Watched<'_> {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, ReadAtError> {
            if (offset..offset + buf.len() as u64).contains(&BAD) {
                return Err(io::Error::other("a bad block").into());
            }
            self.1.lock().unwrap().push((offset, buf.len()));
            self.0.read_at(buf, offset)
        }

        fn size(&self) -> Result<u64, ReadAtError> {
            self.0.size()
        }
    }

    #[test]
    fn errors_of_reading_ahead_are_ignored() {
        let mut builder = Builder::new(Cursor::new(Vec::new()), Options::default()).unwrap();
        let mut data = builder.data();
        data.write_all(&vec![b'x'; 300 << 10]).unwrap();
        let contents = data.finish().unwrap();
        builder
            .add_path(b"file", Metadata::new(0o755), Node::File(contents))
            .unwrap();
        let bytes = builder.finish().unwrap().0.into_inner();
        let reads = Mutex::default();
        let image = Image::open(Watched(&bytes, &reads)).unwrap();
        let nid = image.root().unwrap().nid();
        let mut input = Input::default();
        let mut read = |start: u64, length: u64| {
            let got = input.read(&image, nid, (0, start), length).unwrap();
            let from = usize::try_from(start).unwrap();
            assert_eq!(got, &bytes[from..from + got.len()]);
            assert_eq!(got.len() as u64, length);
        };
        for at in 0..20 {
            read(4096 + at * 4096, 4096);
        }
        // No read-ahead before requests are consecutive.
        read(8192, 100);
        read(BAD - 2000, 1000);
        read(BAD - 1000, 1000);
        let reads = reads.lock().unwrap();
        let ahead = 64 << 10;
        let expected = [
            (4096, 4096),
            (8192, ahead),
            (8192 + ahead as u64, ahead),
            (8192, 100),
            (BAD - 2000, 1000),
            (BAD - 1000, 1000),
        ];
        assert_eq!(reads[reads.len() - expected.len()..], expected);
    }
}
