//! Whatever is said arrives as it was said, however the bytes are cut; whatever arrives, nothing panics.

use blockbox_protocol::frame::{HEADER, MAX_PAYLOAD};
use blockbox_protocol::{
    Decoder, ExecSpec, ExitStatus, ProtocolError, Reply, Request, Stream, WindowSize,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn stream() -> impl Strategy<Value = Stream> {
    prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)]
}

fn size() -> impl Strategy<Value = WindowSize> {
    any::<(u16, u16)>().prop_map(|(rows, cols)| WindowSize { rows, cols })
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..80)
}

fn spec() -> impl Strategy<Value = ExecSpec> {
    (
        vec(bytes(), 0..4),
        vec(bytes(), 0..4),
        bytes(),
        bytes(),
        proptest::option::of(size()),
        any::<bool>(),
    )
        .prop_map(|(args, env, cwd, user, tty, stdin)| ExecSpec {
            args,
            env,
            cwd,
            user,
            tty,
            stdin,
        })
}

fn request() -> impl Strategy<Value = Request> {
    let id = any::<u32>();
    prop_oneof![
        (id, spec()).prop_map(|(id, spec)| Request::Exec { id, spec }),
        (id, bytes()).prop_map(|(id, data)| Request::Stdin { id, data }),
        id.prop_map(|id| Request::StdinEof { id }),
        (id, stream(), any::<u32>()).prop_map(|(id, stream, bytes)| Request::Credit {
            id,
            stream,
            bytes
        }),
        (id, stream()).prop_map(|(id, stream)| Request::CloseOutput { id, stream }),
        (id, size()).prop_map(|(id, size)| Request::Resize { id, size }),
        (id, any::<u32>()).prop_map(|(id, signal)| Request::Signal { id, signal }),
        id.prop_map(|id| Request::Sync { id }),
        id.prop_map(|id| Request::Freeze { id }),
        id.prop_map(|id| Request::Thaw { id }),
        any::<u32>().prop_map(|grace_ms| Request::Shutdown { grace_ms }),
    ]
}

fn reply() -> impl Strategy<Value = Reply> {
    let id = any::<u32>();
    prop_oneof![
        (any::<u32>(), any::<u64>(), ".{0,20}").prop_map(|(version, uptime_ns, kernel)| {
            Reply::Hello {
                version,
                uptime_ns,
                kernel,
            }
        }),
        ".{0,40}".prop_map(|message| Reply::Fatal { message }),
        (id, any::<u32>()).prop_map(|(id, pid)| Reply::Started { id, pid }),
        (id, any::<u8>(), ".{0,40}").prop_map(|(id, code, message)| Reply::SpawnFailed {
            id,
            code,
            message
        }),
        (id, stream(), bytes()).prop_map(|(id, stream, data)| Reply::Output { id, stream, data }),
        (id, any::<u32>()).prop_map(|(id, bytes)| Reply::StdinCredit { id, bytes }),
        (id, any::<u8>()).prop_map(|(id, code)| Reply::Exited {
            id,
            status: ExitStatus::Code(code)
        }),
        (id, any::<u8>()).prop_map(|(id, signal)| Reply::Exited {
            id,
            status: ExitStatus::Signal(signal)
        }),
        (id, any::<u32>()).prop_map(|(id, errno)| Reply::Done { id, errno }),
        any::<u32>().prop_map(|errno| Reply::Bye { errno }),
    ]
}

proptest! {
    #[test]
    fn requests_survive_any_cutting(requests in vec(request(), 1..6), cut in 1_usize..40) {
        let mut stream = Vec::new();
        for request in &requests {
            request.encode(&mut stream);
        }
        let mut decoder = Decoder::default();
        let mut received = Vec::new();
        for piece in stream.chunks(cut) {
            decoder.push(piece);
            while let Some(frame) = decoder.next_frame().unwrap() {
                received.push(Request::decode(frame).unwrap());
            }
        }
        prop_assert!(decoder.is_empty());
        prop_assert_eq!(received, requests);
    }

    #[test]
    fn replies_survive_any_cutting(replies in vec(reply(), 1..6), cut in 1_usize..40) {
        let mut stream = Vec::new();
        for reply in &replies {
            reply.encode(&mut stream);
        }
        let mut decoder = Decoder::default();
        let mut received = Vec::new();
        for piece in stream.chunks(cut) {
            decoder.push(piece);
            while let Some(frame) = decoder.next_frame().unwrap() {
                received.push(Reply::decode(frame).unwrap());
            }
        }
        prop_assert_eq!(received, replies);
    }

    #[test]
    fn no_bytes_panic(kind in 0_u32..0x120, payload in vec(any::<u8>(), 0..64), garbage in bytes()) {
        let mut frame = (payload.len() as u32).to_le_bytes().to_vec();
        frame.extend(kind.to_le_bytes());
        frame.extend([7, 0, 0, 0]);
        frame.extend(&payload);
        let mut decoder = Decoder::default();
        decoder.push(&frame);
        if let Some(frame) = decoder.next_frame().unwrap() {
            let _ = Request::decode(frame);
            let _ = Reply::decode(frame);
        }
        decoder.push(&garbage);
        while let Ok(Some(frame)) = decoder.next_frame() {
            let _ = Request::decode(frame);
        }
    }
}

#[test]
fn a_frame_beyond_the_limit_is_refused_before_it_arrives() {
    let length = MAX_PAYLOAD as u32 + 1;
    let mut header = length.to_le_bytes().to_vec();
    header.resize(HEADER, 0);
    let mut decoder = Decoder::default();
    decoder.push(&header);
    let refused = ProtocolError::TooLong { kind: 0, length };
    assert_eq!(decoder.next_frame().unwrap_err(), refused);
}

#[test]
fn an_exit_status_is_what_a_shell_makes_of_it() {
    assert_eq!(ExitStatus::Code(3).code(), 3);
    assert_eq!(ExitStatus::Signal(15).code(), 143);
    assert!(ExitStatus::Code(0).success() && !ExitStatus::Signal(0).success());
}
