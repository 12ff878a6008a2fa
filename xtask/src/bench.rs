//! `cargo xtask bench`: blockbox and other programs side by side.
//!
//! Programs that do the same work on the same input are contenders of one [`Contest`]. In every
//! round each contender runs once, alone and in a changing order, so anything that slows the
//! machine down for a while affects all of them. What the commands need is prepared before and not
//! measured.

mod boot;
mod compress;
mod contest;
mod convert;
mod erofs;
mod ext4;
mod extract;
mod fork;
mod fs;
mod guest;
mod image;
mod input;
mod measure;
mod merge;
mod microsandbox;
mod network;
mod peers;
mod pull;
mod report;
mod sandbox;
mod suite;
mod synthetic;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

pub(crate) use self::measure::helper;

use self::contest::{Contest, Outcome};
use self::peers::Peers;
use crate::{setup, shell};

/// What to measure, and with which input.
#[derive(clap::Args)]
pub(crate) struct Bench {
    /// What to measure; everything by default
    groups: Vec<Group>,
    /// How often each program runs
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// OCI layouts to take layers from, instead of the demo image
    #[arg(long, value_name = "DIR", num_args = 1..)]
    images: Vec<PathBuf>,
    /// How many layers of each image to convert, largest first
    #[arg(long, value_name = "N", default_value = "3")]
    largest: usize,
    /// The folder to put into an ext4 or EROFS image, instead of the demo image's lowest layer
    #[arg(long, value_name = "DIR")]
    tree: Option<PathBuf>,
    /// In the groups fs, guest, suite and network, measure only contenders with this in their name;
    /// ratios need blockbox
    #[arg(long, value_name = "NAME", num_args = 1..)]
    only: Vec<String>,
    /// Where outputs are written: for example in memory, to exclude the disk [default:
    /// target/bench]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// The blockbox to measure, instead of a release build
    #[arg(long)]
    blockbox: Option<PathBuf>,
}

/// A group of contests whose results are in one table.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    /// Convert a layer's tar to an EROFS image
    Convert,
    /// Merge an image's layers into one metadata image
    Merge,
    /// Make a new ext4 image, empty or populated
    Ext4,
    /// Make an EROFS image with each option that mkfs.erofs has too
    Erofs,
    /// Compress all layers of an image with the same options as mkfs.erofs
    Compress,
    /// Extract an EROFS image to files or a tar, or read it through a mount
    Extract,
    /// Convert a whole image to disks, or folders
    Image,
    /// Pull from a registry on loopback into an empty store, as tars and in native forms, and make
    /// those
    Pull,
    /// Measure programs on an image's files, mounted in every way
    Fs,
    /// The same in a guest, with the disks of each way
    Guest,
    /// The same in sandboxes of blockbox, of versions of microsandbox and with docker's layout
    Suite,
    /// Measure the network in a guest, beside passt and QEMU's slirp
    Network,
    /// Make, list and execute in sandboxes
    Sandbox,
    /// Copies of a running sandbox beside new ones
    Fork,
    /// The parts of a sandbox's start, beside the bare kernel and QEMU
    Boot,
}

impl Group {
    fn name(self) -> &'static str {
        match self {
            Self::Convert => "convert",
            Self::Merge => "merge",
            Self::Ext4 => "ext4",
            Self::Erofs => "erofs",
            Self::Compress => "compress",
            Self::Extract => "extract",
            Self::Image => "image",
            Self::Pull => "pull",
            Self::Fs => "fs",
            Self::Guest => "guest",
            Self::Suite => "suite",
            Self::Network => "network",
            Self::Sandbox => "sandbox",
            Self::Fork => "fork",
            Self::Boot => "boot",
        }
    }
}

/// The settings of all groups.
struct Setting {
    blockbox: PathBuf,
    peers: Peers,
    rounds: u32,
    /// Parts of names, if not everything is measured.
    only: Vec<String>,
    /// The folder of outputs and prepared inputs, which is removed at the end.
    scratch: PathBuf,
}

impl Setting {
    /// Runs a contest's rounds, and prints its title.
    fn hold(&self, contest: Contest) -> Result<Outcome> {
        eprintln!("bench: {}", contest.title);
        contest.hold(self.rounds)
    }

    /// Returns whether a contender with this name is measured.
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.contains(only.as_str()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// Returns a command of the measured blockbox.
    fn blockbox(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.blockbox);
        command.args(args);
        command
    }
}

/// Runs this command again from a release build, because library calls are measured in this
/// program.
fn optimised() -> Result<()> {
    let mut cargo = shell::cargo();
    // Paths among the arguments are relative to this folder.
    cargo.current_dir(std::env::current_dir()?);
    cargo.args(["run", "--release", "--quiet", "--package", "xtask", "--"]);
    shell::run(cargo.args(std::env::args_os().skip(1)))
}

