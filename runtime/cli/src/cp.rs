//! `blockbox cp`

use std::ffi::{OsStr, OsString};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use blockbox::store::Store;
use blockbox::{CopyOptions, Sandbox};
use clap::Args;

use super::output::printable;
use super::progress::Shown;

/// Copy files between this host and a sandbox, running or not.
///
/// If the target is a directory, the copy goes into it; otherwise the copy gets the target's name.
/// `DIR/.` copies the contents of a directory. `-` is a tar archive: on standard input to a
/// directory of the sandbox, or on standard output. Paths in a sandbox begin at its root.
#[derive(Debug, Args)]
pub(super) struct Cp {
    /// `NAME:PATH`, a path of this host, or `-`
    #[arg(value_name = "SOURCE")]
    source: OsString,
    /// `NAME:PATH`, a path of this host, or `-`
    #[arg(value_name = "TARGET")]
    target: OsString,
    /// Keep owners, and on the host also set-id bits and file capabilities; otherwise copies belong
    /// to root in a sandbox, and to you here
    #[arg(short, long)]
    archive: bool,
    /// If SOURCE is a symbolic link, copy its target
    #[arg(short = 'L', long)]
    follow_link: bool,
    #[command(flatten)]
    shown: Shown,
}

impl Cp {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        let work = self.shown.work(
            format!("copying {}", Path::new(&self.source).display()),
            None,
        );
        let meter = work.meter();
        let options = CopyOptions::default()
            .meter(meter.clone())
            .owners(self.archive)
            .follow(self.follow_link);
        match (inside(&self.source), inside(&self.target)) {
            (Some((name, path)), None) if self.target == "-" => {
                anyhow::ensure!(
                    !io::stdout().is_terminal(),
                    "standard output is a terminal: use a pipe, or a path in the place of `-`"
                );
                let sandbox = Sandbox::open(store, name)?;
                let mut out = BufWriter::new(meter.measure(io::stdout().lock()));
                let base = archive_name(path);
                sandbox.pack(path, base, self.follow_link, &mut out)?;
                out.flush()?;
            }
            (Some((name, path)), None) => {
                let sandbox = Sandbox::open(store, name)?;
                let unpacked = sandbox.copy_out(path, Path::new(&self.target), &options)?;
                for name in &unpacked.skipped {
                    eprintln!("warning: {}: a device was not copied", printable(name));
                }
            }
            (None, Some((name, path))) if self.source == "-" => {
                let sandbox = Sandbox::open(store, name)?;
                sandbox.unpack(path, self.archive, meter.measure(io::stdin()))?;
            }
            (None, Some((name, path))) => {
                let sandbox = Sandbox::open(store, name)?;
                sandbox.copy_in(Path::new(&self.source), path, &options)?;
            }
            (Some(_), Some(_)) => anyhow::bail!(
                "copying between two sandboxes: use `blockbox cp A:PATH - | blockbox cp - B:DIR`"
            ),
            (None, None) => anyhow::bail!(
                "neither {} nor {} is in a sandbox: write NAME:PATH",
                Path::new(&self.source).display(),
                Path::new(&self.target).display()
            ),
        }
        work.finish();
        Ok(())
    }
}

/// Splits `NAME:PATH` into the sandbox and the path. As in docker, a word that begins with a slash
/// or a dot is a path of this host.
fn inside(argument: &OsStr) -> Option<(&str, &[u8])> {
    let bytes = argument.as_bytes();
    if matches!(bytes.first(), Some(b'/' | b'.')) {
        return None;
    }
    let colon = bytes.iter().position(|&byte| byte == b':')?;
    let name = std::str::from_utf8(bytes.get(..colon)?).ok()?;
    let path = bytes.get(colon + 1..)?;
    (!name.is_empty() && !name.contains('/')).then_some((name, path))
}

/// Returns the name that the entries of an archive on standard output begin with.
fn archive_name(path: &[u8]) -> &[u8] {
    if path.ends_with(b"/.") || path == b"." {
        return b"";
    }
    let parts = path.split(|&byte| byte == b'/');
    let mut names = parts.filter(|part| !part.is_empty());
    match names.next_back() {
        Some(b"..") | None => b"",
        Some(name) => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_is_named_before_a_colon() {
        let of = |text: &'static str| inside(OsStr::new(text));
        assert_eq!(of("web:/etc"), Some(("web", &b"/etc"[..])));
        assert_eq!(of("web:a:b"), Some(("web", &b"a:b"[..])));
        for text in ["./web:/etc", "/web:x", "web", "a/b:c", ":x", "-", ".:x"] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn an_archive_on_standard_output_begins_with_the_last_name() {
        for (path, name) in [
            ("/etc/passwd", "passwd"),
            ("/etc/", "etc"),
            ("/etc/.", ""),
            ("/", ""),
            ("", ""),
            ("a/..", ""),
        ] {
            assert_eq!(archive_name(path.as_bytes()), name.as_bytes(), "{path}");
        }
    }
}
