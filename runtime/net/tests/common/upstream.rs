//! A name server on the host that answers from a function, over UDP and TCP at one port.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{RData, Record, RecordType};

/// An answer of the name server.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Addresses(Vec<IpAddr>),
    /// A truncated answer over UDP, and this many addresses over TCP.
    Long(u8),
    Code(ResponseCode),
    /// A reply to another question, and no other reply.
    Wrong,
    Silence,
}

pub(crate) fn addresses(list: &[&str]) -> Answer {
    Answer::Addresses(
        list.iter()
            .map(|address| address.parse().unwrap())
            .collect(),
    )
}

fn reply(bytes: &[u8], stream: bool, answer: &impl Fn(&str) -> Answer) -> Option<Vec<u8>> {
    let question = Message::from_vec(bytes).unwrap();
    let query = question.queries[0].clone();
    let name = query.name().to_ascii().to_ascii_lowercase();
    let mut message = Message::response(question.metadata.id, OpCode::Query);
    // Without this, the C library takes a reply without answers for one of a server that cannot
    // resolve other names.
    message.metadata.recursion_available = true;
    message.add_query(query.clone());
    let mut add = |address: IpAddr| {
        let data = match address {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        };
        if query.query_type() == data.record_type() || query.query_type() == RecordType::ANY {
            message.add_answer(Record::from_rdata(query.name().clone(), 300, data));
        }
    };
    match answer(name.trim_end_matches('.')) {
        Answer::Addresses(list) => list.into_iter().for_each(&mut add),
        Answer::Long(count) if stream => (0..count).for_each(|n| add([93, 184, 2, n].into())),
        Answer::Long(_) => message.metadata.truncation = true,
        Answer::Code(code) => message.metadata.response_code = code,
        Answer::Wrong => {
            add([6, 6, 6, 6].into());
            message.metadata.id ^= 1;
        }
        Answer::Silence => return None,
    }
    Some(message.to_vec().unwrap())
}

/// Starts a name server on the loopback interface of this thread's namespace.
pub(crate) fn serve(answer: impl Fn(&str) -> Answer + Send + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = UdpSocket::bind(address).unwrap();
    std::thread::spawn({
        let answer = answer.clone();
        move || {
            let mut bytes = [0; 4096];
            while let Ok((count, peer)) = socket.recv_from(&mut bytes) {
                if let Some(reply) = reply(&bytes[..count], false, &answer) {
                    socket.send_to(&reply, peer).unwrap();
                }
            }
        }
    });
    std::thread::spawn(move || {
        for peer in listener.incoming() {
            let mut peer = peer.unwrap();
            let mut length = [0; 2];
            while peer.read_exact(&mut length).is_ok() {
                let mut bytes = vec![0; u16::from_be_bytes(length).into()];
                peer.read_exact(&mut bytes).unwrap();
                if let Some(reply) = reply(&bytes, true, &answer) {
                    peer.write_all(&u16::try_from(reply.len()).unwrap().to_be_bytes())
                        .unwrap();
                    peer.write_all(&reply).unwrap();
                }
            }
        }
    });
    address
}
