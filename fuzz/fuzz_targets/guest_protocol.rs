//! The channel between host and guest: whatever arrives, in whatever pieces, either side reads or
//! refuses it, and what it reads is what it would send.

#![no_main]

use blockbox_protocol::{Decoder, Reply, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, stream)) = data.split_first() else {
        return;
    };
    let mut decoder = Decoder::default();
    for piece in stream.chunks(usize::from(cut).max(1)) {
        decoder.push(piece);
        loop {
            let frame = match decoder.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(_) => return,
            };
            let mut again = Vec::new();
            if let Ok(request) = Request::decode(frame) {
                request.encode(&mut again);
                let mut decoder = Decoder::default();
                decoder.push(&again);
                let frame = decoder.next_frame().expect("a frame").expect("whole");
                assert_eq!(Request::decode(frame), Ok(request));
            } else if let Ok(reply) = Reply::decode(frame) {
                reply.encode(&mut again);
                let mut decoder = Decoder::default();
                decoder.push(&again);
                let frame = decoder.next_frame().expect("a frame").expect("whole");
                assert_eq!(Reply::decode(frame), Ok(reply));
            }
        }
    }
});
