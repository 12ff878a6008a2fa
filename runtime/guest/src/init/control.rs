//! The control port: reads and writes frames without blocking.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use blockbox_protocol::{Boot, Decoder, ProtocolError, Reply, Request, Stream, encode_output};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::failure::{Failure, Step};

/// While more than this many bytes wait to be sent, nothing is read, neither from the host nor from
/// commands.
const OUTGOING_LIMIT: usize = 512 * 1024;

/// How long to wait for the host to be connected to the port. It connects before the guest starts,
/// but the guest is informed by a separate message.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait for the boot message; the host sends it before the guest starts.
const BOOT_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Control {
    port: OwnedFd,
    decoder: Decoder,
    outgoing: Vec<u8>,
    sent: usize,
}

impl Control {
    /// Opens the port, only once: libkrun's console device does not support a second open.
    pub(crate) fn open(node: &Path) -> Result<Self, Failure> {
        let step = || format!("opening {}", node.display());
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let port = rustix::fs::openat(CWD, node, flags, Mode::empty()).step(step())?;
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        // Until the host is connected the port reports a hangup, and poll cannot wait for its end.
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

    /// Returns the events to poll for.
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

    /// Returns whether more may be queued. Answers to requests are always queued, because they are
    /// few and small.
    pub(crate) fn has_room(&self) -> bool {
        self.outgoing.len() - self.sent < OUTGOING_LIMIT
    }

    pub(crate) fn send(&mut self, reply: &Reply) {
        reply.encode(&mut self.outgoing);
    }

    pub(crate) fn send_output(&mut self, id: u32, stream: Stream, data: &[u8]) {
        encode_output(&mut self.outgoing, id, stream, data);
    }

    /// Drops unsent messages.
    pub(crate) fn forget_outgoing(&mut self) {
        self.outgoing.clear();
        self.sent = 0;
    }

    /// Sends as much as possible without waiting.
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
        // Unsent bytes are only sometimes moved to the front, not after every write.
        if self.sent == self.outgoing.len() || self.sent > OUTGOING_LIMIT {
            self.outgoing.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }

    /// Sends everything, waiting at most for `timeout`.
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

    /// Waits until the host has disconnected, or until the timeout.
    pub(crate) fn wait_hangup(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let events = ready(self.port(), PollFlags::empty(), left);
            if events.intersects(PollFlags::HUP | PollFlags::ERR) || left.is_zero() {
                return;
            }
        }
    }

    /// Reads what has arrived. Returns whether the host is still connected.
    pub(crate) fn fill(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 32 * 1024];
        loop {
            match rustix::io::read(&self.port, &mut chunk) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.decoder.push(chunk.get(..count).unwrap_or_default());
                    // A read returns at most one page; continue while pages are full.
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

    /// Returns the next complete request. A request that cannot be parsed is answered here.
    ///
    /// # Errors
    ///
    /// If the rest of the stream cannot be read.
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

    /// Waits for the first request, the boot message.
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

/// Waits until `fd` is ready or until the timeout, and returns the ready events.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_hangup_is_waited_for_no_longer_than_the_timeout() {
        let (port, host) = UnixStream::pair().unwrap();
        let control = Control {
            port: port.into(),
            decoder: Decoder::default(),
            outgoing: Vec::new(),
            sent: 0,
        };
        let short = Duration::from_millis(50);
        let start = Instant::now();
        control.wait_hangup(short);
        assert!(start.elapsed() >= short);
        let closing = std::thread::spawn(move || drop(host));
        // Without an end by the hangup, the test does not end.
        control.wait_hangup(Duration::from_secs(3600));
        closing.join().unwrap();
    }
}
