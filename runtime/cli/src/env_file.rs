//! Files of environment variables (`--env-file`), as docker reads them.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::builder::{OsStringValueParser, TypedValueParser};

/// The longest file to read, in bytes: more than the guest's kernel passes to any program.
const LONGEST: u64 = 8 << 20;

/// Parses a variable of the command line.
pub(super) fn variable() -> impl TypedValueParser<Value = OsString> {
    OsStringValueParser::new().try_map(|variable| {
        let bytes = variable.as_bytes();
        match bytes.is_empty() || bytes.starts_with(b"=") {
            true => Err("a variable has a name"),
            false => Ok(variable),
        }
    })
}

/// Parses a directory of the sandbox.
pub(super) fn directory() -> impl TypedValueParser<Value = OsString> {
    OsStringValueParser::new().try_map(|directory| match directory.as_bytes().starts_with(b"/") {
        true => Ok(directory),
        false => Err("the path is not absolute"),
    })
}

/// Reads the variables of all files, `KEY=VALUE` or `KEY` each, in order.
pub(super) fn read(files: &[PathBuf]) -> anyhow::Result<Vec<OsString>> {
    let mut variables = Vec::new();
    for path in files {
        let mut text = Vec::new();
        blockbox_files::open_input(path)
            .and_then(|file| file.take(LONGEST + 1).read_to_end(&mut text))
            .with_context(|| path.display().to_string())?;
        if text.len() as u64 > LONGEST {
            bail!("{}: more than {LONGEST} bytes", path.display());
        }
        variables.extend(parse(path, &text)?);
    }
    Ok(variables)
}

/// Parses one variable per line; empty lines and lines that begin with `#` are skipped. Quotes and
/// blanks after the `=` are part of the value.
fn parse(path: &Path, text: &[u8]) -> anyhow::Result<Vec<OsString>> {
    let mut variables = Vec::new();
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let name = line.split(|&byte| byte == b'=').next().unwrap_or(line);
        if name.is_empty() || name.iter().any(u8::is_ascii_whitespace) {
            bail!(
                "{}: line {}: {:?} is not the name of a variable",
                path.display(),
                index + 1,
                String::from_utf8_lossy(name)
            );
        }
        variables.push(OsString::from_vec(line.to_vec()));
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_variables_comments_or_errors_with_their_number() {
        let parse = |text: &str| parse(Path::new("f"), text.as_bytes());
        let text = "# comment\n\nA=1\r\n  B='x y' \nC\nD==\n";
        assert_eq!(parse(text).unwrap(), ["A=1", "B='x y' ", "C", "D=="]);
        for (text, line) in [("A=1\n=2", "line 2"), ("A B=1", "line 1")] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(line), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_too_long_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(LONGEST + 1).unwrap();
        let error = read(&[file.path().into()]).unwrap_err().to_string();
        assert!(error.contains(": more than"), "{error}");
    }
}