/// Measures, prints a Markdown table per group, and writes it with the samples to `target/bench`.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    if cfg!(debug_assertions) {
        return optimised();
    }
    let groups = if bench.groups.is_empty() {
        Group::value_variants()
    } else {
        &bench.groups
    };
    let blockbox = match &bench.blockbox {
        Some(blockbox) => std::fs::canonicalize(blockbox)?,
        None => shell::release_build()?,
    };
    let (images, tree) = inputs(bench, groups)?;
    let results = shell::target("bench");
    std::fs::create_dir_all(&results)?;
    let scratch = bench.scratch.as_deref().unwrap_or(&results);
    let scratch = scratch.join(format!("scratch-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let setting = Setting {
        blockbox,
        peers: Peers::find(),
        rounds: bench.rounds,
        only: bench.only.clone(),
        scratch,
    };
    let measured = groups
        .iter()
        .try_for_each(|&group| measure(group, &setting, bench, &images, tree.as_deref(), &results));
    let removed = std::fs::remove_dir_all(&setting.scratch);
    measured?;
    removed.with_context(|| setting.scratch.display().to_string())
}

/// Returns the images and the tree that the groups need; those not given are made.
fn inputs(bench: &Bench, groups: &[Group]) -> Result<(Vec<PathBuf>, Option<PathBuf>)> {
    let without_layers = [Group::Ext4, Group::Extract, Group::Network];
    let layers = groups.iter().any(|group| !without_layers.contains(group));
    let demo_layers = layers && bench.images.is_empty();
    let trees = [Group::Ext4, Group::Erofs, Group::Extract];
    let demo_tree = groups.iter().any(|group| trees.contains(group)) && bench.tree.is_none();
    let demo = demo_layers || demo_tree;
    if demo
        || groups.contains(&Group::Guest)
        || groups.contains(&Group::Suite)
        || groups.contains(&Group::Network)
        || groups.contains(&Group::Sandbox)
        || groups.contains(&Group::Fork)
        || groups.contains(&Group::Boot)
    {
        setup::run()?;
    }
    if demo {
        crate::image::demo().build()?;
    }
    let images = if demo_layers {
        // mkfs.erofs reads gzip, and the image itself also has other layers.
        vec![shell::target("demo/image-gzip")]
    } else {
        bench.images.clone()
    };
    let tree = match &bench.tree {
        Some(tree) => Some(tree.clone()),
        None => demo_tree.then(|| shell::target("demo/layers/01-base/upper")),
    };
    Ok((images, tree))
}

fn measure(
    group: Group,
    setting: &Setting,
    bench: &Bench,
    images: &[PathBuf],
    tree: Option<&Path>,
    results: &Path,
) -> Result<()> {
    let surroundings = report::Surroundings::now(setting)?;
    let head = report::head(group.name(), &surroundings);
    // What failed, although it has results.
    let mut failed = Ok(());
    let (markdown, contests) = match group {
        Group::Convert => report::both(&convert::run(setting, images, bench.largest)?),
        Group::Merge => {
            let mut outcomes = merge::run(setting, images)?;
            outcomes.extend(synthetic::run(setting)?);
            report::both(&outcomes)
        }
        Group::Ext4 => report::both(&ext4::run(setting, tree)?),
        Group::Erofs => {
            let outcomes = erofs::run(setting, tree, images)?;
            let (markdown, contests) = report::both(&outcomes);
            (markdown + &erofs::summary(&outcomes), contests)
        }
        Group::Compress => {
            let outcomes = compress::run(setting, images)?;
            let (markdown, contests) = report::both(&outcomes);
            (markdown + &erofs::summary(&outcomes), contests)
        }
        Group::Extract => {
            let tree = tree.context("no tree to make images of")?;
            report::both(&extract::run(setting, tree)?)
        }
        Group::Image => report::both(&image::run(setting, images)?),
        Group::Pull => report::both(&pull::run(setting, images)?),
        Group::Fs => {
            let outcomes = fs::run(setting, images)?;
            failed = outcomes.iter().try_for_each(fs::Outcome::check);
            (fs::markdown(&outcomes), fs::json(&outcomes))
        }
        Group::Guest => {
            let outcomes = guest::run(setting, images)?;
            failed = outcomes.iter().try_for_each(fs::Outcome::check);
            (fs::markdown(&outcomes), fs::json(&outcomes))
        }
        Group::Suite => {
            let (mut markdown, mut outcomes) = (String::new(), Vec::new());
            for (outcome, summary) in suite::run(setting, images)? {
                markdown += &fs::markdown(std::slice::from_ref(&outcome));
                markdown += &summary.markdown();
                outcomes.push(outcome);
            }
            failed = outcomes.iter().try_for_each(fs::Outcome::check);
            (markdown, fs::json(&outcomes))
        }
        Group::Network => {
            let standings = network::run(setting)?;
            (network::markdown(&standings), network::json(&standings))
        }
        Group::Sandbox => {
            let rows = sandbox::run(setting, images)?;
            (sandbox::markdown(&rows), sandbox::json(&rows))
        }
        Group::Fork => {
            let rows = fork::run(setting, images)?;
            (sandbox::markdown(&rows), sandbox::json(&rows))
        }
        Group::Boot => {
            let rows = boot::run(setting, images)?;
            (sandbox::markdown(&rows), sandbox::json(&rows))
        }
    };
    let markdown = head + &markdown;
    let json = report::json(group.name(), &surroundings, &contests);
    println!("{markdown}");
    let path = |extension| results.join(format!("{}.{extension}", group.name()));
    std::fs::write(path("md"), markdown)?;
    std::fs::write(path("json"), format!("{json:#}\n"))?;
    failed
}
