//! Sockets of ended connections, kept for the next ones.
//!
//! A socket has two buffers of up to 256 KiB. Clearing the memory of new ones, and returning it to
//! the system when they end, would be much of the work for a short connection.

use smoltcp::socket::tcp::{Socket, SocketBuffer};

/// The most sockets that are kept: together at most 2 MiB.
const KEPT: usize = 4;

#[derive(Default)]
pub(super) struct Spare(Vec<Socket<'static>>);

impl Spare {
    /// Returns a closed socket with two buffers of this many bytes.
    pub(super) fn socket(&mut self, buffer: usize) -> Socket<'static> {
        // The last one is the most likely to be in the processor's caches.
        let kept = self
            .0
            .iter()
            .rposition(|socket| socket.recv_capacity() == buffer);
        kept.map_or_else(
            || {
                let space = || SocketBuffer::new(vec![0; buffer]);
                Socket::new(space(), space())
            },
            |index| self.0.remove(index),
        )
    }

    /// Keeps the socket of an ended connection, if there are few.
    pub(super) fn keep(&mut self, mut socket: Socket<'static>) {
        if self.0.len() < KEPT {
            // The next `connect` or `listen` of a closed socket empties its buffers and resets all
            // state of the connection.
            socket.abort();
            self.0.push(socket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_sockets_are_kept_and_only_one_of_the_same_size_is_used_again() {
        let mut spare = Spare::default();
        for _ in 0..2 * KEPT {
            spare.keep(Spare::default().socket(1024));
        }
        assert_eq!(spare.0.len(), KEPT);
        assert_eq!(spare.socket(2048).recv_capacity(), 2048);
        assert_eq!(spare.0.len(), KEPT);
        assert_eq!(spare.socket(1024).recv_capacity(), 1024);
        assert_eq!(spare.0.len(), KEPT - 1);
    }
}
