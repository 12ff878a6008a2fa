//! Commands that do the same for several sandboxes.

use std::process::ExitCode;

use super::{hint, output};

/// Calls a function for each name. It continues after a failure, and fails at the end if any call
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
