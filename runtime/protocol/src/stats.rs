//! What a guest uses, and its processes.

use crate::wire::{Element, wire};

/// What the guest uses of what it has. All times are in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Since the kernel started.
    pub uptime_ns: u64,
    /// The kernel's memory in bytes (`MemTotal`).
    pub memory_total: u64,
    /// What of it programs can have without swapping, in bytes (`MemAvailable`).
    pub memory_available: u64,
    /// The time all CPUs together were not idle.
    pub cpu_busy_ns: u64,
    /// CPUs.
    pub cpus: u32,
    /// Processes, without the kernel's and init.
    pub processes: u32,
    /// The writable disk's size in bytes, without what its file system needs for itself.
    pub disk_total: u64,
    /// What of it is free, in bytes.
    pub disk_free: u64,
    /// Bytes read from and written to all disks.
    pub disk_read: u64,
    /// Bytes written to all disks.
    pub disk_written: u64,
    /// Bytes received by `eth0`.
    pub network_received: u64,
    /// Bytes sent by `eth0`.
    pub network_sent: u64,
    /// The commands that run.
    pub commands: Vec<CommandStats>,
}

wire!(Stats {
    uptime_ns,
    memory_total,
    memory_available,
    cpu_busy_ns,
    cpus,
    processes,
    disk_total,
    disk_free,
    disk_read,
    disk_written,
    network_received,
    network_sent,
    commands,
});

/// What a command and its descendants use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CommandStats {
    /// The command's id.
    pub id: u32,
    /// Its process id.
    pub pid: u32,
    /// Resident memory in bytes; what processes share counts for each.
    pub memory: u64,
    /// CPU time of the processes that run, and of the children they have waited for.
    pub cpu_ns: u64,
    /// Processes.
    pub processes: u32,
}

wire!(CommandStats {
    id,
    pid,
    memory,
    cpu_ns,
    processes,
});
impl Element for CommandStats {}

/// A process of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its parent's id.
    pub parent: u32,
    /// The user it runs as (the effective id).
    pub uid: u32,
    /// `R`, `S`, `D`, `Z` and so on, as `ps` shows it.
    pub state: String,
    /// Resident memory in bytes.
    pub memory: u64,
    /// CPU time in nanoseconds.
    pub cpu_ns: u64,
    /// When it started, in nanoseconds after the kernel.
    pub started_ns: u64,
    /// The device number of its terminal, 0 for none.
    pub terminal: u32,
    /// Its arguments, or its name in brackets where it has none; at most 4096 bytes.
    pub command: Vec<u8>,
}

wire!(Process {
    pid,
    parent,
    uid,
    state,
    memory,
    cpu_ns,
    started_ns,
    terminal,
    command,
});
impl Element for Process {}
