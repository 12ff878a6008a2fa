//! Messages that only a sandbox's monitor and its clients use.
//!
//! A client of a monitor uses the same frames for commands and their streams as a monitor does with
//! a guest, beginning with [`Request::Exec`](crate::Request::Exec). Everything else is a question
//! and its answer, whose payload this crate does not interpret, because init does not use it.

use crate::frame::{Frame, put_frame};

const ASK: u32 = 0x201;
const ANSWER: u32 = 0x202;
const NOTICE: u32 = 0x203;

/// A message between a monitor and a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Envelope {
    /// A question of a client.
    Ask {
        /// The id for the answer.
        id: u32,
        /// The question.
        payload: Vec<u8>,
    },
    /// An answer of the monitor.
    Answer {
        /// The question's id.
        id: u32,
        /// The answer.
        payload: Vec<u8>,
    },
    /// A notice of the monitor about what it is doing, for users who wait.
    Notice {
        /// The text.
        payload: Vec<u8>,
    },
}

impl Envelope {
    /// Appends the message to `out` as one frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (kind, id, payload) = match self {
            Envelope::Ask { id, payload } => (ASK, *id, payload),
            Envelope::Answer { id, payload } => (ANSWER, *id, payload),
            Envelope::Notice { payload } => (NOTICE, 0, payload),
        };
        put_frame(out, kind, id, |out| out.extend_from_slice(payload));
    }

    /// Reads a message from a frame; `None` if the frame is of another kind.
    pub fn decode(frame: Frame<'_>) -> Option<Self> {
        let (id, payload) = (frame.id, frame.payload.to_vec());
        match frame.kind {
            ASK => Some(Envelope::Ask { id, payload }),
            ANSWER => Some(Envelope::Answer { id, payload }),
            NOTICE => Some(Envelope::Notice { payload }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Decoder, Reply, Request};

    #[test]
    fn envelopes_are_distinguished_from_requests_and_replies() {
        let payload = b"{}".to_vec();
        for envelope in [
            Envelope::Ask {
                id: 7,
                payload: payload.clone(),
            },
            Envelope::Answer {
                id: u32::MAX,
                payload: payload.clone(),
            },
            Envelope::Notice { payload },
        ] {
            let mut bytes = Vec::new();
            envelope.encode(&mut bytes);
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            let frame = decoder.next_frame().unwrap().unwrap();
            assert!(Request::decode(frame).is_err() && Reply::decode(frame).is_err());
            assert_eq!(Envelope::decode(frame), Some(envelope));
        }
        let mut bytes = Vec::new();
        Request::Sync { id: 1 }.encode(&mut bytes);
        let mut decoder = Decoder::default();
        decoder.push(&bytes);
        let frame = decoder.next_frame().unwrap().unwrap();
        assert_eq!(Envelope::decode(frame), None);
    }
}
