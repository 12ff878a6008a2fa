//! mkfs.erofs and blockbox with the same options: converts a folder, or a tar, to an EROFS image.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::contest::{Contender, Contest, Outcome, Output, Size};
use super::input::{self, Image};
use super::report::{self, Medians};
use super::{Setting, report::megabytes};
use crate::shell;

/// The same choice as options of both programs.
pub(super) struct Choice {
    pub(super) name: &'static str,
    pub(super) ours: &'static [&'static str],
    pub(super) mkfs: &'static [&'static str],
}

/// Options for images of a folder. All have blocks of 4096 bytes, as mkfs.erofs uses with pages of
/// that size.
///
/// Levels are given if the programs' defaults differ. mkfs.erofs stores short files after their
/// inodes by default, with compression too.
pub(super) const OF_FOLDERS: [Choice; 13] = [
    Choice {
        name: "plain",
        ours: &["--features", "inline-tails"],
        mkfs: &[],
    },
    Choice {
        name: "-Enoinline_data",
        ours: &[],
        mkfs: &["-Enoinline_data"],
    },
    Choice {
        name: "--chunksize=4096",
        ours: &["--chunk-size", "4096"],
        mkfs: &["--chunksize=4096"],
    },
    Choice {
        name: "-zlz4",
        ours: &["--compress", "lz4", "--features", "inline-tails"],
        mkfs: &["-zlz4"],
    },
    Choice {
        name: "-zlz4hc,level=9",
        ours: &["--compress", "lz4,9", "--features", "inline-tails"],
        mkfs: &["-zlz4hc,level=9"],
    },
    Choice {
        name: "-zdeflate,level=6",
        ours: &["--compress", "deflate,6", "--features", "inline-tails"],
        mkfs: &["-zdeflate,level=6"],
    },
    Choice {
        name: "-zlzma,level=6",
        ours: &["--compress", "lzma,6", "--features", "inline-tails"],
        mkfs: &["-zlzma,level=6"],
    },
    Choice {
        name: "-zzstd,level=3",
        ours: &["--compress", "zstd,3", "--features", "inline-tails"],
        mkfs: &["-zzstd,level=3"],
    },
    Choice {
        name: "-zlz4hc,level=9 -C65536",
        ours: &[
            "--compress",
            "lz4,9",
            "--cluster-size",
            "64K",
            "--features",
            "inline-tails",
        ],
        mkfs: &["-zlz4hc,level=9", "-C65536"],
    },
    Choice {
        name: "-zzstd,level=3 -C65536",
        ours: &[
            "--compress",
            "zstd,3",
            "--cluster-size",
            "64K",
            "--features",
            "inline-tails",
        ],
        mkfs: &["-zzstd,level=3", "-C65536"],
    },
    Choice {
        name: "-zzstd,level=3 -C65536 -Eztailpacking",
        ours: &[
            "--compress",
            "zstd,3",
            "--cluster-size",
            "64K",
            "--features",
            "inline-tails,ztailpacking",
        ],
        mkfs: &["-zzstd,level=3", "-C65536", "-Eztailpacking"],
    },
    Choice {
        name: "-zzstd,level=3 -C65536 -Efragments",
        ours: &[
            "--compress",
            "zstd,3",
            "--cluster-size",
            "64K",
            "--features",
            "inline-tails,fragments",
        ],
        mkfs: &["-zzstd,level=3", "-C65536", "-Efragments"],
    },
    Choice {
        name: "-zlz4hc,level=9 -C65536 -Ededupe",
        ours: &[
            "--compress",
            "lz4,9",
            "--cluster-size",
            "64K",
            "--features",
            "inline-tails,dedupe",
        ],
        mkfs: &["-zlz4hc,level=9", "-C65536", "-Ededupe"],
    },
];

/// Options for images of a layer's tar.
const OF_TARS: [Choice; 4] = [
    Choice {
        name: "--tar=f -Enoinline_data",
        ours: &["--block-size", "4096"],
        mkfs: &["--tar=f", "-b4096", "-Enoinline_data"],
    },
    Choice {
        name: "--tar=f -zzstd,level=3 -C65536",
        ours: &[
            "--block-size",
            "4096",
            "--compress",
            "zstd,3",
            "--cluster-size",
            "64K",
            "--features",
            "inline-tails",
        ],
        mkfs: &["--tar=f", "-b4096", "-zzstd,level=3", "-C65536"],
    },
    // mkfs.erofs reads only headers, as blockbox does if the digest is known; a wrong digest takes
    // equally long.
    Choice {
        name: "--tar=i, digest known",
        ours: &[
            "--tar-index",
            "--diff-id",
            "sha256:0000000000000000000000000000000000000000000000000000000000000000",
        ],
        mkfs: &["--tar=i"],
    },
    Choice {
        name: "--tar=i, digest not known",
        ours: &["--tar-index"],
        mkfs: &["--tar=i"],
    },
];

