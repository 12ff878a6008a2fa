//! Resources that a running sandbox uses, and its processes.

use blockbox_protocol as guest;
use serde::{Deserialize, Serialize};

/// Resources that a running sandbox uses. Times are in nanoseconds, sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Stats {
    /// The time since the guest's kernel started.
    pub uptime_ns: u64,
    /// The time that all CPUs together were busy.
    pub cpu_busy_ns: u64,
    /// The number of CPUs.
    pub cpus: u32,
    /// The size of the guest's memory.
    pub memory_total: u64,
    /// The memory that programs can still allocate.
    pub memory_available: u64,
    /// The number of processes, without the kernel's and init.
    pub processes: u32,
    /// The size of the writable disk.
    pub disk_total: u64,
    /// The free space of the writable disk.
    pub disk_free: u64,
    /// The bytes read from all disks.
    pub disk_read: u64,
    /// The bytes written to all disks.
    pub disk_written: u64,
    /// The bytes received by the guest's network interface.
    pub network_received: u64,
    /// The bytes sent by the guest's network interface.
    pub network_sent: u64,
}

impl From<guest::Stats> for Stats {
    fn from(stats: guest::Stats) -> Self {
        Self {
            uptime_ns: stats.uptime_ns,
            cpu_busy_ns: stats.cpu_busy_ns,
            cpus: stats.cpus,
            memory_total: stats.memory_total,
            memory_available: stats.memory_available,
            processes: stats.processes,
            disk_total: stats.disk_total,
            disk_free: stats.disk_free,
            disk_read: stats.disk_read,
            disk_written: stats.disk_written,
            network_received: stats.network_received,
            network_sent: stats.network_sent,
        }
    }
}

/// A process in a running sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ProcessInfo {
    /// Its process id in the guest.
    pub pid: u32,
    /// Its parent's process id.
    pub parent: u32,
    /// The id of its user.
    pub uid: u32,
    /// Its state, `R`, `S`, `D`, `Z` and so on, as `ps` shows it.
    pub state: String,
    /// Its resident memory in bytes.
    pub memory: u64,
    /// Its CPU time in nanoseconds.
    pub cpu_ns: u64,
    /// Its arguments, separated by blanks.
    pub command: String,
}

impl From<guest::Process> for ProcessInfo {
    fn from(process: guest::Process) -> Self {
        Self {
            pid: process.pid,
            parent: process.parent,
            uid: process.uid,
            state: process.state,
            memory: process.memory,
            cpu_ns: process.cpu_ns,
            command: String::from_utf8_lossy(&process.command)
                .replace('\0', " ")
                .trim_end()
                .to_owned(),
        }
    }
}
