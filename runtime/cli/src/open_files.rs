//! The limit of open files of this process and of those that it starts.

use rustix::process::{Resource, getrlimit, setrlimit};

/// What macOS takes at most (`OPEN_MAX`), whatever the hard limit says.
const MOST: Option<u64> = if cfg!(target_os = "macos") {
    Some(10_240)
} else {
    None
};

/// Raises the soft limit to the hard one. Whoever makes or boots an image of a thousand layers has
/// as many files open, and the soft limit is that low for the sake of programs which call `select`.
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
        // Most images need far fewer, and a file too many has an error of its own.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}
