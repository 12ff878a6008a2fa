//! Runs the commands of docs/guide.md in order, in a separate store.
//!
//! A block of commands that cannot run here (they need a registry, a terminal, root, the internet
//! or minutes) is marked `no-run` after the block's language, and counted.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::Blockbox;
use common::guest::{Guest, LONG};
use serde_json::json;
use testkit::{TarBuilder, oracle};

/// The number of blocks that are not run, so that adding one is a decision.
const NOT_RUN: usize = 13;

/// The least number of commands that are run.
const LEAST_RUN: usize = 60;

/// A server that handles signals as nginx does.
const SERVER: &str = "#!/bin/sh
[ \"$1\" = -t ] && { echo 'syntax is ok'; exit; }
trap exit TERM QUIT
trap 'echo reloaded' HUP
echo serving
while :; do busybox sleep 1000 & wait $!; done
";

/// A block of the guide between two fences.
struct Block<'a> {
    line: usize,
    info: &'a str,
    text: String,
}

fn blocks(guide: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut inside = false;
    for (number, line) in (1..).zip(guide.lines()) {
        match line.strip_prefix("```") {
            Some(_) if inside => inside = false,
            Some(info) => {
                inside = true;
                blocks.push(Block {
                    line: number,
                    info,
                    text: String::new(),
                });
            }
            None if inside => blocks.last_mut().unwrap().text += &format!("{line}\n"),
            // Commands are only found in fences.
            None => assert!(
                !line.starts_with("    blockbox ") && !line.starts_with("    $ "),
                "line {number}: {line}"
            ),
        }
    }
    assert!(!inside, "a block that does not end");
    blocks
}

/// The files that all images of the guide contain.
fn files() -> Vec<u8> {
    TarBuilder::new()
        .mode(0o755)
        .dir("usr")
        .dir("usr/sbin")
        .file("usr/sbin/nginx", SERVER)
        .file("bin/command", "#!/bin/sh\necho done\n")
        .link("bin/sort", "bin/busybox")
        .dir("etc/app")
        .dir("etc/cron.d")
        .dir("srv")
        .dir("var")
        .dir("var/log")
        .dir("var/lib")
        .dir("var/lib/app")
        .dir("models")
        .mode(0o644)
        .file("etc/os-release", "ID=guide\n")
        .file("etc/group", "root:x:0:\napp:x:1000:\nstaff:x:50:\n")
        .file("etc/cron.d/job", "")
        .file("var/log/log", "a line\n")
        .file("var/lib/app/data", "of the image\n")
        .finish()
}

/// Makes the images and files that the guide assumes.
fn prepare(guest: &Guest, folder: &Path) {
    let blockbox = &guest.blockbox;
    let at = |name: &str| folder.join(name);
    let path = |name: &str| at(name).display().to_string();
    for name in ["debian:bookworm", "alpine", "nginx"] {
        blockbox.ok(["tag", &guest.image, name]);
    }
    // The other images have a command that ends.
    blockbox.ok(["create", "--name", "seed", &guest.image]);
    blockbox.ok(["commit", "seed", "image", "-c", "CMD [\"command\"]"]);
    blockbox.ok(["rm", "seed"]);
    for name in ["app:1", "app:latest", "models:1"] {
        blockbox.ok(["tag", "image", name]);
    }
    let layout = format!("oci:{}:v1", path("layout"));
    blockbox.ok(["copy", "-q", &guest.image, &layout]);
    let archive = format!("oci-archive:{}:v1", path("app.tar"));
    blockbox.ok(["copy", "-q", &layout, &archive]);
    blockbox.ok(["save", "-q", "app:latest", "-o", &path("saved.tar")]);

    for name in ["app", "dir", "root", "etc"] {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join("file"), name).unwrap();
    }
    for name in ["app.conf", "token", "x", "y"] {
        fs::write(at(name), name).unwrap();
    }
    for name in ["part1.img", "part2.img", "disk.raw"] {
        File::create(at(name)).unwrap().set_len(1 << 20).unwrap();
    }
    let tar = TarBuilder::new()
        .dir("etc")
        .file("etc/passwd", "root:x:0:0::/:/bin/sh\n")
        .finish();
    fs::write(at("layer.tar"), &tar).unwrap();
    for name in ["layer.tar.gz", "base.tar.gz", "app.tar.gz"] {
        let file = File::create(at(name)).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, &tar).unwrap();
        gzip.finish().unwrap();
    }
    for name in ["old.erofs", "base.erofs", "app.erofs", "untrusted.erofs"] {
        let (tar, image) = (path("layer.tar"), path(name));
        blockbox.ok(["erofs", "build", "--tar", &tar, "-o", &image]);
    }
}

/// Ends a command that runs for ever.
fn wait(child: &mut Child, line: &str) -> bool {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.success();
        }
        if started.elapsed() > LONG {
            child.kill().unwrap();
            panic!("{line}: does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a line of the guide in a shell.
fn run(blockbox: &Blockbox, folder: &Path, number: usize, line: &str) {
    let program = Path::new(env!("CARGO_BIN_EXE_blockbox"));
    let search = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(program.parent().unwrap().to_owned());
    let search = std::env::join_paths(folders.chain(std::env::split_paths(&search))).unwrap();
    let said = folder.join(".said");
    let out = File::create(&said).unwrap();
    let mut child = Command::new("bash")
        .args(["-e", "-o", "pipefail", "-c", line])
        .current_dir(folder)
        .env("PATH", search)
        .env("BLOCKBOX_HOME", blockbox.home())
        .env("API_KEY", "value")
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(out)
        .spawn()
        .unwrap();
    let success = wait(&mut child, line);
    let said = String::from_utf8_lossy(&fs::read(said).unwrap()).into_owned();
    assert!(success, "docs/guide.md:{number}: {line}\n{said}");
}

#[test]
fn every_command_of_the_guide_succeeds() {
    let config = json!({"Cmd": ["nginx"], "Env": ["PATH=/usr/sbin:/bin"]});
    let Some(guest) = Guest::with_tars(config, vec![files()]) else {
        return;
    };
    if oracle("bash").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    prepare(&guest, folder.path());
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide.md");
    let guide = fs::read_to_string(guide).unwrap();
    let blocks = blocks(&guide);
    // A file that commands refer to.
    let toml = blocks.iter().find(|block| block.info == "toml").unwrap();
    fs::write(folder.path().join("changes.toml"), &toml.text).unwrap();
    let (mut ran, mut not_run) = (0, 0);
    for block in &blocks {
        match block.info {
            "console" => {
                for (number, line) in (block.line + 1..).zip(block.text.lines()) {
                    let command = line.strip_prefix("$ ");
                    let command = command.unwrap_or_else(|| panic!("line {number}: {line}"));
                    let started = Instant::now();
                    run(&guest.blockbox, folder.path(), number, command);
                    println!("{:6.1} s  {command}", started.elapsed().as_secs_f32());
                    ran += 1;
                }
            }
            "console no-run" => not_run += 1,
            "toml" => {}
            other => panic!("line {}: a block of {other:?}", block.line),
        }
    }
    assert_eq!(not_run, NOT_RUN);
    assert!(ran >= LEAST_RUN, "{ran} commands");
}
