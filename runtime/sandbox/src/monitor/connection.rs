//! Connections of clients, each served by two threads.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use blockbox_protocol::{Decoder, Envelope, Reply, Request};
use blockbox_store::spec::Signal;

use super::client::Client;
use super::hub::{Hub, Options, Recipient};
use super::message::{Ask, Failure, FailureKind};
use super::shared::{Monitor, Work};
use super::socket;
use crate::background;

/// The most clients at a time.
const CLIENTS: usize = 256;

/// Serves a new connection, if its user may and there is room for another client.
pub(super) fn accept(monitor: &Arc<Monitor>, socket: UnixStream) {
    if !socket::is_allowed(&socket) || monitor.lock().clients.len() >= CLIENTS {
        return;
    }
    if let Err(error) = serve(monitor, socket, false) {
        background::complain(format_args!("a client cannot be served: {error}"));
    }
}

/// Serves a connection in two threads. `launcher` is whether the client is the process that started
/// the monitor.
pub(super) fn serve(monitor: &Arc<Monitor>, socket: UnixStream, launcher: bool) -> io::Result<()> {
    let (reader, writer) = (socket.try_clone()?, socket.try_clone()?);
    let client = Client::new(socket, launcher);
    monitor.client_came(&client);
    let writing = Arc::clone(&client);
    background::thread("client-out", move || writing.write_to(writer));
    let connection = Connection {
        monitor: Arc::clone(monitor),
        client,
    };
    background::thread("client-in", move || {
        // A client that violates the protocol is treated as disconnected.
        let _ = connection.read_from(reader);
        connection.client.leave();
        connection.monitor.client_left(&connection.client);
    });
    Ok(())
}

/// The requests of a client.
struct Connection {
    monitor: Arc<Monitor>,
    client: Arc<Client>,
}

impl Connection {
    fn read_from(&self, mut socket: UnixStream) -> Result<(), ()> {
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
                    Some(Envelope::Ask { id, payload }) => self.asked(id, &payload),
                    Some(_) => return Err(()),
                    None => self.requested(Request::decode(frame).map_err(drop)?)?,
                }
            }
        }
    }

    fn asked(&self, id: u32, payload: &[u8]) {
        self.client.wait_for_room();
        match serde_json::from_slice::<Ask>(payload) {
            Ok(ask) => self.monitor.asked(&self.client, id, ask),
            Err(e) => {
                let text = format!("the sandbox's monitor does not know this question: {e}");
                let failure = Failure::new(FailureKind::Unknown, text);
                self.client.answer(id, &Err(failure));
            }
        }
    }

    fn requested(&self, request: Request) -> Result<(), ()> {
        let id = match &request {
            Request::Exec { id, spec } => {
                let options = Options {
                    tty: spec.tty.is_some(),
                    owned: true,
                    transient: false,
                };
                let input = spec.stdin || spec.tty.is_some();
                self.begin(*id, options, input, Work::Command(spec.clone()));
                return Ok(());
            }
            Request::Files { id, task } => {
                let options = Options {
                    tty: false,
                    owned: true,
                    transient: true,
                };
                self.begin(*id, options, task.has_input(), Work::Files(task.clone()));
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
        let attachment = self.client.stream(id);
        if let (Some(attachment), Request::Signal { signal, .. }) = (&attachment, &request)
            && *signal == Signal::KILL.number()
        {
            self.monitor.killed(attachment);
        }
        attachment.map_or(Ok(()), |attachment| attachment.request(request))
    }

    /// Starts work in the guest for this client.
    fn begin(&self, id: u32, options: Options, input: bool, work: Work) {
        let (hub, feed) = Hub::new(options);
        match self.client.attach(&hub, id, input) {
            Some(refusal) => self.client.reply(&Reply::SpawnFailed {
                id,
                code: 126,
                message: refusal.to_owned(),
            }),
            None => self.monitor.exec(hub, feed, work, self.client.launcher),
        }
    }
}
