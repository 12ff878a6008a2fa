//! The image's hook for sandboxes that were made as a copy of another one.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use blockbox_protocol::ExecSpec;
use blockbox_store::spec::Process;
use blockbox_vmm::guest::{GuestError, Session};

use crate::background;

/// The hook: an executable in the image.
const HOOK: &str = "/etc/blockbox/on-fork";

/// How long the main command waits for the hook.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs the hook to its end, as root, with the environment of the main command. Its output is
/// discarded.
pub(super) fn run(session: &Arc<Session>, main: &Process) {
    let mut spec = ExecSpec::new([HOOK.as_bytes().to_vec()]);
    spec.env = main.env.iter().map(|one| one.0.clone()).collect();
    let exec = match session.exec(&spec) {
        Ok(exec) => exec,
        Err(GuestError::SpawnFailed { code: 127, .. }) => return,
        Err(error) => return tracing::warn!("{HOOK} cannot be run: {error}"),
    };
    let control = exec.control();
    let (done, ended) = mpsc::channel();
    background::thread("on-fork", move || {
        // The receiver is gone after a timeout.
        let _ = done.send(exec.wait());
    });
    match ended.recv_timeout(LIMIT) {
        Ok(Ok(status)) if status.code() == 0 => {}
        Ok(Ok(status)) => tracing::warn!("{HOOK} ended with {}", status.code()),
        Ok(Err(error)) => tracing::warn!("{HOOK}: {error}"),
        Err(_) => {
            tracing::warn!("{HOOK} did not end within {LIMIT:?}");
            // The guest may be gone.
            let _ = control.kill_all();
        }
    }
}
