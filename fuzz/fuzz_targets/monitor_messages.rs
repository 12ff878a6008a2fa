//! Bytes of a client to the monitor of a sandbox, or of a monitor to its client: not understood, or
//! understood the same when they are sent on.
#![no_main]

use blockbox_protocol::frame::Frame;
use blockbox_protocol::{Decoder, Envelope, Reply, Request};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

use message::{Answer, Ask, Outcome};

// The modules alone: the crate that has them brings the virtual machine monitors.
#[allow(dead_code)]
#[path = "../../runtime/sandbox/src/monitor/message.rs"]
mod message;
#[allow(dead_code)]
#[path = "../../runtime/sandbox/src/stats.rs"]
mod stats;
#[allow(dead_code)]
#[path = "../../runtime/sandbox/src/secrets/value.rs"]
mod value;

mod secrets {
    pub(crate) use crate::value::Value;
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&step, bytes)) = bytes.split_first() else {
        return;
    };
    // What is in a frame, without one.
    asked(bytes);
    answered(bytes);
    let mut decoder = Decoder::default();
    for part in bytes.chunks(usize::from(step).max(1)) {
        decoder.push(part);
        while let Some(frame) = match decoder.next_frame() {
            Ok(frame) => frame,
            Err(_) => return,
        } {
            received(frame);
        }
    }
});

fn received(frame: Frame<'_>) {
    let Some(envelope) = Envelope::decode(frame) else {
        // A command or its streams, as between a monitor and init.
        let _ = (Request::decode(frame), Reply::decode(frame));
        return;
    };
    match &envelope {
        Envelope::Ask { payload, .. } => asked(payload),
        Envelope::Answer { payload, .. } => answered(payload),
        Envelope::Notice { .. } => {}
    }
    let mut sent = Vec::new();
    envelope.encode(&mut sent);
    let mut decoder = Decoder::default();
    decoder.push(&sent);
    let again = decoder.next_frame().expect("a frame").expect("whole");
    assert_eq!(Envelope::decode(again), Some(envelope));
}

fn asked(payload: &[u8]) {
    match sent_on(payload) {
        Some(Ask::Boot { secrets, .. }) => {
            for secret in secrets {
                let _ = (format!("{secret:?}"), secret.into_file());
            }
        }
        Some(Ask::Start { attach }) => drop(attach.map(|attach| attach.window_size())),
        _ => {}
    }
}

fn answered(payload: &[u8]) {
    if let Some(Ok(Answer::Ended(ended))) = sent_on::<Outcome>(payload) {
        let _ = format!("{ended:?}");
    }
}

fn sent_on<T: Serialize + DeserializeOwned>(payload: &[u8]) -> Option<T> {
    let message: T = serde_json::from_slice(payload).ok()?;
    let sent = serde_json::to_vec(&message).expect("a message is sent");
    let again: T = serde_json::from_slice(&sent).expect("a message is understood");
    assert_eq!(serde_json::to_vec(&again).expect("a message is sent"), sent);
    Some(message)
}
