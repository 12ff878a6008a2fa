//! Poll tokens, which identify the socket of an event.

use mio::Token;

/// The kind of owner of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Frames,
    Control,
    Listener,
    Tcp,
    Udp,
    Echo,
    Dns,
}

const KINDS: [Kind; 7] = [
    Kind::Frames,
    Kind::Control,
    Kind::Listener,
    Kind::Tcp,
    Kind::Udp,
    Kind::Echo,
    Kind::Dns,
];

/// Returns the token of a socket: its kind, and its index in the table of that kind.
pub(crate) fn pack(kind: Kind, index: usize) -> Token {
    Token(index * 8 + kind as usize)
}

/// Returns the kind and the index of a token.
pub(crate) fn unpack(token: Token) -> Option<(Kind, usize)> {
    Some((*KINDS.get(token.0 % 8)?, token.0 / 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_keep_kind_and_index() {
        for kind in KINDS {
            assert_eq!(unpack(pack(kind, 77)), Some((kind, 77)));
        }
    }
}
