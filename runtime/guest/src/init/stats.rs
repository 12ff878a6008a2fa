//! Resource usage of the guest, and its processes, from `/proc`.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use blockbox_protocol::{Process, Stats};
use rustix::fs::{Dir, Mode, OFlags};
use rustix::time::ClockId;

use super::boot::Roots;

/// The most processes that are listed.
const MOST_PROCESSES: usize = 4096;

/// The longest command line that is listed, in bytes.
const LONGEST_COMMAND: u64 = 4096;

/// The largest other file that is read, in bytes.
const LARGEST_FILE: u64 = 64 * 1024;

/// Nanoseconds of a tick. There are `USER_HZ` ticks a second, which is 100 on all supported
/// architectures.
const TICK_NS: u64 = 10_000_000;

const SECTOR: u64 = 512;

/// `kthreadd`, whose children are the kernel's own.
const KERNEL_THREADS: u32 = 2;

/// Returns the resource usage of the guest, without that of its commands.
pub(crate) fn stats(roots: &Roots) -> Stats {
    let proc = &roots.proc;
    let mut stats = Stats::default();
    stats.uptime_ns = uptime_ns();
    let memory = read_text(proc, "meminfo");
    stats.memory_total = kilobytes(&memory, "MemTotal:");
    stats.memory_available = kilobytes(&memory, "MemAvailable:");
    (stats.cpu_busy_ns, stats.cpus) = cpu(&read_text(proc, "stat"));
    stats.processes = u32::try_from(process_ids(proc).len()).unwrap_or(u32::MAX);
    if let Ok(disk) = rustix::fs::fstatvfs(&roots.upper) {
        stats.disk_total = disk.f_blocks.saturating_mul(disk.f_frsize);
        stats.disk_free = disk.f_bavail.saturating_mul(disk.f_frsize);
    }
    (stats.disk_read, stats.disk_written) = disks(&read_text(proc, "diskstats"));
    (stats.network_received, stats.network_sent) = network(&read_text(proc, "self/net/dev"));
    stats
}

/// Returns the time since the kernel started, in nanoseconds.
pub(crate) fn uptime_ns() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    let nanoseconds = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    u64::try_from(nanoseconds).unwrap_or_default()
}

/// Returns the guest's processes without the kernel's and init.
pub(crate) fn processes(proc: &OwnedFd) -> Vec<Process> {
    let ids = process_ids(proc).into_iter().take(MOST_PROCESSES);
    // A process that ends meanwhile is left out.
    ids.filter_map(|pid| process(proc, pid)).collect()
}

/// Returns the resident memory of processes in bytes; shared memory is counted for each.
pub(crate) fn resident(proc: &OwnedFd, ids: &[u32]) -> u64 {
    let pages = ids.iter().filter_map(|pid| {
        let text = read_text(proc, &format!("{pid}/statm"));
        text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
    });
    let pages = pages.fold(0, u64::saturating_add);
    pages.saturating_mul(rustix::param::page_size() as u64)
}

fn process_ids(proc: &OwnedFd) -> Vec<u32> {
    let mut ids = Vec::new();
    if let Ok(entries) = Dir::read_from(proc) {
        for entry in entries.flatten() {
            let id = entry.file_name().to_str().ok();
            if let Some(id) = id.and_then(|name| name.parse().ok())
                && id != 1
                && id != KERNEL_THREADS
                && parent(proc, id) != Some(KERNEL_THREADS)
            {
                ids.push(id);
            }
        }
    }
    ids.sort_unstable();
    ids
}

fn parent(proc: &OwnedFd, pid: u32) -> Option<u32> {
    let text = read_text(proc, &format!("{pid}/stat"));
    fields(&text)?.1.get(1)?.parse().ok()
}

fn process(proc: &OwnedFd, pid: u32) -> Option<Process> {
    let stat = read_text(proc, &format!("{pid}/stat"));
    let (name, fields) = fields(&stat)?;
    // Fields are numbered as in proc_pid_stat(5), where the state is the third.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let status = read_text(proc, &format!("{pid}/status"));
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let mut command = read(proc, &format!("{pid}/cmdline"), LONGEST_COMMAND);
    while command.last() == Some(&0) {
        command.pop();
    }
    if command.is_empty() {
        command = format!("[{name}]").into_bytes();
    }
    let mut process = Process::default();
    process.pid = pid;
    process.parent = u32::try_from(number(4)?).ok()?;
    process.uid = uids.split_ascii_whitespace().nth(1)?.parse().ok()?;
    process.state = (*fields.first()?).to_owned();
    process.terminal = u32::try_from(number(7)?).unwrap_or(0);
    process.cpu_ns = number(14)?
        .saturating_add(number(15)?)
        .saturating_mul(TICK_NS);
    process.started_ns = number(22)?.saturating_mul(TICK_NS);
    process.memory = number(24)?.saturating_mul(rustix::param::page_size() as u64);
    process.command = command;
    Some(process)
}

