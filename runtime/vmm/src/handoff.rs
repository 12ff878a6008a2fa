//! Passes open files to the helper, over the control channel before the VM uses it.
//!
//! A file that a child inherits by number must be inheritable in the parent too, so any other child
//! started at that moment would inherit it as well. A file sent in a message only reaches the
//! helper.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// The most files of one machine. Linux's `SCM_MAX_FD` is 253.
pub(super) const MOST: usize = 64;

/// Sends `files` with one byte. The receiver must expect the same number.
pub(super) fn send(socket: impl AsFd, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    send_with(socket, &[0], files)
}

/// Sends `bytes`, with `files` attached to the first byte.
pub(super) fn send_with(
    socket: impl AsFd,
    bytes: &[u8],
    files: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    if !message.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::other("too many files to pass on"));
    }
    // Messages here are much shorter than a socket's buffer.
    let bytes = [IoSlice::new(bytes)];
    rustix::net::sendmsg(socket, &bytes, &mut message, SendFlags::empty())?;
    Ok(())
}

/// Receives the files that were sent; `count` is their number.
pub(super) fn receive(socket: impl AsFd, count: usize) -> io::Result<Vec<OwnedFd>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut message = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    // Exactly one byte: the following bytes belong to the VM.
    let mut bytes = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(socket, &mut bytes, &mut message, RecvFlags::empty())?;
    let files: Vec<OwnedFd> = message
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        })
        .flatten()
        .collect();
    if files.len() != count {
        return Err(io::Error::other("the VM's open files did not arrive"));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn files_arrive_and_the_channel_can_be_used_afterwards() {
        let (mut host, mut guest) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(&host, &[writer.as_fd()]).unwrap();
        host.write_all(b"next").unwrap();
        drop(writer);
        let mut files = receive(&guest, 1).unwrap();
        let mut file = std::fs::File::from(files.pop().unwrap());
        file.write_all(b"through").unwrap();
        drop(file);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        let mut next = [0; 4];
        guest.read_exact(&mut next).unwrap();
        assert_eq!(&next, b"next");
    }

    #[test]
    fn a_host_that_is_gone_is_an_error() {
        let (host, guest) = UnixStream::pair().unwrap();
        drop(host);
        assert!(receive(&guest, 1).is_err());
    }
}
