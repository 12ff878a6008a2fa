//! The output file of an image.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::num::NonZeroU64;

use blockbox_store::atomic::start_writeback;
use blockbox_store::{Checksum, Hasher, Meter};
use erofs_writer::SetLen;

/// How many bytes are written before their writeback to the disk is started.
const WINDOW: u64 = 8 << 20;

/// A file whose bytes are written back to the disk while later ones are being produced, so that the
/// final `fsync` has little to do.
#[derive(Debug)]
pub(crate) struct Output<'a> {
    file: &'a File,
    /// The image's offset in the file.
    start: u64,
    /// The file's offset of the next byte.
    at: u64,
    sent: Sent,
    hasher: Option<Hasher>,
    meter: Meter,
}

impl<'a> Output<'a> {
    pub(crate) fn new(file: &'a File) -> Self {
        Self {
            file,
            start: 0,
            at: 0,
            sent: Sent::default(),
            hasher: None,
            meter: Meter::default(),
        }
    }

    /// Returns the output with a meter for the bytes that are written.
    pub(crate) fn metered(self, meter: &Meter) -> Self {
        Self {
            meter: meter.clone(),
            ..self
        }
    }

    /// Returns an output whose image begins at offset `start` of `file`.
    pub(crate) fn starting_at(file: &'a File, start: u64) -> io::Result<Self> {
        let mut output = Self {
            start,
            sent: Sent(start),
            ..Self::new(file)
        };
        output.rewind()?;
        Ok(output)
    }

    /// Returns an output that computes the checksum of what is written.
    pub(crate) fn hashed(file: &'a File) -> Self {
        Self {
            hasher: Some(Hasher::default()),
            ..Self::new(file)
        }
    }

    /// Returns the checksum of the complete file.
    pub(crate) fn checksum(self) -> io::Result<Checksum> {
        self.hasher.unwrap_or_default().finish(self.file)
    }
}

/// How much of a file has been given to the writeback while it is written.
#[derive(Debug, Default)]
pub(crate) struct Sent(u64);

impl Sent {
    /// The bytes before `at` of `file` are written.
    pub(crate) fn advance(&mut self, file: &File, at: u64) {
        let new = at.saturating_sub(self.0);
        if new >= WINDOW {
            start_writeback(file, self.0, NonZeroU64::new(new));
            self.0 = at;
        }
    }

    /// All of `file` is written.
    pub(crate) fn finish(self, file: &File) {
        start_writeback(file, self.0, None);
    }
}

impl SetLen for Output<'_> {
    fn set_len(&mut self, length: u64) -> io::Result<()> {
        SetLen::set_len(&mut self.file, self.start + length)
    }
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.wrote(self.at, &bytes[..n]);
        }
        self.at += n as u64;
        self.meter.add(n as u64);
        self.sent.advance(self.file, self.at);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Output<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(offset) => SeekFrom::Start(self.start.saturating_add(offset)),
            relative => relative,
        };
        self.at = self.file.seek(to)?;
        self.at
            .checked_sub(self.start)
            .ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

impl Read for Output<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(into)?;
        self.at += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_can_begin_inside_a_file() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"before").expect("written");
        let mut output = Output::starting_at(&file, 4).expect("an output");
        output.write_all(b"image").expect("written");
        assert_eq!(output.stream_position().expect("a position"), 5);
        assert_eq!(output.seek(SeekFrom::End(0)).expect("the end"), 5);
        output.set_len(4).expect("shorter");
        assert_eq!(output.seek(SeekFrom::Start(1)).expect("in the file"), 1);
        output.write_all(b"M").expect("written");
        let mut all = String::new();
        file.rewind().expect("the start");
        file.read_to_string(&mut all).expect("text");
        assert_eq!(all, "befoiMag");
    }

    #[test]
    fn written_bytes_can_be_read_back_before_the_end() {
        let file = tempfile::tempfile().expect("a file");
        let mut output = Output::new(&file);
        let piece: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
        let mut read = vec![0; piece.len()];
        for number in 0..8 {
            output.write_all(&piece).expect("written");
            let back = output.seek(SeekFrom::Start(number * piece.len() as u64));
            assert_eq!(back.expect("in the file"), number * piece.len() as u64);
            output
                .read_exact(&mut read)
                .expect("as much as was written");
            assert!(read == piece);
        }
        // The superblock comes last.
        output.seek(SeekFrom::Start(1024)).expect("in the file");
        output.write_all(b"magic").expect("written");
        output.set_len(10 << 20).expect("shorter");
        assert_eq!(file.metadata().expect("open").len(), 10 << 20);
    }
}