/// Splits a line into the name and the following fields. A name may contain any characters,
/// including parentheses and blanks.
fn fields(stat: &str) -> Option<(&str, Vec<&str>)> {
    let (before, after) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    Some((name, after.split_ascii_whitespace().collect()))
}

fn kilobytes(meminfo: &str, key: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_ascii_whitespace().next());
    number
        .and_then(|n| n.parse().ok())
        .map_or(0, |n: u64| n.saturating_mul(1024))
}

/// Returns the time that all CPUs were busy, and the number of CPUs.
fn cpu(stat: &str) -> (u64, u32) {
    let mut busy = 0_u64;
    let mut cpus = 0;
    for line in stat.lines() {
        let mut fields = line.split_ascii_whitespace();
        match fields.next() {
            Some("cpu") => {
                // The fields are user nice system idle iowait irq softirq steal; the others are
                // included in user.
                let ticks = fields.take(8).enumerate();
                let ticks = ticks.filter(|(field, _)| !matches!(field, 3 | 4));
                let ticks = ticks.filter_map(|(_, ticks)| ticks.parse::<u64>().ok());
                busy = ticks.fold(0, u64::saturating_add);
            }
            Some(name) if name.starts_with("cpu") => cpus += 1,
            _ => {}
        }
    }
    (busy.saturating_mul(TICK_NS), cpus)
}

/// Returns the bytes read from and written to whole disks.
fn disks(diskstats: &str) -> (u64, u64) {
    let mut sum = (0_u64, 0_u64);
    for line in diskstats.lines() {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let whole =
            |name: &&&str| name.starts_with("vd") && !name.ends_with(|c: char| c.is_ascii_digit());
        if fields.get(2).filter(whole).is_some() {
            let bytes = |field: usize| {
                let sectors = fields.get(field).and_then(|text| text.parse::<u64>().ok());
                sectors.unwrap_or(0).saturating_mul(SECTOR)
            };
            sum = (
                sum.0.saturating_add(bytes(5)),
                sum.1.saturating_add(bytes(9)),
            );
        }
    }
    sum
}

/// Returns the bytes that `eth0` received and sent.
fn network(dev: &str) -> (u64, u64) {
    let line = dev
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("eth0:"));
    let fields: Vec<_> = line.unwrap_or_default().split_ascii_whitespace().collect();
    let bytes = |field: usize| {
        fields
            .get(field)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    };
    (bytes(0), bytes(8))
}

fn read_text(folder: &OwnedFd, path: &str) -> String {
    String::from_utf8_lossy(&read(folder, path, LARGEST_FILE)).into_owned()
}

fn read(folder: &OwnedFd, path: &str, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::openat(folder, path, flags, Mode::empty()) {
        // The process may have ended meanwhile.
        let _ = File::from(file).take(limit).read_to_end(&mut bytes);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_blanks_does_not_shift_the_fields() {
        let (name, fields) = fields("12 (a) R (b c) S 1 12").expect("whole");
        assert_eq!((name, fields), ("a) R (b c", vec!["S", "1", "12"]));
        assert!(super::fields("").is_none() && super::fields(")(").is_none());
    }

    #[test]
    fn figures_are_in_bytes_and_nanoseconds() {
        assert_eq!(
            kilobytes("MemTotal:  16 kB\nMemFree: 5 kB\n", "MemTotal:"),
            16 << 10
        );
        assert_eq!(
            cpu("cpu  1 2 3 100 50 4 5 6 7 8\ncpu0 1 2\ncpu1 1 2\nintr 5\n"),
            (21 * TICK_NS, 2)
        );
        let lines = " 254 0 vda 1 0 10 0 2 0 20 0\n 254 1 vda1 1 0 99 0 2 0 99 0\n 7 0 loop0 1 0 9 0 1 0 9 0\n";
        assert_eq!(disks(lines), (5120, 10240));
        assert_eq!(
            network("  eth0: 100 1 0 0 0 0 0 0 200 2\n    lo: 5 1\n"),
            (100, 200)
        );
        assert_eq!(network(""), (0, 0));
    }

    #[test]
    fn this_process_is_listed_with_its_arguments() {
        let proc = super::super::boot::open_dir("/proc".as_ref()).map_err(|e| e.to_string());
        let own = process(&proc.expect("procfs"), std::process::id()).expect("listed");
        let first = std::env::args().next().expect("a name");
        assert!(own.command.starts_with(first.as_bytes()));
        assert!(own.memory > 0 && own.started_ns > 0);
    }
}
