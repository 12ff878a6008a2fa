//! Questions to a sandbox's monitor, and their answers.

use std::time::Duration;

use blockbox_vmm::VmmError;
use blockbox_vmm::guest::{Connection, GuestError};

use crate::error::{Error, Result};
use crate::monitor::message::{Answer, Ask, FailureKind, Outcome};
use crate::platform;

/// The timeout of questions whose answer may take any time.
pub(crate) const FOR_EVER: Duration = Duration::MAX;

pub(crate) fn encode(ask: &Ask) -> Vec<u8> {
    // Maps and lists of text and numbers can always be serialised.
    serde_json::to_vec(ask).unwrap_or_default()
}

/// Sends a question to a monitor, and waits for its answer.
pub(crate) fn ask(connection: &Connection, ask: &Ask, timeout: Duration) -> Result<Answer> {
    let id = connection.ask(encode(ask))?;
    answer(connection, id, timeout, &mut |_| ())
}

/// Sends a request to a monitor that answers when it is done.
pub(crate) fn done(connection: &Connection, question: &Ask) -> Result<()> {
    match ask(connection, question, FOR_EVER)? {
        Answer::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

pub(crate) fn answer(
    connection: &Connection,
    id: u32,
    timeout: Duration,
    notice: &mut dyn FnMut(&str),
) -> Result<Answer> {
    let bytes = connection
        .answer(id, timeout, notice)?
        .ok_or(GuestError::NoAnswer {
            request: "a question to the sandbox's monitor",
            waited: timeout,
        })?;
    let outcome: Outcome = serde_json::from_slice(&bytes)
        .map_err(|error| Error::Monitor(format!("the monitor's answer is malformed: {error}")))?;
    outcome.map_err(|failure| match failure.kind {
        FailureKind::Spawn(code) => GuestError::SpawnFailed {
            code,
            message: failure.message,
        }
        .into(),
        FailureKind::Interrupted => Error::Interrupted,
        FailureKind::NoQemu(arch) => {
            let arch = platform::emulated(arch);
            VmmError::QemuNotFound { arch }.into()
        }
        FailureKind::NoShareServer => VmmError::NoShareServer.into(),
        FailureKind::NoHypervisor(reason) => VmmError::NoHypervisor { reason }.into(),
        _ => Error::Monitor(failure.message),
    })
}

pub(crate) fn unexpected(answer: &Answer) -> Error {
    Error::Monitor(format!("unexpected answer of the monitor: {answer:?}"))
}
