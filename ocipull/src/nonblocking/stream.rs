use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io::BufRead;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;

use crate::image::Unopened;
use crate::unverified::Unverified;
use crate::{Digest, Error};

/// Pieces that wait for the consumer.
const DEPTH: usize = 8;

/// The uncompressed tar of a layer, in pieces, for asynchronous code.
///
/// The layer is verified at its end: only [`next`](Self::next)'s `Ok(None)` says that all pieces
/// were right. Dropping the stream earlier stops the download; the [`Image`](crate::Image) returns
/// [`Error::Unverified`] then, unless an error was returned or [`abandon`](Self::abandon) was
/// called.
#[must_use = "a layer is verified at its end only: call `next` until it returns `None`"]
pub struct LayerStream {
    queue: Arc<Queue>,
    digest: Digest,
    unverified: Unverified,
    /// The caller knows that the layer is not verified.
    known: bool,
}

impl LayerStream {
    pub(super) fn start(layer: Unopened) -> Result<Self, Error> {
        let queue = Arc::new(Queue::default());
        let (digest, unverified) = layer.unverified();
        let pieces = queue.clone();
        let thread = thread::Builder::new().name("ocipull-stream".to_owned());
        thread
            .spawn(move || {
                let end = Ending(&pieces);
                let result = send(layer, &pieces);
                pieces.lock().end = Some(result);
                drop(end);
            })
            .map_err(|source| Error::Thread { source })?;
        Ok(Self {
            queue,
            digest,
            unverified,
            known: false,
        })
    }

    /// Returns the next piece, of any length; `None` when the layer is complete and verified.
    ///
    /// ```
    /// use ocipull::{Error, Image};
    ///
    /// async fn size(image: &Image, index: usize) -> Result<usize, Error> {
    ///     let mut layer = image.stream_layer(index)?;
    ///     let mut size = 0;
    ///     while let Some(piece) = layer.next().await? {
    ///         size += piece.len();
    ///     }
    ///     Ok(size)
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As reading a [`LayerReader`](crate::LayerReader) does. After an error, [`Error::Failed`].
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let next = poll_fn(|context| self.queue.poll(context)).await;
        self.known |= next.is_err();
        next
    }

    /// Stops reading. Nothing that was read is verified, as the caller knows.
    pub fn abandon(mut self) {
        self.known = true;
    }
}

impl Drop for LayerStream {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.dropped = true;
        if !self.known && !matches!(state.end, Some(Ok(()))) {
            self.unverified.add(&self.digest);
        }
        drop(state);
        self.queue.room.notify_all();
    }
}

impl fmt::Debug for LayerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerStream").finish_non_exhaustive()
    }
}

/// Reads the layer into the queue, to its end or until the stream is dropped.
fn send(layer: Unopened, queue: &Queue) -> Result<(), Error> {
    let failed = |error: std::io::Error| {
        let error = error.downcast();
        error.unwrap_or_else(|source| Error::Read { source })
    };
    let mut reader = layer.open()?;
    loop {
        let piece = reader.fill_buf().map_err(failed)?.to_vec();
        if piece.is_empty() {
            return reader.finish();
        }
        reader.consume(piece.len());
        if !queue.push(piece) {
            reader.abandon();
            return Ok(());
        }
    }
}

/// Wakes the consumer when the thread ends, however it does.
struct Ending<'a>(&'a Queue);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.end.get_or_insert(Err(Error::Failed));
        state.wake();
    }
}

/// Pieces on their way from the thread that reads the layer to the stream.
#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    /// Notified when a piece was taken or the stream was dropped.
    room: Condvar,
}

#[derive(Default)]
struct State {
    pieces: VecDeque<Vec<u8>>,
    /// The result after the last piece.
    end: Option<Result<(), Error>>,
    waker: Option<Waker>,
    dropped: bool,
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room. Returns false if the stream was dropped.
    fn push(&self, piece: Vec<u8>) -> bool {
        let full = |state: &mut State| state.pieces.len() >= DEPTH && !state.dropped;
        let state = self.room.wait_while(self.lock(), full);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.pieces.push_back(piece);
        state.wake();
        !state.dropped
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<Result<Option<Vec<u8>>, Error>> {
        let mut state = self.lock();
        if let Some(piece) = state.pieces.pop_front() {
            self.room.notify_all();
            return Poll::Ready(Ok(Some(piece)));
        }
        match &mut state.end {
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
            Some(Ok(())) => Poll::Ready(Ok(None)),
            Some(end) => {
                let end = std::mem::replace(end, Err(Error::Failed));
                Poll::Ready(end.map(|()| None))
            }
        }
    }
}
