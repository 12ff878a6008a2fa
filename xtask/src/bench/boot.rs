//! Measures the time until the first output of a sandbox's command, and its parts.
//!
//! The kernel's trace of executed programs shows when each process of a sandbox started, and the
//! guest reports when its init and the command did. For comparison, the same kernel and monitor
//! start bare, with a shell as init that writes at once.

mod trace;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::time::{ClockId, clock_gettime};

use self::trace::{Exec, Trace};
use super::guest::{Machine, Root};
use super::sandbox::{Host, Row, disk_bytes};
use super::{Setting, measure};
use crate::shell;

/// How long a boot may be silent.
const LIMIT: Duration = Duration::from_secs(300);

const NAME: &str = "bench-boot";

/// The first line of output is the guest's time; the rest is not part of what is measured.
const SCRIPT: &str = "read up rest </proc/uptime; echo $up; cat /proc/$$/stat; dmesg";

/// The parts of `run` until its first output, in order.
#[derive(Debug, PartialEq, Eq)]
struct Parts {
    /// From the start of `run` to that of the monitor: the image, the record, the writable disk.
    prepare: Duration,
    /// From the start of the monitor to that of the virtual machine's process.
    monitor: Duration,
    /// From the start of that process until it executes QEMU.
    confine: Duration,
    kernel: Duration,
    init: Duration,
    /// From the start of the command to its first output.
    command: Duration,
    /// The total.
    whole: Duration,
    /// The processor time of QEMU and of the other processes until then.
    qemu_used: Duration,
    own_used: Duration,
}

impl Parts {
    /// Returns the remaining time: QEMU until its guest's kernel keeps the time, and the way of the
    /// output.
    fn machine(&self) -> Duration {
        let known = [
            self.prepare,
            self.monitor,
            self.confine,
            self.kernel,
            self.init,
            self.command,
        ];
        self.whole.saturating_sub(known.iter().sum())
    }
}

/// A start without a sandbox.
struct Bare {
    whole: Duration,
    qemu_used: Duration,
}

pub(super) fn run(setting: &Setting, images: &[PathBuf]) -> Result<Vec<Row>> {
    let image = images.first().context("no image")?;
    let folder = setting.path("boot");
    std::fs::create_dir(&folder)?;
    let root = Root::prepare(setting, &folder.join("root"))?;
    let machine = Machine::prepare(setting, &root, &folder)?;
    let host = Host::prepare(setting, &folder.join("home"), image)?;
    let trace = Trace::start().context("when programs begin is not known")?;
    let (mut parts, mut bares, mut created, mut disk) = (vec![], vec![], vec![], vec![]);
    for round in 0..setting.rounds {
        eprintln!("bench: boot: round {}", round + 1);
        let mut qemu = machine.bare(setting, &root, &folder.join("bare"))?;
        bares.push(bare(&mut qemu, &trace).with_context(|| machine.last_words())?);
        let mut create = setting.blockbox(&["create", "--name", "bench-create", "--home"]);
        create.arg(&host.home).args([&host.image, "true"]);
        created.push(measure::sample(&create, None)?.cpu);
        host.ok(&["rm", "bench-create"])?;
        parts.push(one(&host, &trace)?);
        disk.push(disk_bytes(&host.home.join("sandboxes").join(NAME))?);
        host.ok(&["rm", NAME])?;
    }
    drop(trace);
    std::fs::remove_dir_all(&folder)?;
    let times = |what, samples, goal: Option<u64>| {
        Row::times(what, samples, goal.map(Duration::from_millis))
    };
    let row = |what, part: fn(&Parts) -> Duration, goal| {
        times(what, parts.iter().map(part).collect(), goal)
    };
    let bare = |part: fn(&Bare) -> Duration| bares.iter().map(part).collect();
    Ok(vec![
        row("run until its first output", |parts| parts.whole, None),
        times(
            "the same kernel and QEMU, bare",
            bare(|bare| bare.whole),
            None,
        ),
        row("image, record, writable disk", |parts| parts.prepare, None),
        row(
            "monitor, until the VM's process",
            |parts| parts.monitor,
            None,
        ),
        row(
            "before the VM's process",
            |parts| parts.prepare + parts.monitor,
            Some(10),
        ),
        row(
            "VM's process, until it is QEMU",
            |parts| parts.confine,
            None,
        ),
        row("QEMU's start, and the output's way", Parts::machine, None),
        row("kernel", |parts| parts.kernel, None),
        row("init", |parts| parts.init, Some(30)),
        row("command", |parts| parts.command, None),
        row("processor time: QEMU", |parts| parts.qemu_used, None),
        times(
            "processor time: QEMU, bare",
            bare(|bare| bare.qemu_used),
            None,
        ),
        row(
            "processor time: run, monitor, gateway",
            |parts| parts.own_used,
            None,
        ),
        times("processor time: create", created, None),
        Row::bytes("disk of the sandbox after it", disk, None),
    ])
}

