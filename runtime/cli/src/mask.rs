//! Hides user information in an argument (`user:password@host`) from messages.

/// Returns `text` with `…` in place of user information from this process's arguments.
pub(super) fn masked(text: String) -> String {
    std::env::args_os()
        .filter_map(|argument| argument.into_string().ok())
        .filter_map(|argument| user_information(&argument).map(str::to_owned))
        .fold(text, |text, secret| {
            text.replace(&format!("{secret}@"), "…@")
        })
}

/// Returns the user and password before the host in an address or a reference.
fn user_information(argument: &str) -> Option<&str> {
    let rest = argument
        .split_once("://")
        .map_or(argument, |(_, rest)| rest);
    let host = rest.split('/').next()?;
    let (user, host) = host.rsplit_once('@')?;
    // A tag with a digest has the same form: `image:1@sha256:…`.
    let digest = host.starts_with("sha256:") || host.starts_with("sha512:");
    (user.contains(':') && !digest).then_some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_masked_and_a_digest_is_not() {
        for (argument, secret) in [
            ("me:s3cr3t@h.example/a", Some("me:s3cr3t")),
            ("https://me:p@h.example/a", Some("me:p")),
            ("me:a@b@h:5000/a", Some("me:a@b")),
            ("busybox:1@sha256:00", None),
            ("h:5000/busybox:1@sha256:00", None),
            ("a@h.example", None),
            ("busybox", None),
            ("", None),
        ] {
            assert_eq!(user_information(argument), secret, "{argument}");
        }
    }
}
