//! A stream whose contents are decoded ahead of what is written.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::meter::Meter;
use super::pieces::{PIECE, Piece, PieceReader, Pieces};
use super::sparse::SparseMap;
use crate::error::Error;
use crate::image::Image;
use crate::inode::Inode;
use crate::num::{clamp_len, narrow, wide};
use crate::progress::Progress;
use crate::read_at::ReadAt;

/// The number of bytes, and of items, that may wait for each thread.
const WAITING_BYTES: u64 = 8 * PIECE;
const WAITING: usize = 4096;

/// The number of reused buffers, and their largest size.
const SPARE: usize = 16;
const SPARE_BYTES: u64 = 2 * PIECE;

/// A job: what to decode, and where to send the result.
struct Job {
    inode: Inode,
    /// This piece, or all of the file.
    piece: Option<Piece>,
    buffer: Vec<u8>,
    result: SyncSender<Result<Vec<u8>, Error>>,
}

/// The next part of the stream.
enum Next {
    Bytes(Vec<u8>),
    Zeros(u64),
    /// Data that needs no decoding, and is copied when its turn comes.
    Stored(Inode, Piece),
    /// Data that a thread decodes, and how much.
    Decoding(Receiver<Result<Vec<u8>, Error>>, u64),
}

impl Next {
    /// How many bytes it keeps in memory.
    fn held(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => wide(bytes.len()),
            Self::Decoding(_, length) => *length,
            Self::Zeros(_) | Self::Stored(..) => 0,
        }
    }
}

/// The ordered output of a tar stream.
pub(super) struct Stream<'a, 'i, R, W> {
    image: &'i Image<R>,
    out: W,
    jobs: &'a Sender<Job>,
    /// Parts that are not written yet, with the paths they belong to.
    waiting: VecDeque<(Vec<u8>, Next)>,
    /// How many bytes of them are in memory or will be, and the limit.
    held: u64,
    most: u64,
    reader: PieceReader<'i, R>,
    buffer: Vec<u8>,
    /// Buffers to decode into.
    spare: Vec<Vec<u8>>,
    pub(super) meter: Meter,
}

impl<R: ReadAt, W: Write> Stream<'_, '_, R, W> {
    /// Writes `bytes`, which belong to `path`.
    pub(super) fn bytes(&mut self, path: &[u8], bytes: Vec<u8>) -> Result<(), Error> {
        self.push(path, Next::Bytes(bytes))
    }

    /// Writes the contents of the file `inode`: all of it, or the ranges in `map` if it is sparse.
    pub(super) fn contents(
        &mut self,
        path: &[u8],
        inode: &Inode,
        map: Option<&SparseMap>,
    ) -> Result<(), Error> {
        if map.is_none() && inode.is_compressed() && inode.size() <= PIECE {
            self.decode(path, inode, None, inode.size())?;
            self.meter.add(0, inode.size());
            return Ok(());
        }
        for piece in Pieces::new(self.image, inode).map_err(|e| e.of_path(path))? {
            let piece = piece.map_err(|e| e.of_path(path))?;
            let length = piece.length;
            if piece.is_hole() {
                // A run of holes is either in the map as a whole or not at all.
                if map.is_none_or(|map| map.contains(piece.start)) {
                    self.push(path, Next::Zeros(length))?;
                }
            } else if inode.is_compressed() {
                self.decode(path, inode, Some(piece), length)?;
            } else {
                self.push(path, Next::Stored(*inode, piece))?;
            }
            self.meter.add(0, length);
        }
        Ok(())
    }

    fn decode(
        &mut self,
        path: &[u8],
        inode: &Inode,
        piece: Option<Piece>,
        length: u64,
    ) -> Result<(), Error> {
        let (result, decoded) = sync_channel(1);
        let job = Job {
            inode: *inode,
            piece,
            buffer: self.spare.pop().unwrap_or_default(),
            result,
        };
        // The threads run until this value is dropped. A missing result is reported as an error
        // anyway.
        let _ = self.jobs.send(job);
        self.push(path, Next::Decoding(decoded, length))
    }

