//! The files that commands read and write.

use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::common::Blockbox;
use super::common::layout::{Compression, Layout};
use super::{lower, text};

#[test]
fn an_output_appears_complete_or_not_at_all() {
    let blockbox = Blockbox::new();
    let dir = tempfile::tempdir().unwrap();
    let tar = lower();
    fs::write(dir.path().join("cut.tar"), &tar[..tar.len() - 5000]).unwrap();
    let output = text(dir.path(), "out.erofs");
    let error = blockbox.fails([
        "erofs",
        "build",
        "--tar",
        &text(dir.path(), "cut.tar"),
        "-o",
        &output,
    ]);
    assert!(
        error.contains("cut.tar") && error.contains("cut off"),
        "{error}"
    );
    let left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["cut.tar"]);
}

#[test]
fn an_output_does_not_replace_a_device_or_pipe() {
    use std::os::unix::fs::FileTypeExt;

    let blockbox = Blockbox::new();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.tar"), lower()).unwrap();
    let pipe = dir.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let tar = text(dir.path(), "a.tar");
    let output = text(dir.path(), "pipe");
    for command in [
        ["erofs", "build", "--tar", &tar, "-o", &output].as_slice(),
        &["vmdk", "create", "-o", &output, &tar],
    ] {
        let error = blockbox.fails(command);
        assert!(error.contains("not a regular file"), "{error}");
        let left = fs::symlink_metadata(&pipe).unwrap();
        assert!(left.file_type().is_fifo());
    }
}

#[test]
fn an_output_that_is_a_link_writes_its_target() {
    use std::os::unix::fs::symlink;

    let blockbox = Blockbox::new();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.tar"), lower()).unwrap();
    fs::write(dir.path().join("image"), "before").unwrap();
    symlink("image", dir.path().join("link")).unwrap();
    symlink("nothing", dir.path().join("dangling")).unwrap();
    let tar = text(dir.path(), "a.tar");
    let build = |output: &str| ["erofs", "build", "--tar", &tar, "-o", output].map(str::to_owned);
    blockbox.ok(build(&text(dir.path(), "link")));
    assert!(dir.path().join("link").is_symlink());
    assert!(fs::metadata(dir.path().join("image")).unwrap().len() > 4096);

    let error = blockbox.fails(build(&text(dir.path(), "dangling")));
    assert!(error.contains("dangling: No such file"), "{error}");
    assert!(dir.path().join("dangling").is_symlink());
}

#[test]
fn a_pipe_in_place_of_a_file_is_rejected_without_waiting() {
    let blockbox = Blockbox::new();
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new().layer(&lower(), Compression::None).finish();
    let image = layout.reference();
    let fifo = folder.path().join("fifo").display().to_string();
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    for args in [
        &["run", "--env-file", &fifo, &image][..],
        &["run", "--patch-file", &fifo, &image],
        &["run", "--kernel", &fifo, &image],
        &["erofs", "ls", &fifo],
        &["erofs", "extract", &fifo, "/nonexistent/target"],
        &["erofs", "stat", &fifo],
        &["ext4", "info", &fifo],
        &["vmdk", "info", &fifo],
        &["vmdk", "create", "--output=/nonexistent/disk.vmdk", &fifo],
    ] {
        let refused = args.join(" ");
        let mut command = blockbox.command();
        let child = command.args(args).stderr(Stdio::piped()).spawn().unwrap();
        let error = ended(child, &refused);
        assert!(error.contains("file"), "{refused}: {error}");
    }
}

/// Returns the standard error of a command, which must end by itself and fail.
fn ended(mut child: Child, name: &str) -> String {
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("{name} waits");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(!status.success(), "{name}");
    let mut error = String::new();
    let mut stderr = child.stderr.take().unwrap();
    stderr.read_to_string(&mut error).unwrap();
    error
}
