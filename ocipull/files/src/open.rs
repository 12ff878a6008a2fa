//! Opens files without waiting for their other ends.

use std::fs::{File, FileType};
use std::io;
use std::path::Path;

/// Opens the regular file `path`. Never waits, whereas a plain open of a fifo waits for a writer.
///
/// # Errors
///
/// Those of the system; [`io::ErrorKind::InvalidInput`] if it is not a regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    open(path, "not a regular file", FileType::is_file)
}

/// Opens the regular file or block device `path`. Never waits.
///
/// # Errors
///
/// As [`open_regular`].
pub fn open_disk(path: &Path) -> io::Result<File> {
    let problem = "neither a regular file nor a block device";
    open(path, problem, |kind| {
        kind.is_file() || is_block_device(kind)
    })
}

/// Opens the regular file `path`, or what a shell has opened for this process (`/dev/stdin`, and
/// `/dev/fd/N` of a process substitution).
///
/// # Errors
///
/// As [`open_regular`].
pub fn open_input(path: &Path) -> io::Result<File> {
    let opened =
        ["/dev/fd", "/proc/self/fd"].map(|folder| path.parent() == Some(Path::new(folder)));
    match path == Path::new("/dev/stdin") || opened.contains(&true) {
        true => File::open(path),
        false => open_regular(path),
    }
}

fn open(path: &Path, problem: &str, fits: impl Fn(&FileType) -> bool) -> io::Result<File> {
    let unfit = || io::Error::new(io::ErrorKind::InvalidInput, problem);
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    }
    let file = match options.open(path) {
        Ok(file) => file,
        // A socket, or a device without a driver, cannot be opened.
        Err(error) => match path.metadata() {
            Ok(found) if !fits(&found.file_type()) => return Err(unfit()),
            _ => return Err(error),
        },
    };
    // The type of the open file cannot change any more.
    match fits(&file.metadata()?.file_type()) {
        true => Ok(file),
        false => Err(unfit()),
    }
}

#[cfg(unix)]
fn is_block_device(kind: &FileType) -> bool {
    std::os::unix::fs::FileTypeExt::is_block_device(kind)
}

#[cfg(not(unix))]
fn is_block_device(_: &FileType) -> bool {
    false
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_regular_files_are_opened_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "x").unwrap();
        let _listener = UnixListener::bind(at("socket")).unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(at("fifo"))
            .status();
        assert!(made.unwrap().success());
        for open in [open_regular, open_disk, open_input] {
            open(&at("file")).unwrap();
            for refused in [
                at("socket"),
                at("fifo"),
                "/dev/null".into(),
                dir.path().into(),
            ] {
                let error = open(&refused).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{refused:?}");
            }
            let error = open(&at("none")).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
        open_input(Path::new("/dev/fd/0")).unwrap();
    }
}