/// Runs the folder `tree` with every choice, and each image's largest layer as a tar.
pub(super) fn run(
    setting: &Setting,
    tree: Option<&Path>,
    images: &[PathBuf],
) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    if let Some(tree) = tree {
        let shown = tree.strip_prefix(shell::repository()).unwrap_or(tree);
        for choice in &OF_FOLDERS {
            let title = format!("{}: mkfs.erofs {}", shown.display(), choice.name);
            let source = Source::Folder(tree);
            outcomes.push(setting.hold(contest(setting, title, choice, source))?);
        }
    }
    for image in images {
        let layers = Image::open(image)?.layers;
        let Some(layer) = layers.iter().max_by_key(|layer| layer.size) else {
            continue;
        };
        let tar = setting.path("layer.tar");
        let size = megabytes(input::gunzip(&layer.path, &tar)?);
        for choice in &OF_TARS {
            let title = format!("{} ({size}): mkfs.erofs {}", layer.name, choice.name);
            let source = Source::Tar(&tar);
            outcomes.push(setting.hold(contest(setting, title, choice, source))?);
        }
        fs::remove_file(&tar)?;
    }
    Ok(outcomes)
}

/// The input of an image.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    Folder(&'a Path),
    Tar(&'a Path),
}

impl<'a> Source<'a> {
    fn path(self) -> &'a Path {
        match self {
            Self::Folder(path) | Self::Tar(path) => path,
        }
    }
}

/// Returns a contest between the two, to which options may be added.
pub(super) fn contest(
    setting: &Setting,
    title: String,
    choice: &Choice,
    source: Source<'_>,
) -> Contest {
    let mut contest = Contest {
        title,
        contenders: Vec::new(),
        inputs: vec![source.path().to_owned()],
        skipped: Vec::new(),
    };
    contest.add(mkfs_erofs(setting, choice, source));
    contest.contenders.push(ours(setting, choice, source));
    contest
}

fn ours(setting: &Setting, choice: &Choice, source: Source<'_>) -> Contender {
    let output = setting.path("ours.erofs");
    let mut command = Command::new(&setting.blockbox);
    command.args(["erofs", "build"]);
    match source {
        Source::Folder(folder) => command.args(["--block-size", "4096", "--dir"]).arg(folder),
        Source::Tar(tar) => command.arg("--tar").arg(tar),
    };
    command.args(choice.ours).arg("--output").arg(&output);
    Contender::ours(command, image(output))
}

fn mkfs_erofs(setting: &Setting, choice: &Choice, source: Source<'_>) -> Result<Contender, String> {
    let output = setting.path("mkfs.erofs");
    let mut command = setting.peers.command("mkfs.erofs")?;
    command.arg("--quiet");
    match source {
        Source::Folder(_) => command.arg("-b4096"),
        Source::Tar(_) => command.arg("--aufs"),
    };
    command.args(choice.mkfs).arg(&output).arg(source.path());
    let name = format!("mkfs.erofs {}", choice.name);
    Ok(Contender::peer(&name, command, image(output)))
}

fn image(path: PathBuf) -> Output {
    Output {
        path,
        size: Size::Length,
    }
}

/// Returns one table over all contests, with the ratio of blockbox to mkfs.erofs.
pub(super) fn summary(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "\n## blockbox / mkfs.erofs\n\n\
         | work | bytes | mkfs.erofs bytes | size | wall | CPU | peak |\n\
         |---|--:|--:|--:|--:|--:|--:|\n",
    );
    for outcome in outcomes {
        let row = row(outcome).unwrap_or_else(|| "– | – | – | – | – | –".to_owned());
        let _ = writeln!(text, "| {} | {row} |", outcome.title);
    }
    text
}

fn row(outcome: &Outcome) -> Option<String> {
    let [theirs, ours] = &outcome.standings[..] else {
        return None;
    };
    let (their, our) = (Medians::of(theirs)?, Medians::of(ours)?);
    let (their_size, our_size) = (theirs.size?, ours.size?);
    let times = |ours: f64, theirs: f64| format!("{:.2}×", ours / theirs);
    Some(format!(
        "{} | {} | {:.1} % | {} | {} | {}",
        report::grouped(our_size),
        report::grouped(their_size),
        100.0 * our_size as f64 / their_size as f64,
        times(our.wall.as_secs_f64(), their.wall.as_secs_f64()),
        times(our.cpu.as_secs_f64(), their.cpu.as_secs_f64()),
        times(our.peak as f64, their.peak as f64),
    ))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::contest::Standing;
    use super::super::measure::Sample;
    use super::*;

    #[test]
    fn summary_has_the_ratio_of_our_time_to_that_of_mkfs() {
        let standing = |name: &str, wall, size| Standing {
            name: name.to_owned(),
            line: name.to_owned(),
            samples: Ok(vec![Sample {
                wall: Duration::from_millis(wall),
                cpu: Duration::from_millis(3 * wall),
                peak: 1000 * wall,
            }]),
            size: Some(size),
        };
        let outcome = |standings| Outcome {
            title: "work".to_owned(),
            standings,
            skipped: Vec::new(),
        };
        let both = vec![standing("mkfs.erofs", 200, 1000), standing("us", 150, 990)];
        let text = summary(&[outcome(both), outcome(vec![standing("us", 150, 990)])]);
        let rows: Vec<_> = text.lines().skip(5).collect();
        assert_eq!(
            rows[0],
            "| work | 990 | 1,000 | 99.0 % | 0.75× | 0.75× | 0.75× |"
        );
        assert_eq!(rows[1], "| work | – | – | – | – | – | – |");
    }
}
