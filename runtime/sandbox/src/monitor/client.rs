//! A client of a monitor: the messages to it, and the streams that it is attached to.

use std::collections::HashMap;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use blockbox_protocol::{Envelope, Reply};

use super::hub::{Attachment, Hub, Recipient};
use super::message::Outcome;

/// The most commands of one client at a time.
const STREAMS: usize = 256;

/// Requests of a client are not read while this many bytes to it are unsent.
const BACKLOG: usize = 1 << 20;

/// A connected client.
#[derive(Debug)]
pub(super) struct Client {
    socket: UnixStream,
    out: Mutex<Out>,
    changed: Condvar,
    streams: Mutex<HashMap<u32, Arc<Attachment>>>,
    /// Whether this client is the process that started the monitor.
    pub(super) launcher: bool,
}

#[derive(Debug, Default)]
struct Out {
    bytes: Vec<u8>,
    /// No more messages will be queued.
    closing: bool,
    /// No more messages can be sent.
    gone: bool,
    /// The writer has sent everything and ended.
    ended: bool,
}

impl Client {
    /// Returns the client at the other end of a connection.
    pub(super) fn new(socket: UnixStream, launcher: bool) -> Arc<Self> {
        Arc::new(Client {
            socket,
            out: Mutex::default(),
            changed: Condvar::new(),
            streams: Mutex::default(),
            launcher,
        })
    }

    /// Queues an answer to a question.
    pub(super) fn answer(&self, id: u32, outcome: &Outcome) {
        let payload = serde_json::to_vec(outcome).unwrap_or_default();
        self.queue(|out| Envelope::Answer { id, payload }.encode(out));
    }

    /// Queues a message about what the monitor is doing.
    pub(super) fn notice(&self, text: &str) {
        let payload = text.as_bytes().to_vec();
        self.queue(|out| Envelope::Notice { payload }.encode(out));
    }

    fn queue(&self, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut out = self.out();
        if !out.gone && !out.closing {
            encode(&mut out.bytes);
            self.changed.notify_all();
        }
    }

    /// Closes the connection after everything queued has been sent.
    pub(super) fn close(&self) {
        self.out().closing = true;
        self.changed.notify_all();
    }

    /// Waits until everything that was queued before [`close`](Self::close) is sent, or the client
    /// has disconnected.
    pub(super) fn wait_closed(&self) {
        let mut out = self.out();
        while !out.ended {
            out = self.wait(out);
        }
    }

    /// Sends what is queued until the end of the connection.
    pub(super) fn write_to(&self, mut socket: UnixStream) {
        loop {
            let mut out = self.out();
            while out.bytes.is_empty() && !out.closing && !out.gone {
                out = self.wait(out);
            }
            if out.gone || out.bytes.is_empty() {
                break;
            }
            let bytes = std::mem::take(&mut out.bytes);
            self.changed.notify_all();
            drop(out);
            if socket.write_all(&bytes).is_err() {
                self.out().gone = true;
                break;
            }
        }
        // This ends the reader, too. The client may have disconnected already.
        let _ = socket.shutdown(Shutdown::Both);
        self.out().ended = true;
        self.changed.notify_all();
    }

    /// Attaches this client to the streams of a command under `id`, or returns why it cannot.
    pub(super) fn attach(
        self: &Arc<Self>,
        hub: &Arc<Hub>,
        id: u32,
        input: bool,
    ) -> Option<&'static str> {
        let mut streams = self.streams();
        if streams.len() >= STREAMS {
            return Some("too many commands at a time on one connection");
        }
        if streams.contains_key(&id) {
            return Some("the command's id is in use");
        }
        // If the command ends at once, it removes the stream again when the lock is free.
        if let Some(attachment) = hub.attach(Arc::clone(self) as Arc<dyn Recipient>, id, input) {
            streams.insert(id, attachment);
        }
        None
    }

    /// Returns the attachment to the streams of the command under `id`.
    pub(super) fn stream(&self, id: u32) -> Option<Arc<Attachment>> {
        self.streams().get(&id).cloned()
    }

    /// Waits until most of what was queued for the client has been sent.
    pub(super) fn wait_for_room(&self) {
        let mut out = self.out();
        while out.bytes.len() > BACKLOG && !out.gone && !out.closing {
            out = self.wait(out);
        }
    }

    /// Cleans up after the connection has ended.
    pub(super) fn leave(&self) {
        {
            let mut out = self.out();
            out.gone = true;
            self.changed.notify_all();
        }
        let _ = self.socket.shutdown(Shutdown::Both);
        let streams = std::mem::take(&mut *self.streams());
        for attachment in streams.into_values() {
            attachment.leave();
        }
    }

    fn wait<'a>(&self, out: MutexGuard<'a, Out>) -> MutexGuard<'a, Out> {
        self.changed
            .wait(out)
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<u32, Arc<Attachment>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recipient for Client {
    fn reply(&self, reply: &Reply) {
        self.queue(|out| reply.encode(out));
    }

    fn finish(&self, id: u32, reply: &Reply) {
        self.reply(reply);
        self.streams().remove(&id);
    }
}
