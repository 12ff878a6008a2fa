//! Which extent file names are portable, and which are safe to follow.

use std::path::{Path, PathBuf};

use crate::{Error, NameProblem};

/// QEMU scans a name with `%511[^\n\r"]`.
const MAX_NAME: usize = 511;

/// Checks a name that is to be written: plain enough for every reader. `..` is allowed, since all
/// of them join the name to the descriptor's folder and let the operating system resolve it.
pub(crate) fn portable(name: &str) -> Result<(), Error> {
    relative(name)?;
    let problem = if name.contains(' ') {
        NameProblem::Blank
    } else if name.contains(':') {
        NameProblem::Colon
    } else if !name.is_ascii() {
        NameProblem::Character
    } else {
        return Ok(());
    };
    Err(refuse(name, problem))
}

/// Checks a name found in a descriptor: relative, and unable to end its line or its quotes.
pub(crate) fn relative(name: &str) -> Result<(), Error> {
    let problem = if name.is_empty() {
        NameProblem::Empty
    } else if name.len() > MAX_NAME {
        NameProblem::TooLong
    } else if name
        .chars()
        .any(|c| c.is_control() || matches!(c, '"' | '\\'))
    {
        NameProblem::Character
    } else if Path::new(name).has_root() || Path::new(name).is_absolute() {
        NameProblem::Absolute
    } else {
        return Ok(());
    };
    Err(refuse(name, problem))
}

/// The regular file that `name`, found in a descriptor in `folder`, leads to. Without `root`, `..`
/// is refused and symlinks must stay inside `folder`; with it, they must stay inside `root`.
pub(crate) fn resolve(folder: &Path, root: Option<&Path>, name: &str) -> Result<PathBuf, Error> {
    relative(name)?;
    if root.is_none() && name.split('/').any(|part| part == "..") {
        return Err(refuse(name, NameProblem::ParentDir));
    }
    let canonical = |path: &Path| {
        path.canonicalize().map_err(|source| Error::Io {
            path: path.to_owned(),
            source,
        })
    };
    let path = canonical(&folder.join(name))?;
    if !path.starts_with(canonical(root.unwrap_or(folder))?) {
        return Err(refuse(name, NameProblem::Outside));
    }
    // Asked before opening: opening a pipe would wait for its other end.
    match path.metadata() {
        Ok(meta) if meta.is_file() => Ok(path),
        Ok(_) => Err(refuse(name, NameProblem::NotAFile)),
        Err(source) => Err(Error::Io { path, source }),
    }
}

/// Checks the value of `key`: it must not end its quotes or its line.
pub(crate) fn value(key: &str, value: &str) -> Result<(), Error> {
    match is_value(value) {
        true => Ok(()),
        false => Err(Error::Value {
            key: key.to_owned(),
        }),
    }
}

/// Whether the parser reads `value` back from between quotes.
pub(crate) fn is_value(value: &str) -> bool {
    !value.contains(|c: char| c == '"' || (c.is_control() && c != '\t'))
}

/// Checks what follows `ddb.` in a key.
pub(crate) fn key(key: &str) -> Result<(), Error> {
    match is_key(key) {
        true => Ok(()),
        false => Err(Error::Value {
            key: key.to_owned(),
        }),
    }
}

/// Whether the parser reads `key` back from before an equals sign.
pub(crate) fn is_key(key: &str) -> bool {
    !key.is_empty() && key.trim() == key && !key.contains(|c: char| c == '=' || c.is_control())
}

fn refuse(name: &str, problem: NameProblem) -> Error {
    Error::Name {
        name: name.to_owned(),
        problem,
    }
}
