//! Measures copies of a running sandbox, beside a sandbox that boots.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Setting;
use super::sandbox::{Host, Row, disk_bytes};
use crate::shell;

/// The guest's memory, for `--memory`.
const MEMORY: &str = "512M";

/// The source's command, which does something that a boot would have to repeat.
const SOURCE: &str = "date +%s.%N > /run/began; exec sleep infinity";

/// A command that ends and leaves 16 MiB on the disk.
const WRITER: &str = "head -c 16777216 /dev/urandom > /data && sync";

/// The options of machines that are copied with their memory.
const MACHINE: [&str; 4] = ["--vmm", "qemu", "--memory", MEMORY];

/// The time until the first output of a copy of a machine.
const FIRST_OUTPUT: Duration = Duration::from_millis(250);

/// Measures each row, with the first image of these OCI layouts.
pub(super) fn run(setting: &Setting, images: &[PathBuf]) -> Result<Vec<Row>> {
    let image = images.first().context("no image")?;
    let host = Host::prepare(setting, &setting.path("fork-home"), image)?;
    let image = host.image.as_str();
    let run = |options: &[&str], words: &[&str]| {
        let (options, words) = ([options, &MACHINE, &[image, "--"]].concat(), words);
        host.ok(&[&options, words].concat())
    };
    run(&["run", "--name", "stopped"], &["sh", "-c", WRITER])?;
    run(&["warm"], &["touch", "/run/warm"])?;
    // Otherwise it boots, with a warning.
    run(
        &["run", "--rm", "--from-pool"],
        &["test", "-e", "/run/warm"],
    )?;
    let source = ["run", "-d", "--forkable", "--name", "source"];
    run(&source, &["sh", "-c", SOURCE])?;
    let rows = disks(&host, setting.rounds).and_then(|mut rows| {
        rows.extend(machines(&host, setting.rounds)?);
        Ok(rows)
    });
    host.ok(&["rm", "--force", "source", "stopped"])?;
    let rows = rows?;
    fs::remove_dir_all(&host.home)?;
    Ok(rows)
}

/// Measures copies of the disk alone.
fn disks(host: &Host, rounds: u32) -> Result<Vec<Row>> {
    let (mut stopped, mut running, mut snapshot) = (vec![], vec![], vec![]);
    for _ in 0..rounds {
        for (source, times) in [("stopped", &mut stopped), ("source", &mut running)] {
            times.push(host.ok(&["fork", "--no-start", source, "--name", "copy"])?);
            host.ok(&["rm", "copy"])?;
        }
        snapshot.push(host.ok(&["snapshot", "create", "source", "-n", "disk"])?);
        host.ok(&["snapshot", "rm", "disk"])?;
    }
    let goal = Some(Duration::from_millis(20));
    Ok(vec![
        Row::times("fork --no-start of a stopped sandbox", stopped, goal),
        Row::times("fork --no-start of a running sandbox", running, goal),
        Row::times("snapshot create of a running sandbox", snapshot, None),
    ])
}

/// Measures copies with memory, beside a boot.
fn machines(host: &Host, rounds: u32) -> Result<Vec<Row>> {
    let (mut keep, mut pause, mut held, mut disk) = (vec![], vec![], vec![], vec![]);
    let (mut cold, mut warm, mut pooled, mut forked, mut resident, mut own) =
        (vec![], vec![], vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        let started = Instant::now();
        let mut create = host.command(&["snapshot", "create", "--memory", "source", "-n", "warm"]);
        let created = create
            .env("BLOCKBOX_LOG", "info")
            .env("NO_COLOR", "1")
            .output()?;
        keep.push(started.elapsed());
        let log = String::from_utf8_lossy(&created.stderr);
        pause.push(held_in(&log).with_context(|| format!("no pause in {log:?}"))?);
        held.push(disk_bytes(&host.home.join("snapshots/warm"))?);

        let new = |options: &[&str]| {
            let options = [&["run", "--rm"], options, &MACHINE, &[&host.image]].concat();
            first_output(host, &options)
        };
        cold.push(new(&[])?);
        pooled.push(new(&["--from-pool"])?);
        warm.push(first_output(host, &["run", "--rm", "--snapshot", "warm"])?);
        host.ok(&["snapshot", "rm", "warm"])?;

        forked.push(host.ok(&["fork", "--memory", "source", "--name", "copy"])?);
        disk.push(disk_bytes(&host.home.join("sandboxes/copy"))?);
        let (private, all) = memory(host, "copy")?;
        own.push(private);
        resident.push(all);
        host.ok(&["rm", "--force", "copy"])?;
    }
    Ok(vec![
        Row::times("run until its first output", cold, None),
        Row::times(
            "run --snapshot with memory until its first output",
            warm,
            Some(FIRST_OUTPUT),
        ),
        Row::times(
            "run --from-pool until its first output",
            pooled,
            Some(FIRST_OUTPUT),
        ),
        Row::times("fork --memory until it is running", forked, None),
        Row::times("snapshot create --memory", keep, None),
        Row::times(
            "the guest stands still for it",
            pause,
            Some(Duration::from_millis(100)),
        ),
        Row::bytes("disk of a snapshot with memory", held, None),
        Row::bytes("disk of a fork", disk, None),
        Row::bytes("memory of a fork that is its own", own, Some(60 << 20)),
        Row::bytes("memory of a fork, resident", resident, None),
    ])
}

/// Parses the time that a log gives as `held=91.2ms`.
fn held_in(log: &str) -> Option<Duration> {
    let (_, rest) = log.split_once("held=")?;
    let text = rest.split_whitespace().next()?;
    let (number, scale) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s')?, 1.0),
    };
    Some(Duration::from_secs_f64(number.parse::<f64>().ok()? * scale))
}

/// Returns the time until the command of a `run` has written something.
fn first_output(host: &Host, args: &[&str]) -> Result<Duration> {
    let started = Instant::now();
    let mut child = host
        .command(&[args, &["--", "echo", "here"]].concat())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("piped")?).read_line(&mut line)?;
    let took = started.elapsed();
    ensure!(
        line == "here\n" && child.wait()?.success(),
        "run wrote {line:?}"
    );
    Ok(took)
}

/// Returns the memory of the machine's process in bytes: unshared, and resident.
fn memory(host: &Host, name: &str) -> Result<(u64, u64)> {
    let inspected = shell::output(&mut host.command(&["inspect", name]))?;
    let inspected: Value = serde_json::from_str(&inspected)?;
    let monitor = inspected[0]["state"]["monitor_pid"]
        .as_u64()
        .context("no monitor")?;
    let mut sums = (0, 0);
    for entry in fs::read_dir("/proc")? {
        let folder = entry?.path();
        let Ok(stat) = fs::read_to_string(folder.join("stat")) else {
            continue;
        };
        // `pid (name) state parent …`; a name may contain blanks.
        let parent = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_whitespace().nth(1));
        if !stat.contains("(qemu-system") || parent != Some(&monitor.to_string()) {
            continue;
        }
        let rollup = fs::read_to_string(folder.join("smaps_rollup"))?;
        let field = |key: &str| {
            let lines = rollup.lines().filter_map(|line| line.strip_prefix(key));
            let numbers =
                lines.filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
            numbers.sum::<u64>() << 10
        };
        sums.0 += field("Private_Dirty:") + field("Private_Clean:");
        sums.1 += field("Rss:");
    }
    ensure!(sums.1 > 0, "the machine of {name} was not found");
    Ok(sums)
}
