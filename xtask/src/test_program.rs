//! The programs of integration tests, to be run elsewhere than cargo runs them.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::shell;

/// Builds the integration test `test` of the package in `folder`, in the same way as `cargo test
/// --workspace`: for a package alone, cargo would build its dependencies again with fewer features.
/// Returns the test's program.
pub(crate) fn build(folder: &Path, test: &str) -> Result<PathBuf> {
    let mut cargo = shell::cargo();
    cargo
        .args(["test", "--workspace", "--test", test])
        .args(["--no-run", "--message-format", "json"])
        .stderr(Stdio::inherit());
    let output = cargo.output().with_context(|| shell::line(&cargo))?;
    ensure!(output.status.success(), "{}", shell::line(&cargo));
    let source = folder.join("tests");
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut programs = messages.lines().filter_map(|line| program(line, &source));
    programs
        .next()
        .with_context(|| format!("{} has no test {test}", folder.display()))
}

/// Returns the program that a message of cargo is about, if its source is below a folder.
fn program(message: &str, source: &Path) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let path = message["target"]["src_path"].as_str()?;
    let program = message["executable"].as_str()?;
    Path::new(path).starts_with(source).then(|| program.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_by_the_folder_of_its_source() {
        let message = r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"image","src_path":"/r/erofs-writer/tests/image.rs"},"executable":"/t/image-1"}"#;
        let found = |folder: &str| program(message, Path::new(folder));
        assert_eq!(found("/r/erofs-writer/tests"), Some("/t/image-1".into()));
        assert_eq!(found("/r/erofs/tests"), None);
        assert_eq!(program("running 3 tests", Path::new("/r")), None);
    }
}
