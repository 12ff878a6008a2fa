//! Finds oracles.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns the root of the repository.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Returns a path that `cargo xtask` has made, under cargo's target folder: `$CARGO_TARGET_DIR`, or
/// the repository's if only the tests have another one.
pub fn made(path: &str) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map(|folder| repository().join(folder).join(path))
        .filter(|path| path.exists())
        .unwrap_or_else(|| repository().join("target").join(path))
}

/// Returns a command that runs the oracle `name`; `None` if it is not installed and the caller must
/// return.
///
/// Programs that `cargo xtask setup` unpacked, which are newer than the distribution's, come before
/// those on `PATH`.
///
/// # Panics
///
/// If `CI=true` and the oracle is missing.
pub fn oracle(name: &str) -> Option<Command> {
    let unpacked = made("oracles/bin").join(name);
    let found = std::iter::once(unpacked)
        .chain(
            std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
                // These are not on every user's PATH, and contain e2fsck and losetup.
                .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
                .map(|dir| dir.join(name)),
        )
        .find(|path| path.is_file());
    match found {
        Some(path) => Some(Command::new(path)),
        None => {
            skip(&format!("{name} is not installed"));
            None
        }
    }
}

/// Returns whether the kernel can mount images here, which needs root, Linux and loop devices.
/// Otherwise it reports a skipped test.
///
/// # Panics
///
/// If `CI=true` and it cannot.
pub fn kernel_mounts() -> bool {
    let able = rustix::process::geteuid().is_root() && Path::new("/dev/loop-control").exists();
    if !able {
        skip("kernel mounts need root and loop devices");
    }
    able
}

/// Returns the major and the minor version of this kernel.
pub fn kernel_version() -> (u32, u32) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().expect("a release begins with two numbers"));
    let mut next = || numbers.next().expect("a release has two numbers");
    (next(), next())
}

/// Reports that the running test is skipped, with the reason: on the process's own standard error,
/// which libtest does not capture, and in the file that `cargo xtask test` counts
/// (`BLOCKBOX_SKIPPED`).
///
/// # Panics
///
/// If `CI=true`: then a missing oracle is a failure.
pub fn skip(why: &str) {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
        "{test}: {why}"
    );
    let line = format!("SKIPPED {test}: {why}\n");
    // An error here is not a failure of the test.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("BLOCKBOX_SKIPPED")
        && let Ok(mut file) = File::options().append(true).create(true).open(path)
    {
        let _ = file.write_all(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skipped_test_is_shown_where_output_is_captured_and_is_counted() {
        const CHILD: &str = "TESTKIT_SKIPS";
        if std::env::var_os(CHILD).is_some() {
            skip("for show");
            return;
        }
        let name = "oracle::tests::a_skipped_test_is_shown_where_output_is_captured_and_is_counted";
        let report = std::env::temp_dir().join(format!("testkit-skips-{}", std::process::id()));
        let output = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", name])
            .env(CHILD, "1")
            .env("BLOCKBOX_SKIPPED", &report)
            .env_remove("CI")
            .output()
            .expect("the test starts");
        let counted = std::fs::read_to_string(&report).expect("the report");
        std::fs::remove_file(&report).expect("removed");
        let line = format!("SKIPPED {name}: for show\n");
        assert_eq!(counted, line);
        assert!(
            String::from_utf8_lossy(&output.stderr).contains(&line),
            "{output:?}"
        );
    }
}
