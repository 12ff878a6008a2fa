//! Extracts an EROFS image to files or a tar, or reads it through a mount.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Setting;
use super::contest::{Contender, Contest, Outcome, Output, Size};
use super::report::megabytes;
use crate::shell;

/// Options of mkfs.erofs for the images.
const IMAGES: [(&str, &[&str]); 6] = [
    ("plain", &[]),
    ("-zlz4", &["-zlz4"]),
    ("-zlz4hc -C65536", &["-zlz4hc", "-C65536"]),
    ("-zzstd", &["-zzstd"]),
    ("-zdeflate", &["-zdeflate"]),
    ("-zlzma", &["-zlzma"]),
];

pub(super) fn run(setting: &Setting, tree: &Path) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    let image = setting.path("image.erofs");
    for (name, options) in IMAGES {
        let mkfs = setting.peers.command("mkfs.erofs");
        let mut mkfs = mkfs.map_err(anyhow::Error::msg)?;
        mkfs.arg("--quiet").args(options).arg(&image).arg(tree);
        shell::output(&mut mkfs)?;
        let name = format!("{name} ({})", megabytes(fs::metadata(&image)?.len()));
        outcomes.push(setting.hold(to_files(setting, &name, &image))?);
        outcomes.push(setting.hold(through_a_mount(setting, &name, &image)?)?);
        fs::remove_file(&image)?;
    }
    Ok(outcomes)
}

fn to_files(setting: &Setting, name: &str, image: &Path) -> Contest {
    let ours = |name: &str, to: &str, size: Size| {
        let path = setting.path(to);
        let mut command = Command::new(&setting.blockbox);
        command.args(["erofs", "extract"]).arg(image).arg(&path);
        Contender {
            name: name.to_owned(),
            command,
            output: Some(Output { path, size }),
            ours: true,
        }
    };
    let mut contest = Contest {
        title: format!("{name} to files"),
        contenders: vec![
            ours("blockbox, to a folder", "ours", Size::Tree),
            ours("blockbox, to a tar", "ours.tar", Size::Length),
        ],
        inputs: vec![image.to_owned()],
        skipped: Vec::new(),
    };
    let fsck = setting.peers.command("fsck.erofs").map(|mut fsck| {
        let path = setting.path("theirs");
        // Without this option no xattrs are restored.
        fsck.arg("--xattrs");
        fsck.arg(format!("--extract={}", path.display())).arg(image);
        let size = Size::Tree;
        Contender::peer("fsck.erofs --extract", fsck, Output { path, size })
    });
    contest.add(fsck);
    contest
}

/// Mounts, reads every file and unmounts; a mount that stayed would be read from the kernel's
/// memory the second time.
fn through_a_mount(setting: &Setting, name: &str, image: &Path) -> Result<Contest> {
    let mountpoint = setting.path("mountpoint");
    fs::create_dir_all(&mountpoint).with_context(|| mountpoint.display().to_string())?;
    let quoted = |path: &Path| format!("'{}'", path.display());
    let (at, image_word) = (quoted(&mountpoint), quoted(image));
    let read = |mount: &str| {
        let script = format!(
            "{mount} & until mountpoint -q {at}; do kill -0 $! || exit 1; sleep 0.005; done
             find {at} -type f -exec cat {{}} + > /dev/null; status=$?
             umount {at}; wait; exit $status"
        );
        let mut command = Command::new("sh");
        command.arg("-c").arg(script);
        command
    };
    let mut contest = Contest {
        title: format!("{name} read through FUSE"),
        contenders: vec![Contender {
            name: "blockbox erofs mount".to_owned(),
            command: read(&format!(
                "{} erofs mount {image_word} {at}",
                quoted(&setting.blockbox)
            )),
            output: None,
            ours: true,
        }],
        inputs: vec![image.to_owned()],
        skipped: Vec::new(),
    };
    let erofsfuse = setting.peers.command("erofsfuse").map(|program| {
        let words = std::iter::once(program.get_program()).chain(program.get_args());
        let words: Vec<_> = words.map(|word| quoted(&PathBuf::from(word))).collect();
        let command = read(&format!("{} -f {image_word} {at}", words.join(" ")));
        Contender {
            name: "erofsfuse".to_owned(),
            command,
            output: None,
            ours: false,
        }
    });
    contest.add(erofsfuse);
    Ok(contest)
}
