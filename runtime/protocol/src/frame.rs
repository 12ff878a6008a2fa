//! Frames, which separate the messages in the byte stream.

use thiserror::Error;

/// The length of a frame's header in bytes: payload length, kind and id, each a little-endian
/// `u32`.
pub const HEADER: usize = 12;

/// The longest payload in bytes. Linux allows 2 MiB of arguments and environment with the usual
/// stack limit, which is by far the largest content of a frame.
pub const MAX_PAYLOAD: usize = 4 * 1024 * 1024;

/// The stream violates the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The payload length of a frame exceeds [`MAX_PAYLOAD`].
    #[error("a frame of kind {kind} announces {length} bytes")]
    TooLong {
        /// The frame's kind, as read.
        kind: u32,
        /// The payload length it announces, in bytes.
        length: u32,
    },
    /// A frame has an unknown kind.
    #[error("unknown frame kind {kind}")]
    UnknownKind {
        /// The frame's kind, as read.
        kind: u32,
    },
    /// A payload is malformed.
    #[error("malformed frame of kind {kind} at payload byte {offset}")]
    Malformed {
        /// The frame's kind.
        kind: u32,
        /// The offset in the payload at which reading stopped, in bytes.
        offset: usize,
    },
}

/// A frame in the buffer of a [`Decoder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The kind of message.
    pub kind: u32,
    /// The command or request that it belongs to.
    pub id: u32,
    /// The message itself.
    pub payload: &'a [u8],
}

/// Splits a byte stream into frames, in whatever pieces the bytes arrive.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    taken: usize,
}

impl Decoder {
    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next complete frame, or `None` until more bytes arrive.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::TooLong`]: no frame can be read after this error.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, ProtocolError> {
        let rest = self.buffer.get(self.taken..).unwrap_or_default();
        let Some((header, body)) = rest.split_at_checked(HEADER) else {
            return Ok(None);
        };
        let [length, kind, id] = [0, 4, 8].map(|at| u32_at(header, at));
        let payload_len = length as usize;
        if payload_len > MAX_PAYLOAD {
            return Err(ProtocolError::TooLong { kind, length });
        }
        let Some(payload) = body.get(..payload_len) else {
            return Ok(None);
        };
        self.taken += HEADER + payload_len;
        Ok(Some(Frame { kind, id, payload }))
    }

    /// Returns whether the stream is at the end of a frame, so that nothing is lost if it ends
    /// here.
    pub fn is_empty(&self) -> bool {
        self.taken == self.buffer.len()
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

/// Appends one frame to `out`; `payload` writes the message.
pub(crate) fn put_frame(out: &mut Vec<u8>, kind: u32, id: u32, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    put_u32(out, 0);
    put_u32(out, kind);
    put_u32(out, id);
    payload(out);
    let length = u32::try_from(out.len() - start - HEADER).unwrap_or(u32::MAX);
    if let Some(field) = out.get_mut(start..start + 4) {
        field.copy_from_slice(&length.to_le_bytes());
    }
}

pub(crate) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(bytes);
}

/// Reads a payload from its beginning; every step checks the remaining length.
pub(crate) struct Payload<'a> {
    kind: u32,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Payload<'a> {
    pub(crate) fn new(frame: Frame<'a>) -> Self {
        Payload {
            kind: frame.kind,
            bytes: frame.payload,
            at: 0,
        }
    }

    pub(crate) fn malformed(&self) -> ProtocolError {
        ProtocolError::Malformed {
            kind: self.kind,
            offset: self.at,
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], ProtocolError> {
        let taken = self
            .bytes
            .get(self.at..)
            .and_then(|rest| rest.get(..count))
            .ok_or_else(|| self.malformed())?;
        self.at += count;
        Ok(taken)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, ProtocolError> {
        Ok(u32_at(self.take(4)?, 0))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, ProtocolError> {
        let bytes = self.take(8)?;
        let [low, high] = [0, 4].map(|at| u64::from(u32_at(bytes, at)));
        Ok(low | high << 32)
    }

    pub(crate) fn bytes(&mut self) -> Result<Vec<u8>, ProtocolError> {
        let count = self.u32()? as usize;
        Ok(self.take(count)?.to_vec())
    }

    pub(crate) fn text(&mut self) -> Result<String, ProtocolError> {
        Ok(String::from_utf8_lossy(&self.bytes()?).into_owned())
    }

    /// Returns all remaining bytes.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        self.at = self.bytes.len();
        rest.to_vec()
    }

    pub(crate) fn finish<T>(&self, message: T) -> Result<T, ProtocolError> {
        if self.at == self.bytes.len() {
            Ok(message)
        } else {
            Err(self.malformed())
        }
    }
}
