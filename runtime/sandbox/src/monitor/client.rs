//! A client of a monitor: one connection, served by two threads.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use blockbox_protocol::{Decoder, Envelope, Reply, Request};

use blockbox_store::spec::Signal;

use super::hub::{Attachment, Hub, Options};
use super::message::{Ask, Failure, FailureKind, Outcome};
use super::shared::{Monitor, Work};

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
    /// Serves a connection in two threads.
    pub(super) fn serve(
        monitor: &Arc<Monitor>,
        socket: UnixStream,
        launcher: bool,
    ) -> io::Result<()> {
        let (reader, writer) = (socket.try_clone()?, socket.try_clone()?);
        let client = Arc::new(Client {
            socket,
            out: Mutex::default(),
            changed: Condvar::new(),
            streams: Mutex::default(),
            launcher,
        });
        monitor.client_came(&client);
        let writing = Arc::clone(&client);
        super::thread("client-out", move || writing.write_to(writer));
        let reading = client;
        let monitor = Arc::clone(monitor);
        super::thread("client-in", move || {
            // A client that violates the protocol is treated as disconnected.
            let _ = reading.read_from(reader, &monitor);
            reading.leave();
            monitor.client_left(&reading);
        });
        Ok(())
    }

    /// Queues a message.
    pub(super) fn reply(&self, reply: &Reply) {
        self.queue(|out| reply.encode(out));
    }

    /// Queues the last message of a command.
    pub(super) fn finish(&self, id: u32, reply: &Reply) {
        self.reply(reply);
        self.streams().remove(&id);
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

    fn write_to(&self, mut socket: UnixStream) {
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

    fn read_from(
        self: &Arc<Self>,
        mut socket: UnixStream,
        monitor: &Arc<Monitor>,
    ) -> Result<(), ()> {
        let mut decoder = Decoder::default();
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let count = match socket.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Err(()),
            };
            decoder.push(chunk.get(..count).unwrap_or_default());
            while let Some(frame) = decoder.next_frame().map_err(drop)? {
                match Envelope::decode(frame) {
                    Some(Envelope::Ask { id, payload }) => {
                        self.wait_for_room();
                        match serde_json::from_slice::<Ask>(&payload) {
                            Ok(ask) => monitor.asked(self, id, ask),
                            Err(e) => {
                                let text = format!(
                                    "the sandbox's monitor does not know this question: {e}"
                                );
                                self.answer(id, &Err(Failure::new(FailureKind::Unknown, text)));
                            }
                        }
                    }
                    Some(_) => return Err(()),
                    None => self.requested(Request::decode(frame).map_err(drop)?, monitor)?,
                }
            }
        }
    }

    fn requested(self: &Arc<Self>, request: Request, monitor: &Arc<Monitor>) -> Result<(), ()> {
        let id = match &request {
            Request::Exec { id, spec } => {
                let options = Options {
                    tty: spec.tty.is_some(),
                    owned: true,
                    transient: false,
                };
                let input = spec.stdin || spec.tty.is_some();
                self.begin(monitor, *id, options, input, Work::Command(spec.clone()));
                return Ok(());
            }
            Request::Files { id, task } => {
                let options = Options {
                    tty: false,
                    owned: true,
                    transient: true,
                };
                self.begin(
                    monitor,
                    *id,
                    options,
                    task.has_input(),
                    Work::Files(task.clone()),
                );
                return Ok(());
            }
            Request::Stdin { id, .. }
            | Request::StdinEof { id }
            | Request::Credit { id, .. }
            | Request::CloseOutput { id, .. }
            | Request::Resize { id, .. }
            | Request::Signal { id, .. } => *id,
            // Only the monitor controls the guest as a whole.
            _ => return Err(()),
        };
        // The command may have ended meanwhile, which is not an error of the client.
        let attachment = self.streams().get(&id).cloned();
        if let (Some(attachment), Request::Signal { signal, .. }) = (&attachment, &request)
            && *signal == Signal::KILL.number()
        {
            monitor.killed(attachment);
        }
        attachment.map_or(Ok(()), |attachment| attachment.request(request))
    }

    /// Starts work in the guest for this client.
    fn begin(
        self: &Arc<Self>,
        monitor: &Arc<Monitor>,
        id: u32,
        options: Options,
        input: bool,
        work: Work,
    ) {
        let (hub, feed) = Hub::new(options);
        match self.attach(&hub, id, input) {
            Some(refusal) => self.reply(&Reply::SpawnFailed {
                id,
                code: 126,
                message: refusal.to_owned(),
            }),
            None => monitor.exec(hub, feed, work, self.launcher),
        }
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
        if let Some(attachment) = hub.attach(self, id, input) {
            streams.insert(id, attachment);
        }
        None
    }

    /// Waits until most of what was queued for the client has been sent.
    fn wait_for_room(&self) {
        let mut out = self.out();
        while out.bytes.len() > BACKLOG && !out.gone && !out.closing {
            out = self.wait(out);
        }
    }

    /// Cleans up after the connection has ended.
    fn leave(&self) {
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
