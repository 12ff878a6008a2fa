//! Commands that do the same to several sandboxes.

use std::process::ExitCode;

use super::{hint, output};

/// Does something to each of the names: goes on after a failure, and fails in the end if any
/// failed.
pub(super) fn each(
    names: &[String],
    mut act: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let mut status = ExitCode::SUCCESS;
    for name in names {
        if let Err(error) = act(name) {
            if output::is_broken_pipe(&error) {
                return Err(error);
            }
            hint::print(&error);
            status = ExitCode::FAILURE;
        }
    }
    Ok(status)
}
