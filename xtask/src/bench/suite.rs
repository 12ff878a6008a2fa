//! `bench suite`: workloads on an image's files in whole sandboxes of blockbox and of microsandbox,
//! and in a guest with docker's layout.
//!
//! All sandboxes use hardware virtualisation, and have one processor and the same memory. If the
//! virtualisation of this host does not work, they run in a machine in which QEMU emulates it, and
//! whose clock counts instructions.

mod guest;
mod machine;
mod microsandbox;
mod ours;
mod summary;

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use self::guest::MEMORY;
use self::machine::{Machine, Place};
use self::microsandbox::{Source, Version};
use super::Setting;
use super::fs::{Build, Contender, Outcome, hold, may_mount};
use super::input::Image;
use crate::{shell, vm_test};

pub(super) use self::summary::Summary;

/// The sandboxes of blockbox, and their options of `blockbox run`.
const OURS: [(&str, &str); 2] = [
    ("blockbox", ""),
    ("blockbox, /tmp on disk", "--tmpfs /tmp=off"),
];

const DOCKER: &str = "docker's layout";

/// A sandbox that runs the workloads, before it is a contender.
struct Entrant {
    name: String,
    ours: bool,
    /// The root of the measured system, in the guest; empty for the guest's own root.
    root: &'static str,
    place: Place,
    /// Whether it takes tens of times as long as the others.
    slow: bool,
    /// Whether its `/tmp` is in memory; known after the first run.
    in_memory: Cell<Option<bool>>,
}

pub(super) fn run(setting: &Setting, images: &[PathBuf]) -> Result<Vec<(Outcome, Summary)>> {
    if !may_mount() || std::env::consts::ARCH != "x86_64" {
        eprintln!(
            "bench: suite is skipped: it mounts what it unpacks, which takes root on Linux, and boots x86-64 machines"
        );
        return Ok(Vec::new());
    }
    let folder = setting.path("suite");
    fs::create_dir(&folder)?;
    let folder = fs::canonicalize(&folder)?;
    let outcomes = images.iter().map(|layout| {
        let image = Image::open(layout)?;
        let layout = fs::canonicalize(layout)?;
        one(setting, &folder, &image, &layout).with_context(|| image.name.clone())
    });
    let outcomes = outcomes.collect::<Result<_>>()?;
    fs::remove_dir_all(&folder)?;
    Ok(outcomes)
}

fn one(
    setting: &Setting,
    folder: &Path,
    image: &Image,
    layout: &Path,
) -> Result<(Outcome, Summary)> {
    let folder = folder.join(&image.name);
    fs::create_dir(&folder)?;
    let homes = tempfile::Builder::new().prefix("suite").tempdir()?;
    let make = Make::new(setting, image, layout, &folder, homes.path())?;
    let (mut entrants, mut skipped) = (Vec::new(), Vec::new());
    for (number, (name, options)) in OURS.into_iter().enumerate() {
        if setting.wants(name) {
            entrants.push(make.ours(number, name, options)?);
        }
    }
    let mut add = |name: &str, entrant: Result<Entrant>| match entrant {
        Ok(entrant) => entrants.push(entrant),
        Err(error) => skipped.push(format!("{name}: {error:#}")),
    };
    if setting.wants(DOCKER) {
        add(DOCKER, make.docker());
    }
    let (versions, missing) = microsandbox::versions(setting);
    if !versions.is_empty() {
        let source = Source::start(setting, &folder.join("registry"), image, layout)?;
        for version in &versions {
            add(&version.name, make.microsandbox(&source, version));
        }
    }
    skipped.extend(missing);

    let contenders: Vec<_> = entrants
        .iter()
        .map(|entrant| Contender {
            name: entrant.name.clone(),
            ours: entrant.ours,
            root: entrant.root.into(),
            run: Box::new(|| measure(&make.machine, entrant)),
        })
        .collect();
    let notes = vec![
        make.machine.note().to_owned(),
        format!("Every run is a new sandbox with one processor and {MEMORY} MiB."),
    ];
    let outcome = hold(setting.rounds, &image.name, &contenders, notes, skipped)?;
    let summary = Summary::of(&outcome, |name| {
        let entrant = entrants.iter().find(|entrant| entrant.name == name)?;
        Some((entrant.ours, entrant.in_memory.get()?))
    });
    fs::remove_dir_all(&folder)?;
    Ok((outcome, summary))
}

