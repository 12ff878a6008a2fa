//! The client's side of the protocol with a sandbox's monitor.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::error::GuestError;
use super::exec::Exec;
use super::link::{Link, Peer, Said};
use super::{ExecSpec, FileTask};

/// A connection to the monitor of a sandbox. It closes when dropped.
#[derive(Debug)]
pub struct Connection {
    link: Arc<Link>,
    socket: UnixStream,
}

impl Connection {
    /// Returns a connection over a connected socket.
    pub fn new(socket: UnixStream) -> Result<Self, GuestError> {
        let io = GuestError::io("the monitor's socket");
        let reader = socket.try_clone().map_err(&io)?;
        let writer = socket.try_clone().map_err(&io)?;
        let link = Arc::new(Link::new(writer, Peer::Monitor));
        let in_thread = Arc::clone(&link);
        thread::Builder::new()
            .name("monitor".to_owned())
            .spawn(move || in_thread.read_from(reader))
            .map_err(&io)?;
        Ok(Self { link, socket })
    }

    /// Sends a question; [`answer`](Self::answer) waits for the answer to the returned id.
    pub fn ask(&self, question: Vec<u8>) -> Result<u32, GuestError> {
        self.link.question(question)
    }

    /// Waits for the answer to a question, and passes on notices that arrive meanwhile. `None`
    /// after the timeout.
    pub fn answer(
        &self,
        id: u32,
        timeout: Duration,
        notice: &mut dyn FnMut(&str),
    ) -> Result<Option<Vec<u8>>, GuestError> {
        loop {
            match self.link.reply(id, timeout)? {
                None => return Ok(None),
                Some(Said::Answer(answer)) => return Ok(Some(answer)),
                Some(Said::Notice(text)) => notice(&String::from_utf8_lossy(&text)),
            }
        }
    }

    /// Starts a command in the sandbox.
    pub fn exec(&self, spec: &ExecSpec) -> Result<Exec, GuestError> {
        Exec::start(&self.link, spec)
    }

    /// Starts a task on the container's files in the guest's init.
    pub fn files(&self, task: &FileTask) -> Result<Exec, GuestError> {
        Exec::files(&self.link, task)
    }

    /// Requests the streams of a command, and returns them as a command.
    pub fn open(&self, has_input: bool, question: Vec<u8>) -> Result<Exec, GuestError> {
        Exec::open(&self.link, has_input, |id| {
            self.link.question_as(id, question)
        })
    }

    /// Closes the connection; pending calls return [`GuestError::MonitorLost`].
    pub fn close(&self) {
        // This only fails if the socket is closed already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}
