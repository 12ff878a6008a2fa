//! The limit of open files of this process and its children.

use rustix::process::{Resource, getrlimit, setrlimit};

/// The most that macOS accepts (`OPEN_MAX`), whatever the hard limit is.
const MOST: Option<u64> = if cfg!(target_os = "macos") {
    Some(10_240)
} else {
    None
};

/// Raises the soft limit to the hard limit. An image of a thousand layers needs as many open files,
/// and the soft limit is low only for the sake of programs that call `select`.
pub(super) fn allow_as_many_as_possible() {
    let mut limit = getrlimit(Resource::Nofile);
    let most = match (limit.maximum, MOST) {
        (Some(maximum), Some(most)) => Some(maximum.min(most)),
        (maximum, most) => maximum.or(most),
    };
    if let Some(current) = limit.current
        && most.is_none_or(|most| current < most)
    {
        limit.current = most;
        // Most images need far fewer files, and opening too many reports its own error.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}
