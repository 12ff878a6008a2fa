//! Programs under rules that deny what they try.

use std::io;

/// Checks that an attempt failed for lack of permission, and prints it: the caller counts these
/// lines.
///
/// # Panics
///
/// If it succeeded, or failed for another reason.
pub fn denied<T>(what: &str, result: Result<T, impl Into<io::Error>>) {
    let error: io::Error = match result {
        Ok(_) => panic!("could {what}"),
        Err(error) => error.into(),
    };
    assert_eq!(
        error.kind(),
        io::ErrorKind::PermissionDenied,
        "{what}: {error}"
    );
    println!("denied: {what}");
}
