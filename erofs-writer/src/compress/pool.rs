//! Threads that cut and compress contents in batches. Results are returned in the order of
//! submission.

use std::io;
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::codec::encoder;
use super::cut::{Cut, Cutter};
use super::dedupe::Index;
use super::encode::Encode;
use super::options::Compression;
use crate::{BlockSize, Options};

/// Contents to be cut, of any number of files.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) bytes: Vec<u8>,
    pub(crate) pieces: Vec<Piece>,
}

/// A part of a file's contents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) cutter: Cutter,
    /// Bytes of it in the batch, after those of the pieces before it.
    pub(crate) length: usize,
    pub(crate) end: End,
}

/// The item after a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// More of the file.
    More,
    /// The end of the file, with its place in the builder's list.
    File { index: usize },
    /// The end of an abandoned file.
    Abandoned,
}

/// The result of a batch.
#[derive(Debug)]
pub(crate) struct Cuts {
    pub(crate) pieces: Vec<(Piece, Cut)>,
    /// The buffer of the batch, for reuse: allocating a new one for each takes time and fragments
    /// memory.
    pub(crate) bytes: Vec<u8>,
}

type Done = io::Result<Cuts>;

/// A batch whose result is pending.
#[derive(Debug)]
pub(crate) enum Ticket {
    Done(Done),
    /// Never locked. The lock only makes the `Receiver` shareable.
    Waiting(Mutex<Receiver<Done>>),
}

impl Ticket {
    /// Waits for the batch.
    pub(crate) fn wait(self) -> Done {
        match self {
            Self::Done(done) => done,
            Self::Waiting(done) => done
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner)
                .recv()
                .unwrap_or_else(|_| Err(io::Error::other("a thread that compresses is gone"))),
        }
    }
}

type Job = (Batch, Sender<Done>);

/// Threads, started with the first batch. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Pool {
    threads: usize,
    block_size: BlockSize,
    jobs: Option<Sender<Job>>,
    /// The encoders of the calling thread, used if there is only one thread.
    own: Worker,
}

impl Pool {
    pub(crate) fn new(options: &Options) -> Self {
        let block_size = options.block_size;
        let mut own = Worker::new(block_size);
        let threads = if options.dedupe_extents {
            // The result of cutting depends on all earlier contents, so there is one thread.
            own.index = Some(Index::new(block_size.bytes() as usize));
            1
        } else {
            options
                .threads
                .or_else(|| thread::available_parallelism().ok())
                .map_or(1, NonZeroUsize::get)
        };
        Self {
            threads,
            block_size,
            jobs: None,
            own,
        }
    }

    /// The number of batches in flight that keeps all threads busy.
    pub(crate) fn depth(&self) -> usize {
        match self.threads {
            1 => 0,
            threads => 2 * threads,
        }
    }

    /// Submits a batch.
    pub(crate) fn submit(&mut self, batch: Batch) -> io::Result<Ticket> {
        if self.threads == 1 {
            return Ok(Ticket::Done(self.own.cut(batch)));
        }
        let (sender, receiver) = channel();
        self.jobs()?
            .send((batch, sender))
            .map_err(|_| io::Error::other("all threads that compress are gone"))?;
        Ok(Ticket::Waiting(Mutex::new(receiver)))
    }

    fn jobs(&mut self) -> io::Result<&Sender<Job>> {
        if self.jobs.is_none() {
            let (sender, receiver) = channel::<Job>();
            let receiver = Arc::new(Mutex::new(receiver));
            for _ in 0..self.threads {
                let receiver = Arc::clone(&receiver);
                let mut worker = Worker::new(self.block_size);
                thread::Builder::new()
                    .name("erofs-writer".into())
                    .spawn(move || {
                        loop {
                            let next = receiver
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .recv();
                            let Ok((batch, done)) = next else { return };
                            // The receiver may be gone.
                            let _ = done.send(worker.cut(batch));
                        }
                    })?;
            }
            self.jobs = Some(sender);
        }
        self.jobs
            .as_ref()
            .ok_or_else(|| io::Error::other("no threads"))
    }
}

/// One thread's encoders.
#[derive(Debug)]
struct Worker {
    block_size: BlockSize,
    index: Option<Index>,
    codecs: Vec<(Compression, Box<dyn Encode>)>,
}

impl Worker {
    fn new(block_size: BlockSize) -> Self {
        Self {
            block_size,
            index: None,
            codecs: Vec::new(),
        }
    }

    fn cut(&mut self, batch: Batch) -> Done {
        let Batch { mut bytes, pieces } = batch;
        let mut rest = &bytes[..];
        let mut done = Vec::with_capacity(pieces.len());
        for piece in &pieces {
            let input;
            (input, rest) = rest.split_at(piece.length);
            let last = piece.end != End::More;
            let cut = match &piece.cutter.compression {
                Some(compression) => {
                    let codec = codec(&mut self.codecs, compression, self.block_size)?;
                    let index = self.index.as_mut();
                    piece.cutter.cut(Some(codec), index, input, last)?
                }
                None => piece.cutter.cut(None, None, input, last)?,
            };
            done.push((*piece, cut));
        }
        bytes.clear();
        Ok(Cuts {
            pieces: done,
            bytes,
        })
    }
}

fn codec<'a>(
    codecs: &'a mut Vec<(Compression, Box<dyn Encode>)>,
    compression: &Compression,
    block_size: BlockSize,
) -> io::Result<&'a mut dyn Encode> {
    let known = codecs.iter().position(|(of, _)| of == compression);
    let index = match known {
        Some(index) => index,
        None => {
            codecs.push((*compression, encoder(compression, block_size)?));
            codecs.len() - 1
        }
    };
    Ok(&mut *codecs[index].1)
}
