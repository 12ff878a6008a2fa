//! Validates paths of an archive, and splits them into names.

use crate::arena::check_name;
use crate::error::Problem;
use crate::limits::Limits;

/// Splits `path` into its names, from the root: `/`, empty components and `.` dropped, `..`
/// resolved by the text alone. None for the root itself.
pub(crate) fn components<'a>(path: &'a [u8], limits: &Limits) -> Result<Vec<&'a [u8]>, Problem> {
    if path.len() > limits.path_bytes {
        return Err(Problem::Limit {
            name: "path_bytes",
            limit: limits.path_bytes as u64,
        });
    }
    let mut names = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop().ok_or(Problem::Escape)?;
            }
            _ => {
                check_name(name)?;
                names.push(name);
            }
        }
    }
    check_depth(names.len(), limits)?;
    Ok(names)
}

pub(crate) fn check_depth(depth: usize, limits: &Limits) -> Result<(), Problem> {
    if depth > limits.depth {
        return Err(Problem::Limit {
            name: "depth",
            limit: limits.depth as u64,
        });
    }
    Ok(())
}

/// The names with `/` between them.
pub(crate) fn joined(names: &[&[u8]]) -> Vec<u8> {
    names.join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalised(path: &str) -> Result<String, Problem> {
        let names = components(path.as_bytes(), &Limits::default())?;
        Ok(String::from_utf8(joined(&names)).unwrap())
    }

    #[test]
    fn paths_are_normalised_by_their_text() {
        for (path, expected) in [
            ("", ""),
            (".", ""),
            ("/", ""),
            ("./", ""),
            ("//a//b/", "a/b"),
            ("./a/./b", "a/b"),
            ("a/../b", "b"),
            ("a/b/../../c", "c"),
            ("...", "..."),
        ] {
            assert_eq!(normalised(path).as_deref(), Ok(expected), "{path}");
        }
        for path in ["..", "a/../..", "/..", "./../a"] {
            assert_eq!(normalised(path), Err(Problem::Escape), "{path}");
        }
    }
}
