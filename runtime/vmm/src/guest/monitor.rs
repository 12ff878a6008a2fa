//! The client's end of a conversation with a sandbox's monitor.

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
    /// Speaks over a connected socket.
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

    /// Asks a question; [`answer`](Self::answer) waits for the answer to the id returned.
    pub fn ask(&self, question: Vec<u8>) -> Result<u32, GuestError> {
        self.link.question(question)
    }

    /// Waits for the answer to a question, and passes on what the monitor says meanwhile. `None`
    /// when time is up.
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

    /// Has the guest's init do something with the container's files.
    pub fn files(&self, task: &FileTask) -> Result<Exec, GuestError> {
        Exec::files(&self.link, task)
    }

    /// Asks for the streams of a command, which become those of the command returned.
    pub fn open(&self, has_input: bool, question: Vec<u8>) -> Result<Exec, GuestError> {
        Exec::open(&self.link, has_input, |id| {
            self.link.question_as(id, question)
        })
    }

    /// Ends the conversation; whoever waits for something gets [`GuestError::MonitorLost`].
    pub fn close(&self) {
        // It can only be closed already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}
