//! DNS messages: parses those the gateway needs, and writes its own.

use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};

/// The time to live of the gateway's own addresses, in seconds.
const OWN_TTL: u32 = 30;

/// A valid query.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) id: u16,
    pub(super) query: Query,
    /// The name in lower case, without a final dot.
    pub(super) name: String,
    recursion: bool,
}

/// A parsed message of the guest.
pub(super) enum Read {
    Asked(Asked),
    /// A query that cannot be answered: this is the reply.
    Reply(Vec<u8>),
    /// A message that gets no answer: a reply, or one without a header.
    Nothing,
}

/// Parses a message of the guest.
pub(super) fn read(bytes: &[u8]) -> Read {
    let Ok(message) = Message::from_vec(bytes) else {
        return match header(bytes, ResponseCode::FormErr) {
            Some(reply) => Read::Reply(reply),
            None => Read::Nothing,
        };
    };
    let id = message.metadata.id;
    if message.metadata.message_type != MessageType::Query {
        return Read::Nothing;
    }
    if message.metadata.op_code != OpCode::Query {
        return reply(&Message::error_msg(
            id,
            message.metadata.op_code,
            ResponseCode::NotImp,
        ))
        .map_or(Read::Nothing, Read::Reply);
    }
    let [query] = message.queries.as_slice() else {
        return reply(&Message::error_msg(
            id,
            OpCode::Query,
            ResponseCode::FormErr,
        ))
        .map_or(Read::Nothing, Read::Reply);
    };
    let asked = Asked {
        id,
        query: query.clone(),
        name: name_of(query),
        recursion: message.metadata.recursion_desired,
    };
    if query.query_class() != DNSClass::IN {
        return asked
            .error(ResponseCode::NotImp)
            .map_or(Read::Nothing, Read::Reply);
    }
    Read::Asked(asked)
}

fn name_of(query: &Query) -> String {
    let name = query.name().to_ascii().to_ascii_lowercase();
    name.strip_suffix('.').unwrap_or(&name).to_owned()
}

/// Returns the reply to an invalid query: its identifier and an error.
fn header(bytes: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let [a, b, flags, ..] = *bytes.first_chunk::<12>()?;
    if flags & 0x80 != 0 {
        return None;
    }
    reply(&Message::error_msg(
        u16::from_be_bytes([a, b]),
        OpCode::Query,
        code,
    ))
}

fn reply(message: &Message) -> Option<Vec<u8>> {
    message.to_vec().ok()
}

impl Asked {
    fn response(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.recursion_desired = self.recursion;
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_query(self.query.clone());
        message
    }

    /// Returns a reply with an error.
    pub(super) fn error(&self, code: ResponseCode) -> Option<Vec<u8>> {
        reply(&self.response(code))
    }

    /// Returns a reply with those of the addresses that are of the requested type.
    pub(super) fn addresses(&self, addresses: &[IpAddr]) -> Option<Vec<u8>> {
        let mut message = self.response(ResponseCode::NoError);
        let kind = self.query.query_type();
        for address in addresses {
            let data = match address {
                IpAddr::V4(address) => RData::A(A(*address)),
                IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
            };
            if kind == data.record_type() || kind == RecordType::ANY {
                message.add_answer(Record::from_rdata(self.query.name().clone(), OWN_TTL, data));
            }
        }
        reply(&message)
    }

    /// Parses a name server's reply; `None` if it is to another query.
    pub(super) fn answer(&self, id: u16, bytes: &[u8]) -> Option<Message> {
        let message = Message::from_vec(bytes).ok()?;
        let metadata = &message.metadata;
        let [query] = message.queries.as_slice() else {
            return None;
        };
        let same = metadata.id == id
            && metadata.message_type == MessageType::Response
            && query.query_type() == self.query.query_type()
            && name_of(query) == self.name;
        same.then_some(message)
    }
}

/// Returns the message with another identifier.
pub(super) fn with_id(mut bytes: Vec<u8>, id: u16) -> Vec<u8> {
    if let Some(place) = bytes.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
    bytes
}

/// Returns whether another name server should be tried.
pub(super) fn is_failure(code: ResponseCode) -> bool {
    matches!(
        code,
        ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp
    )
}
