//! The control port: frames in, frames out, never blocking.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use blockbox_protocol::{Boot, Decoder, ProtocolError, Reply, Request, Stream, encode_output};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::failure::{Failure, Step};

/// Above this many bytes waiting to be sent nothing more is read, neither from the host nor from
/// commands.
const OUTGOING_LIMIT: usize = 512 * 1024;

/// How long the host may take to connect to the port. It is connected before the guest starts; the
/// news of it comes in a message of its own.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the boot message may take; the host sends it before the guest starts.
const BOOT_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Control {
    port: OwnedFd,
    decoder: Decoder,
    outgoing: Vec<u8>,
    sent: usize,
}

impl Control {
    /// Opens the port, once and for all: libkrun's console device cannot take a second opening.
    pub(crate) fn open(node: &Path) -> Result<Self, Failure> {
        let step = || format!("opening {}", node.display());
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let port = rustix::fs::openat(CWD, node, flags, Mode::empty()).step(step())?;
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        // Until the host is connected the port reports a hangup, which no poll waits for the end
        // of.
        while ready(port.as_fd(), PollFlags::OUT, Duration::ZERO).contains(PollFlags::HUP) {
            if Instant::now() >= deadline {
                return Err(Failure::new(step(), "the host is not connected"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Control {
            port,
            decoder: Decoder::default(),
            outgoing: Vec::new(),
            sent: 0,
        })
    }

    pub(crate) fn port(&self) -> BorrowedFd<'_> {
        self.port.as_fd()
    }

    /// What to wait for.
    pub(crate) fn interest(&self) -> PollFlags {
        let mut interest = PollFlags::empty();
        if self.has_room() {
            interest |= PollFlags::IN;
        }
        if self.sent < self.outgoing.len() {
            interest |= PollFlags::OUT;
        }
        interest
    }

    /// Whether more may be queued. Answers to requests are queued regardless: they are few and
    /// small.
    pub(crate) fn has_room(&self) -> bool {
        self.outgoing.len() - self.sent < OUTGOING_LIMIT
    }

    pub(crate) fn send(&mut self, reply: &Reply) {
        reply.encode(&mut self.outgoing);
    }

    pub(crate) fn send_output(&mut self, id: u32, stream: Stream, data: &[u8]) {
        encode_output(&mut self.outgoing, id, stream, data);
    }

    /// Drops what has not been sent.
    pub(crate) fn forget_outgoing(&mut self) {
        self.outgoing.clear();
        self.sent = 0;
    }

    /// Sends what can be sent without waiting.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while let Some(rest) = self
            .outgoing
            .get(self.sent..)
            .filter(|rest| !rest.is_empty())
        {
            match rustix::io::write(&self.port, rest) {
                Ok(count) => self.sent += count,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        // Moved to the front now and then, not with every write.
        if self.sent == self.outgoing.len() || self.sent > OUTGOING_LIMIT {
            self.outgoing.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }

    /// Sends everything, for as long as that may take.
    pub(crate) fn flush_within(&mut self, timeout: Duration) -> io::Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            self.flush()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if self.sent == self.outgoing.len() || left.is_zero() {
                return Ok(());
            }
            if ready(self.port(), PollFlags::OUT, left).contains(PollFlags::HUP) {
                return Err(Errno::PIPE.into());
            }
        }
    }

    /// Takes in what has arrived. Returns whether the host is still there.
    pub(crate) fn fill(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 32 * 1024];
        loop {
            match rustix::io::read(&self.port, &mut chunk) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.decoder.push(chunk.get(..count).unwrap_or_default());
                    // The kernel gives a page at a time; go on as long as pages are full.
                    if count < 4096 {
                        return Ok(true);
                    }
                }
                Err(Errno::AGAIN) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The next whole request. One that cannot be understood is answered here.
    ///
    /// # Errors
    ///
    /// When the stream cannot be followed any further.
    pub(crate) fn next_request(&mut self) -> Result<Option<Request>, ProtocolError> {
        while let Some(frame) = self.decoder.next_frame()? {
            let (id, kind) = (frame.id, frame.kind);
            match Request::decode(frame) {
                Ok(request) => return Ok(Some(request)),
                Err(error) => {
                    let known = !matches!(error, ProtocolError::UnknownKind { .. });
                    self.send(&Reply::Rejected { id, kind, known });
                }
            }
        }
        Ok(None)
    }

    /// Waits for the first request, which says how to set the guest up.
    pub(crate) fn wait_boot(&mut self) -> Result<(u32, Boot), Failure> {
        let step = "waiting for the host's boot message";
        let deadline = Instant::now() + BOOT_TIMEOUT;
        loop {
            match self
                .next_request()
                .map_err(|e| Failure::new(step, e.to_string()))?
            {
                Some(Request::Boot { version, boot }) => return Ok((version, boot)),
                Some(_) => return Err(Failure::new(step, "the host sent another one first")),
                None => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::new(
                    step,
                    "none came; an older blockbox sends none",
                ));
            }
            let events = ready(self.port(), PollFlags::IN, left);
            let gone = events.contains(PollFlags::HUP) && !events.contains(PollFlags::IN);
            if gone || events.contains(PollFlags::IN) && !self.fill().step(step)? {
                return Err(Failure::new(step, "the host is gone"));
            }
        }
    }
}

/// Waits until `fd` is ready or time is up, and says for what.
pub(crate) fn ready(fd: BorrowedFd<'_>, interest: PollFlags, timeout: Duration) -> PollFlags {
    let mut fds = [PollFd::from_borrowed_fd(fd, interest)];
    let timeout = Timespec::try_from(timeout).ok();
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => fds
            .iter()
            .fold(PollFlags::empty(), |all, fd| all | fd.revents()),
        Err(_) => PollFlags::empty(),
    }
}
