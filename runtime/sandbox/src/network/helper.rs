//! The process of a gateway: `HELPER __net`.

use std::process::ExitCode;

use blockbox_net::{confine, helper};

use crate::background::complain;

/// The hidden subcommand.
pub(crate) const SUBCOMMAND: &str = "__net";

/// If this process was started as a gateway, runs it as that; otherwise returns `None` at once.
pub(crate) fn run_if_asked() -> Option<ExitCode> {
    if std::env::args_os().nth(1)? != SUBCOMMAND {
        return None;
    }
    Some(match helper::run_from_stdio(confine::enforce) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(blockbox_vmm::with_causes(&error));
            ExitCode::FAILURE
        }
    })
}