    fn push(&mut self, path: &[u8], next: Next) -> Result<(), Error> {
        self.held = self.held.saturating_add(next.held());
        self.waiting.push_back((path.to_vec(), next));
        while self.waiting.len() > WAITING || self.held > self.most {
            self.write_next()?;
        }
        Ok(())
    }

    /// Writes all pending parts.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        while !self.waiting.is_empty() {
            self.write_next()?;
        }
        let flushed = self.out.flush();
        flushed.map_err(|source| output(&[], source))
    }

    fn write_next(&mut self) -> Result<(), Error> {
        let Some((path, next)) = self.waiting.pop_front() else {
            return Ok(());
        };
        self.held = self.held.saturating_sub(next.held());
        let output = |source| output(&path, source);
        match next {
            Next::Bytes(bytes) => self.out.write_all(&bytes).map_err(output),
            Next::Zeros(mut left) => {
                let zeros = [0; 1 << 16];
                while left > 0 {
                    let n = clamp_len(zeros.len(), left);
                    let zeros = zeros.get(..n).unwrap_or_default();
                    self.out.write_all(zeros).map_err(output)?;
                    left = left.saturating_sub(wide(n));
                }
                Ok(())
            }
            Next::Stored(inode, piece) => {
                self.buffer.resize(narrow(piece.length), 0);
                let read = self.reader.read(&inode, &piece, &mut self.buffer);
                read.map_err(|e| e.of_path(&path))?;
                self.out.write_all(&self.buffer).map_err(output)
            }
            Next::Decoding(decoded, _) => {
                let lost = || output(io::Error::other("a thread has ended early"));
                let decoded = decoded.recv().map_err(|_| lost())?;
                let bytes = decoded.map_err(|e| e.of_path(&path))?;
                self.out.write_all(&bytes).map_err(output)?;
                if self.spare.len() < SPARE && wide(bytes.capacity()) <= SPARE_BYTES {
                    self.spare.push(bytes);
                }
                Ok(())
            }
        }
    }
}

fn output(path: &[u8], source: io::Error) -> Error {
    Error::Output {
        path: path.into(),
        source,
    }
}

/// Runs `produce` on a stream to `out`, beside as many threads that decode as the machine runs at
/// once.
pub(super) fn with<R: ReadAt + Sync, W: Write, O>(
    image: &Image<R>,
    out: W,
    progress: Option<Progress>,
    produce: impl FnOnce(&mut Stream<'_, '_, R, W>) -> Result<O, Error>,
) -> Result<O, Error> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let (sender, receiver) = channel();
    let receiver = Mutex::new(receiver);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| decode(image, &receiver));
        }
        // Dropping it ends the threads.
        let sender = sender;
        produce(&mut Stream {
            image,
            out,
            jobs: &sender,
            waiting: VecDeque::new(),
            held: 0,
            most: WAITING_BYTES.saturating_mul(wide(threads)),
            reader: PieceReader::new(image),
            buffer: Vec::new(),
            spare: Vec::new(),
            meter: Meter::new(progress),
        })
    })
}

fn decode<R: ReadAt>(image: &Image<R>, jobs: &Mutex<Receiver<Job>>) {
    let mut reader = PieceReader::new(image);
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else {
            return;
        };
        let Job {
            inode,
            piece,
            mut buffer,
            result,
        } = job;
        let decoded = match piece {
            Some(piece) => {
                buffer.resize(narrow(piece.length), 0);
                reader.read(&inode, &piece, &mut buffer)
            }
            None => whole(image, &mut reader, &inode, &mut buffer),
        };
        // No one receives it if the stream has failed.
        let _ = result.send(decoded.map(|()| buffer));
    }
}

/// Reads a file of at most a piece's length.
fn whole<'a, R: ReadAt>(
    image: &'a Image<R>,
    reader: &mut PieceReader<'a, R>,
    inode: &Inode,
    buffer: &mut Vec<u8>,
) -> Result<(), Error> {
    buffer.resize(narrow(inode.size()), 0);
    let mut free = &mut buffer[..];
    for piece in Pieces::new(image, inode)? {
        let piece = piece?;
        let (to, rest) = free
            .split_at_mut_checked(narrow(piece.length))
            .unwrap_or_default();
        reader.read(inode, &piece, to)?;
        free = rest;
    }
    Ok(())
}
