//! Contents of regular files in one piece, written as they arrive.

use std::fmt;
use std::io::{self, Seek, Write};

use xxhash_rust::xxh3::Xxh3;

use super::area::ContentArea;
use crate::compress::{Compression, Cutter, End, Fragments, Place as Became};
use crate::error::Error;
use crate::file_data::{FileData, Place};
use crate::options::Options;

/// Writer of the contents of one regular file. Dropped without [`finish`](Self::finish), it leaves
/// nothing in the image.
///
/// Write large pieces, or wrap it in a [`BufWriter`](std::io::BufWriter): small ones cost a hash
/// update each.
#[must_use = "contents are stored by `finish`"]
pub struct DataWriter<'a, W: Write + Seek> {
    area: &'a mut ContentArea<W>,
    /// Bytes written so far.
    size: u64,
    route: Route,
}

/// How contents reach the image.
enum Route {
    /// Straight to the output.
    Direct(Direct),
    /// Through the threads that compress.
    Piped { cutter: Cutter, submitted: bool },
    /// Finished.
    Done,
}

struct Direct {
    start: u64,
    /// The number of bytes written to the output.
    written: u64,
    /// The rest, where a partial last block can go after the inode.
    tail: Option<Vec<u8>>,
    /// Running hash over what was written.
    hash: Box<Xxh3>,
    holes: bool,
}

impl<W: Write + Seek> fmt::Debug for DataWriter<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataWriter")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl<'a, W: Write + Seek> DataWriter<'a, W> {
    /// A writer through the threads: its contents are compressed, or stored in an image with
    /// compressed contents.
    pub(crate) fn new(area: &'a mut ContentArea<W>, compression: Option<Compression>) -> Self {
        let route = if area.options.compresses() {
            Route::Piped {
                cutter: Cutter::new(compression, &area.options),
                submitted: false,
            }
        } else {
            Route::Direct(Direct {
                start: area.data_end(),
                written: 0,
                tail: area.options.inline_tails.then(Vec::new),
                hash: Box::new(Xxh3::new()),
                holes: false,
            })
        };
        Self {
            area,
            size: 0,
            route,
        }
    }

    /// Appends `length` zeros, as a hole in the output where it is a file.
    ///
    /// ```
    /// use std::io::{Cursor, Write};
    /// use erofs_writer::{Builder, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// let mut data = image.data();
    /// data.write_all(b"begins")?;
    /// data.hole(1000)?;
    /// assert_eq!(data.finish()?.size(), 1006);
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Output`] where the output fails; [`Error::TooLarge`] where the image becomes larger
    /// than its addresses reach.
    pub fn hole(&mut self, length: u64) -> Result<(), Error> {
        let end = self.size.checked_add(length);
        let size = end
            .filter(|&size| size <= i64::MAX as u64)
            .ok_or_else(|| self.area.too_large(u64::MAX))?;
        match &mut self.route {
            Route::Direct(direct) => direct.hole(self.area, length)?,
            Route::Piped { .. } => {
                let zeros = vec![0; length.min(1 << 16) as usize];
                for done in (0..length).step_by(1 << 16) {
                    self.pipe(&zeros[..(length - done).min(1 << 16) as usize])?;
                }
            }
            Route::Done => {}
        }
        self.size = size;
        self.area.report(length);
        Ok(())
    }

    /// Ends the contents, and returns where they lie.
    ///
    /// ```
    /// use std::io::{Cursor, Write};
    /// use erofs_writer::{Builder, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// let mut data = image.data();
    /// data.write_all(b"hello\n")?;
    /// assert_eq!(data.finish()?.size(), 6);
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`hole`](Self::hole).
    pub fn finish(mut self) -> Result<FileData, Error> {
        if self.size == 0 {
            return Ok(FileData::EMPTY);
        }
        match std::mem::replace(&mut self.route, Route::Done) {
            Route::Direct(direct) => direct.finish(self.area, self.size),
            Route::Piped { cutter, .. } => self.finish_piped(cutter),
            Route::Done => Ok(FileData::EMPTY),
        }
    }

    /// Submits contents to the threads, piece by piece.
    fn pipe(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        let Route::Piped { cutter, submitted } = &mut self.route else {
            return Ok(());
        };
        while !bytes.is_empty() {
            let pipeline = self.area.pipeline();
            let mut room = cutter.piece() - pipeline.open().len();
            if room == 0 {
                // Only now, because the last piece is cut differently.
                pipeline.close(*cutter, End::More);
                *submitted = true;
                room = cutter.piece();
                self.area.advance()?;
            }
            let part;
            (part, bytes) = bytes.split_at(room.min(bytes.len()));
            self.area.pipeline().push(part);
        }
        Ok(())
    }

    fn finish_piped(&mut self, cutter: Cutter) -> Result<FileData, Error> {
        let Options {
            inline_tails,
            tail_packing,
            fragments,
            block_size,
            ..
        } = self.area.options;
        let elsewhere = tail_packing || fragments != Fragments::None;
        let index = self.area.contents.next_index();
        let mut place = Became::Pending;
        if inline_tails && !elsewhere && self.size <= block_size.tail_max() {
            let pipeline = self.area.pipeline();
            let tail = pipeline.open().to_vec();
            pipeline.discard_open();
            let index = self.area.keep_tail(0, &tail, self.size);
            place = Became::Tail { index };
        } else {
            self.area.pipeline().close(cutter, End::File { index });
        }
        self.area.contents.add(self.size, place);
        self.area.advance()?;
        Ok(FileData {
            size: self.size,
            place: Place::Piped {
                index: index as u64,
            },
        })
    }
}

