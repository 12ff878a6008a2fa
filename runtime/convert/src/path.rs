//! Paths as text.

/// Returns the absolute path that `path` names in `folder`, without `.`, `..` and empty parts.
/// Links are not followed, and `..` of the root is the root, as where docker cleans a path.
pub fn join(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let before = if path.starts_with('/') { "" } else { folder };
    for part in before.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::join;

    #[test]
    fn paths_are_joined_and_cleaned() {
        for (folder, path, joined) in [
            ("/", "/a/../b", "/b"),
            ("/app", "data//./x/", "/app/data/x"),
            ("/app", "/etc", "/etc"),
            ("app", "../../..", "/"),
            ("", "", "/"),
        ] {
            assert_eq!(join(folder, path), joined, "{folder} {path}");
        }
    }
}