/// Boots only QEMU.
fn bare(qemu: &mut Command, trace: &Trace) -> Result<Bare> {
    trace.clear()?;
    let begun = Instant::now();
    let execs = trace.reader();
    let at_first = move || (Instant::now(), execs());
    let (_, first) = shell::watched_from_first(qemu, LIMIT, at_first)?;
    let (first, execs) = first.context("the machine wrote nothing")?;
    let execs = execs?;
    Ok(Bare {
        whole: first.saturating_duration_since(begun),
        qemu_used: self::qemu(&execs)?.used,
    })
}

/// Runs one sandbox.
fn one(host: &Host, trace: &Trace) -> Result<Parts> {
    trace.clear()?;
    let args = ["run", "--vmm", "qemu", "--pull", "never", "--name", NAME];
    let mut run = host.command(&[&args[..], &[&host.image, "--", "sh", "-c", SCRIPT]].concat());
    let (start, begun) = (now()?, Instant::now());
    let execs = trace.reader();
    let at_first = move || (Instant::now(), execs());
    let (watched, first) = shell::watched_from_first(&mut run, LIMIT, at_first)?;
    let ended = watched.status.context("the sandbox does not end")?;
    ensure!(ended.success(), "{}: {ended}", shell::line(&run));
    let (first, execs) = first.context("the sandbox wrote nothing")?;
    let whole = first.saturating_duration_since(begun);
    parts(start, whole, &execs?, &watched.lines)
}

/// Returns the time of the monotonic clock, as in the trace.
fn now() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

fn parts(start: Duration, whole: Duration, execs: &[Exec], lines: &[String]) -> Result<Parts> {
    let monitor = execs.get(1).context("no monitor began")?;
    let qemu = qemu(execs)?;
    // A process keeps its processor time when it executes another program.
    let mut own: Vec<_> = execs.iter().map(|exec| (exec.process, exec.used)).collect();
    own.retain(|&(process, _)| process != qemu.process);
    own.sort_unstable();
    own.dedup_by_key(|(process, _)| *process);
    let process = |exec: &&Exec| exec.process == qemu.process;
    let machine = execs.iter().find(process).context("a process")?;

    let (uptime, said) = lines.split_first().context("no time of the guest")?;
    let uptime: f64 = uptime.trim().parse()?;
    // The fields after the name; the 22nd of all is the process's start, in ticks of 10 ms.
    let fields = said.iter().find_map(|line| line.rsplit_once(") "));
    let fields = fields.context("no state of the command")?.1;
    let start_ticks: u64 = fields.split(' ').nth(19).context("no start")?.parse()?;
    let command = Duration::from_millis(start_ticks * 10);
    let init = said.iter().find_map(|line| {
        let (time, _) = line.split_once("] Run /blockbox/init as init")?;
        time.trim_start_matches(['[', ' ']).parse::<f64>().ok()
    });
    let init = Duration::from_secs_f64(init.context("the guest's log does not show its init")?);
    Ok(Parts {
        prepare: monitor.at.saturating_sub(start),
        monitor: machine.at.saturating_sub(monitor.at),
        confine: qemu.at.saturating_sub(machine.at),
        kernel: init,
        init: command.saturating_sub(init),
        command: Duration::from_secs_f64(uptime).saturating_sub(command),
        whole,
        qemu_used: qemu.used,
        own_used: own.iter().map(|&(_, used)| used).sum(),
    })
}

fn qemu(execs: &[Exec]) -> Result<&Exec> {
    let is_qemu = |exec: &&Exec| {
        let name = exec.path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with("qemu-system-")
    };
    execs.iter().find(is_qemu).context("no QEMU began")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_boot_add_up_to_the_whole() {
        let exec = |millis, process, path: &str| Exec {
            at: Duration::from_millis(millis),
            process,
            used: Duration::from_millis(process.into()),
            path: path.into(),
        };
        let execs = [
            exec(1001, 10, "/bin/blockbox"),
            exec(1004, 11, "/bin/blockbox"),
            exec(1005, 12, "/bin/blockbox"),
            exec(1007, 13, "/bin/blockbox"),
            exec(1010, 13, "/usr/bin/qemu-system-x86_64"),
        ];
        let fields = (3..22).map(|_| "0").collect::<Vec<_>>().join(" ");
        let lines = [
            "0.35".to_owned(),
            format!("40 (sh) {fields} 32 7"),
            "[    0.250000] Run /blockbox/init as init process".to_owned(),
        ];
        let millis = Duration::from_millis;
        let parts = parts(millis(1000), millis(400), &execs, &lines).expect("all is there");
        assert_eq!(
            [
                parts.prepare,
                parts.monitor,
                parts.confine,
                parts.kernel,
                parts.init,
                parts.command
            ],
            [4, 3, 3, 250, 70, 30].map(millis)
        );
        assert_eq!(parts.machine(), millis(40));
        assert_eq!([parts.qemu_used, parts.own_used], [13, 33].map(millis));
    }
}
