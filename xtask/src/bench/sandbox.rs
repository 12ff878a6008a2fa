//! Measures the commands of sandboxes: making 50 of them, listing them, and executing in a running
//! one.
//!
//! The image is stored before and its disks are made. The time of a command in the guest itself is
//! measured with a shell in the guest that runs it on request, over the channel of one `exec`: the
//! rest is the time of `blockbox exec`. Beside stand the same image and commands in containers of a
//! Docker engine: those share the host's kernel, which runs them directly.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Setting;
use super::report::median;
use crate::docker::Engine;
use crate::{setup, shell};

/// The number of sandboxes.
const SANDBOXES: usize = 50;

/// The number of commands executed in one round.
const EXECS: usize = 20;

/// The command to measure in the guest.
const COMMAND: &str = "/bin/true";

/// One line of the table.
pub(super) struct Row {
    what: &'static str,
    samples: Vec<u64>,
    unit: Unit,
    /// The goal, in the row's unit.
    goal: Option<u64>,
}

#[derive(Clone, Copy)]
enum Unit {
    Microseconds,
    Bytes,
}

impl Row {
    /// Returns a row of sizes.
    pub(super) fn bytes(what: &'static str, samples: Vec<u64>, goal: Option<u64>) -> Self {
        Self {
            what,
            samples,
            unit: Unit::Bytes,
            goal,
        }
    }

    pub(super) fn times(
        what: &'static str,
        samples: Vec<Duration>,
        goal: Option<Duration>,
    ) -> Self {
        let micros = |time: &Duration| time.as_micros() as u64;
        Self {
            what,
            samples: samples.iter().map(micros).collect(),
            unit: Unit::Microseconds,
            goal: goal.as_ref().map(micros),
        }
    }

    fn median(&self) -> u64 {
        median(&self.samples, |&sample| sample).unwrap_or_default()
    }
}

/// Measures each row, with images from their OCI layouts.
pub(super) fn run(setting: &Setting, images: &[PathBuf]) -> Result<Vec<Row>> {
    let image = images.first().context("no image")?;
    let host = Host::prepare(setting, &setting.path("sandbox-home"), image)?;
    let mut rows = host.many()?;
    rows.extend(host.exec(setting.rounds)?);
    let engine = Engine::start(&setting.path("sandbox-docker"));
    match engine.and_then(|engine| host.docker(&engine, setting)) {
        Ok(theirs) => rows.extend(theirs),
        Err(error) => println!("bench: no rows of docker: {error:#}"),
    }
    fs::remove_dir_all(&host.home)?;
    Ok(rows)
}

/// A store with one image.
pub(super) struct Host {
    blockbox: PathBuf,
    pub(super) home: PathBuf,
    pub(super) image: String,
}

