//! A crash at any moment leaves a working store without partial files; processes that pull the same
//! image share the work.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use common::Blockbox;
use common::layout::{Compression, Layout};
use rustix::process::{Pid, Signal};
use testkit::{TarBuilder, oracle};

/// An image of a few layers whose conversion takes a moment.
fn layout() -> Layout {
    let mut layout = Layout::new();
    let mut state = 1_u32;
    for layer in 0..4 {
        let mut tar = TarBuilder::new().dir("./");
        for file in 0..40 {
            let noise: Vec<u8> = (0..100_000)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect();
            tar = tar.file(format!("f{layer}-{file}"), noise);
        }
        layout = layout.layer(&tar.finish(), Compression::Gzip);
    }
    layout.finish()
}

fn leftovers(blockbox: &Blockbox) -> Vec<String> {
    blockbox
        .listing()
        .into_iter()
        .filter(|f| f.contains("/.tmp-") || f.contains("/locks/"))
        .collect()
}

#[test]
fn a_pull_that_is_killed_at_any_instant_leaves_a_store_that_works() {
    let layout = layout();
    let blockbox = Blockbox::new();
    let mut killed = 0;
    for delay in (0..40).map(|i| Duration::from_millis(i * 5)) {
        let mut child = blockbox
            .command()
            .args(["pull", "-q", &layout.reference()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(delay);
        child.kill().unwrap();
        killed += u32::from(!child.wait().unwrap().success());
        let images = blockbox.ok(["images", "--format", "json"]);
        assert!(images.starts_with('['), "{images}");
    }
    assert!(killed > 0, "every pull had finished before it was killed");
    blockbox.ok(["pull", "-q", &layout.reference()]);
    assert_eq!(leftovers(&blockbox), [""; 0]);
    for layer in blockbox.inspect(&layout.reference()).layers {
        blockbox.ok(["erofs", "check", &layer.display().to_string()]);
    }
}

#[test]
fn the_next_command_after_a_crash_sweeps_up_every_folder() {
    let layout = layout();
    let blockbox = Blockbox::new();
    blockbox.ok(["pull", "-q", &layout.reference()]);
    let home = blockbox.home();
    for folder in ["", "layers", "images", "sandboxes"] {
        fs::write(home.join(folder).join(".tmp-file"), "half").unwrap();
        fs::create_dir(home.join(folder).join(".tmp-folder")).unwrap();
        fs::write(home.join(folder).join(".tmp-folder/file"), "half").unwrap();
    }
    fs::write(home.join("locks/references"), "").unwrap();
    assert_ne!(leftovers(&blockbox), [""; 0]);
    blockbox.ok(["pull", "-q", &layout.reference()]);
    assert_eq!(leftovers(&blockbox), [""; 0]);
}

#[test]
fn concurrent_pulls_of_one_image_convert_each_layer_once() {
    let layout = layout();
    let blockbox = Blockbox::new();
    let pulls: Vec<_> = (0..4)
        .map(|_| {
            let mut command = blockbox.command();
            command
                .args(["pull", "-q", &layout.reference()])
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut pull in pulls {
        assert!(pull.wait().unwrap().success());
    }
    assert_eq!(leftovers(&blockbox), [""; 0]);
    let before = blockbox.listing();
    blockbox.ok(["pull", "-q", &layout.reference()]);
    let after = blockbox.listing();
    let changed: Vec<_> = after.iter().filter(|file| !before.contains(file)).collect();
    assert!(
        changed.iter().all(|file| file.contains("references.json")),
        "{changed:?}"
    );
}

#[test]
fn removing_an_image_removes_its_layers_except_shared_ones() {
    let shared = TarBuilder::new().dir("./").file("shared", "1").finish();
    let own = TarBuilder::new().file("own", "2").finish();
    let small = Layout::new().layer(&shared, Compression::Gzip).finish();
    let large = Layout::new()
        .layer(&shared, Compression::Gzip)
        .layer(&own, Compression::Gzip)
        .finish();
    let blockbox = Blockbox::new();
    blockbox.ok(["pull", "-q", &small.reference()]);
    let before = blockbox.inspect(&small.reference());
    blockbox.ok(["pull", "-q", &large.reference()]);
    let layers = blockbox.inspect(&large.reference()).layers;
    assert_eq!(layers[0], before.layers[0]);
    blockbox.ok(["rmi", &large.reference()]);
    assert!(layers[0].exists() && !layers[1].exists());
    blockbox.ok(["erofs", "check", &before.disk.display().to_string()]);
    blockbox.ok(["rmi", &small.reference()]);
    assert!(!layers[0].exists());
    assert_eq!(leftovers(&blockbox), [""; 0]);
    assert!(
        blockbox
            .fails(["rmi", &small.reference()])
            .contains("no image")
    );
}

#[test]
fn a_signal_removes_a_partial_output_file() {
    let blockbox = Blockbox::new();
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image.erofs");
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        if signal == Signal::KILL && !cfg!(target_os = "linux") {
            continue;
        }
        let mut child = blockbox
            .command()
            .args(["erofs", "build", "--tar", "-", "-o"])
            .arg(&image)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        // More than a pipe holds: once it is written, most of it was read, so the image was begun.
        let tar = TarBuilder::new().file("file", vec![1; 4 << 20]).finish();
        let mut input = child.stdin.take().unwrap();
        input.write_all(&tar[..3 << 20]).unwrap();
        let pid = Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(signal.as_raw()));
        let left: Vec<_> = fs::read_dir(&folder).unwrap().collect();
        assert!(left.is_empty(), "{signal:?}: {left:?}");
    }
}

#[test]
fn a_signal_removes_a_partial_folder_of_the_store() {
    let blockbox = Blockbox::new();
    let tar = TarBuilder::new().file("file", vec![1; 4 << 20]).finish();
    blockbox.ok(["volume", "ls"]);
    for signal in [Signal::INT, Signal::TERM] {
        let mut child = blockbox
            .command()
            .args(["volume", "import", "data", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        // More than a pipe holds: once it is written, the volume was begun.
        let mut input = child.stdin.take().unwrap();
        input.write_all(&tar[..3 << 20]).unwrap();
        let entries = || {
            let volumes = fs::read_dir(blockbox.home().join("volumes")).unwrap();
            volumes
                .map(|entry| entry.unwrap().path())
                .collect::<Vec<_>>()
        };
        assert_eq!(entries().len(), 1);
        rustix::process::kill_process(Pid::from_child(&child), signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(signal.as_raw()));
        assert!(entries().is_empty(), "{signal:?}: {:?}", entries());
    }
}

#[test]
fn an_output_that_is_a_symbolic_link_is_written_to_its_target() {
    let tar = TarBuilder::new().file("file", "contents").finish();
    let layout = Layout::new().layer(&tar, Compression::None).finish();
    let blockbox = Blockbox::new();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::create_dir(path("dir")).unwrap();
    fs::write(path("file"), "before").unwrap();
    symlink("file", path("link")).unwrap();
    let archive = format!("oci-archive:{}", path("link"));
    for args in [
        vec!["erofs", "build", "--dir", &path("dir"), "-o", &path("link")],
        vec!["copy", "-q", &layout.reference(), &archive],
    ] {
        blockbox.ok(args);
        assert_eq!(fs::read_link(path("link")).unwrap().to_str(), Some("file"));
        let written = fs::read(path("file")).unwrap();
        assert!(written.len() > 1000 && fs::symlink_metadata(path("file")).unwrap().is_file());
        fs::write(path("file"), "before").unwrap();
    }
    symlink("/dev/null", path("device")).unwrap();
    let refused = [format!("oci-archive:{}", path("device")), path("device")];
    for args in [
        ["copy", "-q", &layout.reference(), &refused[0]],
        ["ext4", "create", "--size=1M", &format!("-o{}", refused[1])],
    ] {
        assert!(blockbox.fails(args).ends_with("not a regular file"));
    }
}

/// An operation on files of a traced process.
enum Step {
    /// A file or a folder was synced.
    Synced { descriptor: String, path: String },
    /// A file or a folder was renamed or linked to `to`.
    Named { from: String, to: String },
}

/// Parses the output of `strace -f -y`.
fn steps(trace: &str) -> Vec<Step> {
    let quoted = |text: &str| -> Vec<String> {
        let pieces = text.split('"').skip(1).step_by(2);
        pieces.map(str::to_owned).collect()
    };
    let step = |line: &str| {
        let (_, call) = line.split_once(' ')?;
        let (name, arguments) = call.trim_start().split_once('(')?;
        match name {
            "fsync" | "fdatasync" => {
                let (descriptor, path) = arguments.split_once('<')?;
                Some(Step::Synced {
                    descriptor: descriptor.to_owned(),
                    path: path.split('>').next()?.to_owned(),
                })
            }
            _ => match &quoted(arguments)[..] {
                [from, to] => Some(Step::Named {
                    from: from.clone(),
                    to: to.clone(),
                }),
                _ => None,
            },
        }
    };
    trace.lines().filter_map(step).collect()
}

/// Runs a command under strace, and returns what it syncs and names; `None` without strace.
fn traced(blockbox: &Blockbox, args: &[&str]) -> Option<Vec<Step>> {
    let mut strace = oracle("strace")?;
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let calls = "fsync,fdatasync,link,linkat,rename,renameat,renameat2";
    strace.args(["-f", "-y", "-e", &format!("trace={calls}"), "-o"]);
    strace.arg(&trace);
    let command = blockbox.command();
    strace.arg(command.get_program()).args(command.get_args());
    let environment = command.get_envs();
    strace.envs(environment.filter_map(|(name, value)| Some((name, value?))));
    let output = strace.args(args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    Some(steps(&fs::read_to_string(&trace).unwrap()))
}

#[test]
fn files_of_a_sandbox_and_of_a_snapshot_are_synced_before_it_gets_its_name() {
    let blockbox = Blockbox::new();
    let layout = layout();
    let image = layout.reference();
    blockbox.ok(["pull", "-q", &image]);
    let home = blockbox.home().canonicalize().unwrap();
    let kinds: [(&[&str], &str, &[&str]); 4] = [
        (
            &["create", "--name", "one", &image, "true"],
            "sandboxes/one",
            &["upper.ext4", "sandbox.json", "state.json"],
        ),
        (
            &["fork", "--no-start", "one", "--name", "two"],
            "sandboxes/two",
            &["upper.ext4", "sandbox.json", "state.json"],
        ),
        (
            &["snapshot", "create", "one", "-n", "kept"],
            "snapshots/kept",
            &["upper.ext4", "snapshot.json"],
        ),
        (
            &["volume", "create", "data"],
            "volumes/data",
            &["data.ext4", "volume.json"],
        ),
    ];
    for (args, folder, files) in kinds {
        let Some(steps) = traced(&blockbox, args) else {
            return;
        };
        let outer = home.join(folder).parent().unwrap().to_owned();
        let (mut synced, mut named) = (Vec::new(), false);
        for step in steps {
            match step {
                Step::Synced { path, .. } => synced.push(PathBuf::from(path)),
                Step::Named { from, to } if Path::new(&to) == home.join(folder) => {
                    let from = PathBuf::from(from);
                    for file in files {
                        let file = from.join(file);
                        assert!(synced.contains(&file), "{file:?} is not synced");
                    }
                    assert!(synced.contains(&from), "{synced:?}");
                    synced.clear();
                    named = true;
                }
                Step::Named { .. } => {}
            }
        }
        assert!(named, "{folder} has no name");
        assert!(
            synced.contains(&outer),
            "the name of {folder} is not synced"
        );
    }
}

#[test]
fn files_of_an_image_are_synced_before_the_image_gets_its_name() {
    let blockbox = Blockbox::new();
    let layout = layout();
    let Some(steps) = traced(&blockbox, &["pull", "-q", &layout.reference()]) else {
        return;
    };
    let home = blockbox.home().canonicalize().unwrap();
    let in_home = |path: &str| {
        let path = Path::new(path).strip_prefix(&home).ok()?;
        Some(path.to_str()?.to_owned())
    };
    let mut synced = Vec::new();
    let (mut layers, mut image) = (0, None);
    for step in steps {
        match step {
            Step::Synced { descriptor, path } => {
                // A file without a name is named by its descriptor.
                if path.contains('#') {
                    synced.push(format!("/proc/self/fd/{descriptor}"));
                }
                synced.push(path.clone());
                synced.extend(in_home(&path));
            }
            Step::Named { from, to } => {
                let Some(to) = in_home(&to) else { continue };
                if to.starts_with("layers/") && to.ends_with(".erofs") {
                    assert!(synced.contains(&from), "{to} is named before it is synced");
                    // Its name is not synced, and the descriptor may be reused for another file.
                    synced.retain(|path| path != "layers" && *path != from);
                    layers += 1;
                } else if to.starts_with("images/") && to.matches('/').count() == 1 {
                    let folder = in_home(&from).unwrap();
                    for file in [
                        "manifest.json",
                        "config.json",
                        "fsmeta.erofs",
                        "disk.vmdk",
                        "artefacts.json",
                    ] {
                        let file = format!("{folder}/{file}");
                        assert!(synced.contains(&file), "{file} is not synced");
                    }
                    assert!(synced.contains(&folder), "{synced:?}");
                    assert!(synced.contains(&"layers".to_owned()), "{synced:?}");
                    image = Some(to);
                } else if to == "references.json" {
                    assert!(image.is_some());
                    assert!(synced.contains(&"images".to_owned()), "{synced:?}");
                    assert!(synced.contains(&from), "{from} is not synced");
                }
            }
        }
    }
    assert_eq!(layers, 4);
    assert!(image.is_some());
}