impl Direct {
    fn hole<W: Write + Seek>(
        &mut self,
        area: &mut ContentArea<W>,
        length: u64,
    ) -> Result<(), Error> {
        if let Some(tail) = self.tail.take() {
            self.append(area, &tail)?;
        }
        let end = (self.start + self.written).saturating_add(length);
        area.check_end(end)?;
        self.place(area)?;
        area.output.zeros_to(end)?;
        self.written += length;
        // Hashing terabytes of zeros would take minutes.
        self.hash.update(&length.to_le_bytes());
        self.holes = true;
        Ok(())
    }

    fn write<W: Write + Seek>(
        &mut self,
        area: &mut ContentArea<W>,
        bytes: &[u8],
    ) -> io::Result<()> {
        let block = area.options.block_size.bytes() as usize;
        match self.tail.take() {
            None => self.append(area, bytes)?,
            Some(mut tail) if tail.len() + bytes.len() < block => {
                tail.extend_from_slice(bytes);
                self.tail = Some(tail);
            }
            Some(mut tail) => {
                let rest = (tail.len() + bytes.len()) % block;
                let (whole, rest) = bytes.split_at(bytes.len() - rest);
                self.append(area, &tail)?;
                self.append(area, whole)?;
                tail.clear();
                tail.extend_from_slice(rest);
                self.tail = Some(tail);
            }
        }
        Ok(())
    }

    fn finish<W: Write + Seek>(
        mut self,
        area: &mut ContentArea<W>,
        size: u64,
    ) -> Result<FileData, Error> {
        let tail = self.tail.take().unwrap_or_default();
        if !tail.is_empty() && tail.len() as u64 <= area.options.block_size.tail_max() {
            let block = match self.written {
                0 => 0,
                _ => self.store(area)?,
            };
            let index = area.keep_tail(block, &tail, size);
            return Ok(FileData {
                size,
                place: Place::Tail { index },
            });
        }
        self.append(area, &tail)?;
        Ok(FileData::flat(0, self.store(area)?, size))
    }

    /// Ends the bytes written to the output, and returns their first block or that of equal
    /// contents.
    fn store<W: Write + Seek>(&self, area: &mut ContentArea<W>) -> Result<u64, Error> {
        area.end_contents(self.start, self.written, self.hash.digest128(), !self.holes)
    }

    /// Writes to the output.
    fn append<W: Write + Seek>(
        &mut self,
        area: &mut ContentArea<W>,
        bytes: &[u8],
    ) -> io::Result<()> {
        self.place(area)?;
        area.output.write(bytes)?;
        self.hash.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Seeks to the end of the contents, since an abandoned writer may have moved the output's
    /// position.
    fn place<W: Write + Seek>(&self, area: &mut ContentArea<W>) -> io::Result<()> {
        area.output.seek(self.start + self.written)
    }
}

impl<W: Write + Seek> Write for DataWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.route {
            Route::Direct(direct) => direct.write(self.area, bytes)?,
            Route::Piped { .. } => self.pipe(bytes).map_err(io::Error::other)?,
            Route::Done => {}
        }
        self.size += bytes.len() as u64;
        self.area.report(bytes.len() as u64);
        Ok(bytes.len())
    }

    /// Does nothing: the image is written out by [`Builder::finish`](crate::Builder::finish).
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write + Seek> Drop for DataWriter<'_, W> {
    fn drop(&mut self) {
        if let Route::Piped { cutter, submitted } = self.route {
            let pipeline = self.area.pipeline();
            pipeline.discard_open();
            if submitted {
                pipeline.close(cutter, End::Abandoned);
            }
        }
    }
}