impl Host {
    pub(super) fn prepare(setting: &Setting, home: &Path, image: &Path) -> Result<Self> {
        let kernel = setup::guest_kernel();
        fs::create_dir_all(home.join("kernel"))?;
        if let Some(name) = kernel.file_name().filter(|_| kernel.exists()) {
            fs::copy(&kernel, home.join("kernel").join(name))?;
        }
        let host = Self {
            blockbox: setting.blockbox.clone(),
            home: home.to_owned(),
            image: format!("oci:{}", image.display()),
        };
        host.ok(&["pull", "--quiet", &host.image])?;
        Ok(host)
    }

    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.blockbox);
        command
            .env("BLOCKBOX_HOME", &self.home)
            .args(args)
            .stdin(Stdio::null());
        command
    }

    /// Returns how long a command took, or an error if it failed.
    pub(super) fn ok(&self, args: &[&str]) -> Result<Duration> {
        let start = Instant::now();
        shell::output(&mut self.command(args))?;
        Ok(start.elapsed())
    }

    /// Measures making, listing and removing many sandboxes.
    fn many(&self) -> Result<Vec<Row>> {
        let name = |i: usize| format!("bench-{i}");
        let one_by_one = (0..SANDBOXES)
            .map(|i| self.ok(&["create", "--name", &name(i), &self.image, COMMAND]))
            .collect::<Result<Vec<_>>>()?;
        let bytes = (0..SANDBOXES)
            .map(|i| disk_bytes(&self.home.join("sandboxes").join(name(i))))
            .collect::<Result<Vec<_>>>()?;
        let ps = (0..EXECS)
            .map(|_| self.ok(&["ps", "--all"]))
            .collect::<Result<Vec<_>>>()?;
        let mut remove = vec!["rm".to_owned()];
        remove.extend((0..SANDBOXES).map(name));
        let removal = self.ok(&remove.iter().map(String::as_str).collect::<Vec<_>>())?;

        let start = Instant::now();
        let mut children = Vec::new();
        for i in 0..SANDBOXES {
            let mut command = self.command(&["create", "--name", &name(i), &self.image, COMMAND]);
            children.push(command.stdout(Stdio::null()).spawn()?);
        }
        for mut child in children {
            ensure!(
                child.wait()?.success(),
                "a create at the same time as others failed"
            );
        }
        let at_once = start.elapsed() / SANDBOXES as u32;
        self.ok(&remove.iter().map(String::as_str).collect::<Vec<_>>())?;

        Ok(vec![
            Row::times("create", one_by_one, Some(Duration::from_millis(10))),
            Row::times(
                "create, 50 at once, each",
                vec![at_once],
                Some(Duration::from_millis(10)),
            ),
            Row::bytes("disk of a created sandbox", bytes, Some(400 << 10)),
            Row::times(
                "ps --all, 50 sandboxes",
                ps,
                Some(Duration::from_millis(20)),
            ),
            Row::times("rm of 50 sandboxes", vec![removal], None),
        ])
    }

    /// Measures executing in a running sandbox.
    fn exec(&self, rounds: u32) -> Result<Vec<Row>> {
        let name = "bench-exec";
        let run = [
            "run",
            "--detach",
            "--name",
            name,
            &self.image,
            "--",
            "sleep",
            "infinity",
        ];
        let started = self.ok(&run)?;
        let measured = self.exec_rounds(name, rounds);
        let stopped = self.ok(&["stop", "--time", "10", name]);
        self.ok(&["rm", "--force", name])?;
        let (whole, inside) = measured?;
        let own = whole
            .iter()
            .zip(&inside)
            .map(|(whole, inside)| whole.saturating_sub(*inside))
            .collect();
        Ok(vec![
            Row::times("run --detach until it is running", vec![started], None),
            Row::times("exec of /bin/true", whole, None),
            Row::times("/bin/true from a shell in the guest", inside, None),
            Row::times(
                "exec over the command itself",
                own,
                Some(Duration::from_millis(15)),
            ),
            Row::times("stop", vec![stopped?], None),
        ])
    }

    /// Measures the commands of a Docker engine that has the same image.
    fn docker(&self, engine: &Engine, setting: &Setting) -> Result<Vec<Row>> {
        let archive = setting.path("sandbox.tar");
        let archive = archive.to_str().context("a path in UTF-8")?;
        let image = "bench:image";
        self.ok(&["tag", &self.image, image])?;
        self.ok(&["save", "--quiet", "--output", archive, image])?;
        engine.output(&["load", "--quiet", "--input", archive])?;
        fs::remove_file(archive)?;
        let timed = |args: &[&str]| {
            let start = Instant::now();
            engine.output(args)?;
            Ok::<_, anyhow::Error>(start.elapsed())
        };
        let name = "bench-exec";
        let run = [
            "run",
            "--detach",
            "--network",
            "none",
            "--name",
            name,
            image,
        ];
        let started = timed(&[&run[..], &["sleep", "infinity"]].concat())?;
        let execs = (0..setting.rounds as usize * EXECS)
            .map(|_| timed(&["exec", name, COMMAND]))
            .collect::<Result<Vec<_>>>()?;
        let names: Vec<_> = (1..SANDBOXES).map(|i| format!("bench-{i}")).collect();
        let create = |name: &String| timed(&["create", "--name", name, image, COMMAND]);
        let creates = names.iter().map(create).collect::<Result<Vec<_>>>()?;
        let ps = (0..EXECS)
            .map(|_| timed(&["ps", "--all"]))
            .collect::<Result<Vec<_>>>()?;
        Ok(vec![
            Row::times("docker create", creates, None),
            Row::times("docker ps --all, 50 containers", ps, None),
            Row::times("docker run --detach", vec![started], None),
            Row::times("docker exec of /bin/true", execs, None),
        ])
    }

    /// Runs the command both ways in turn.
    fn exec_rounds(&self, name: &str, rounds: u32) -> Result<(Vec<Duration>, Vec<Duration>)> {
        let mut guest_shell = self
            .command(&["exec", "--interactive", name, "sh"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut input = guest_shell.stdin.take().context("piped")?;
        let mut output = BufReader::new(guest_shell.stdout.take().context("piped")?);
        let (mut whole, mut inside) = (Vec::new(), Vec::new());
        for _ in 0..rounds as usize * EXECS {
            whole.push(self.ok(&["exec", name, COMMAND])?);
            let start = Instant::now();
            writeln!(input, "{COMMAND}; echo done")?;
            let mut line = String::new();
            output.read_line(&mut line)?;
            ensure!(line == "done\n", "the shell in the guest wrote {line:?}");
            inside.push(start.elapsed());
        }
        drop(input);
        ensure!(
            guest_shell.wait()?.success(),
            "the shell in the guest failed"
        );
        Ok((whole, inside))
    }
}

/// Returns the space that a folder's files take on the disk, in bytes.
pub(super) fn disk_bytes(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += metadata.blocks() * 512;
        if metadata.is_dir() {
            sum += disk_bytes(&entry.path())?;
        }
    }
    Ok(sum)
}

/// The table of all rows.
pub(super) fn markdown(rows: &[Row]) -> String {
    let mut text = "\n| | median | least | most | goal |\n|---|--:|--:|--:|--:|\n".to_owned();
    for row in rows {
        let shown = |value: u64| match row.unit {
            Unit::Microseconds => format!("{:.2} ms", value as f64 / 1e3),
            Unit::Bytes => format!("{} KiB", value / 1024),
        };
        let least = row.samples.iter().min().copied().unwrap_or_default();
        let most = row.samples.iter().max().copied().unwrap_or_default();
        let goal = row.goal.map_or_else(|| "–".to_owned(), shown);
        let line = [shown(row.median()), shown(least), shown(most), goal].join(" | ");
        text += &format!("| {} | {line} |\n", row.what);
    }
    text
}

/// All samples.
pub(super) fn json(rows: &[Row]) -> Value {
    let row = |row: &Row| {
        let unit = match row.unit {
            Unit::Microseconds => "us",
            Unit::Bytes => "bytes",
        };
        json!({"what": row.what, "unit": unit, "goal": row.goal, "samples": row.samples})
    };
    rows.iter().map(row).collect()
}