/// Makes the sandboxes of an image.
struct Make<'a> {
    setting: &'a Setting,
    image: &'a Image,
    layout: &'a Path,
    /// For large files.
    folder: &'a Path,
    /// For the entrants' folders: microsandbox has sockets in them, whose paths have to be short.
    homes: &'a Path,
    /// The program that measures.
    program: PathBuf,
    machine: Machine,
    libraries: PathBuf,
}

impl<'a> Make<'a> {
    fn new(
        setting: &'a Setting,
        image: &'a Image,
        layout: &'a Path,
        folder: &'a Path,
        homes: &'a Path,
    ) -> Result<Self> {
        let program = folder.join("fsbench");
        let mut bench = setting.blockbox(&["bench", "fs", "--program"]);
        shell::output(bench.arg(&program))?;
        let libraries = microsandbox::libraries()?;
        let trial = homes.join("trial");
        let reference = ours::store(setting, &trial, image, layout)?;
        let machine = if vm_test::runs_here(&setting.blockbox, &trial.join(ours::STORE), &reference)
        {
            Machine::Here
        } else {
            Machine::outer(setting, folder, &[&setting.blockbox], &libraries)?
        };
        fs::remove_dir_all(trial)?;
        Ok(Self {
            setting,
            image,
            layout,
            folder,
            homes,
            program,
            machine,
            libraries,
        })
    }

    fn ours(&self, number: usize, name: &str, options: &str) -> Result<Entrant> {
        let home = self.home(name, &format!("blockbox-{number}"))?;
        let reference = ours::store(self.setting, &home, self.image, self.layout)?;
        let workloads = guest::workloads("", "");
        let script = ours::script(self.setting, &home, options, &reference, &workloads);
        let entrant = self.entrant(name, &home, &script)?;
        let ours = true;
        Ok(Entrant { ours, ..entrant })
    }

    fn docker(&self) -> Result<Entrant> {
        let home = self.home(DOCKER, "docker")?;
        ours::kernel(&home)?;
        let layers = self.folder.join("docker-layers");
        let build = Build {
            setting: self.setting,
            image: self.image,
            folder: &layers,
        };
        let (disk, mount) = ours::docker(&build, &home)?;
        fs::remove_dir_all(&layers)?;
        let reference = format!("disk:{}", disk.display());
        let root = "/tree";
        let workloads = guest::workloads(&mount, root);
        let script = ours::script(self.setting, &home, "--writable", &reference, &workloads);
        let entrant = self.entrant(DOCKER, &home, &script)?;
        Ok(Entrant { root, ..entrant })
    }

    fn microsandbox(&self, source: &Source, version: &Version) -> Result<Entrant> {
        let home = self.home(&version.name, &version.name.replace(' ', "-"))?;
        source.pull(version, &self.libraries, &home)?;
        Ok(Entrant {
            slow: version.is_slow(),
            ..self.entrant(&version.name, &home, &source.script(version, &home))?
        })
    }

    /// A new folder for an entrant, with the program that measures.
    fn home(&self, name: &str, folder: &str) -> Result<PathBuf> {
        eprintln!("bench: {}: making {name}", self.image.name);
        let home = self.homes.join(folder);
        fs::create_dir_all(home.join("bench"))?;
        fs::copy(&self.program, home.join("bench/fsbench"))?;
        Ok(home)
    }

    fn entrant(&self, name: &str, home: &Path, script: &str) -> Result<Entrant> {
        Ok(Entrant {
            name: name.to_owned(),
            ours: false,
            root: "",
            place: self.machine.place(self.setting, home, script)?,
            slow: false,
            in_memory: Cell::new(None),
        })
    }
}

/// Runs the workloads in a new sandbox, once cold and once warm.
fn measure(machine: &Machine, entrant: &Entrant) -> Result<Value> {
    eprintln!("bench: {}", entrant.name);
    let lines = machine.run(&entrant.place, entrant.slow)?;
    let report = super::guest::report(&lines)?.with_context(|| lines.join("; "))?;
    let tmp = lines.iter().find_map(|line| line.strip_prefix(guest::TMP));
    entrant.in_memory.set(tmp.map(|tmp| tmp == "memory"));
    Ok(report)
}
