//! Resource usage of a guest, and its processes.

use crate::wire::{Element, wire};

/// Resource usage of the guest. All times are in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// The time since the kernel started.
    pub uptime_ns: u64,
    /// The kernel's total memory in bytes (`MemTotal`).
    pub memory_total: u64,
    /// The memory that programs can allocate without swapping, in bytes (`MemAvailable`).
    pub memory_available: u64,
    /// The time that all CPUs together were busy.
    pub cpu_busy_ns: u64,
    /// The number of CPUs.
    pub cpus: u32,
    /// The number of processes, without the kernel's and init.
    pub processes: u32,
    /// The writable disk's size in bytes, without its file system's metadata.
    pub disk_total: u64,
    /// The writable disk's free space in bytes.
    pub disk_free: u64,
    /// Bytes read from all disks.
    pub disk_read: u64,
    /// Bytes written to all disks.
    pub disk_written: u64,
    /// Bytes received by `eth0`.
    pub network_received: u64,
    /// Bytes sent by `eth0`.
    pub network_sent: u64,
    /// The running commands.
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

/// Resource usage of a command and its descendants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CommandStats {
    /// The command's id.
    pub id: u32,
    /// Its process id.
    pub pid: u32,
    /// Resident memory in bytes; shared memory is counted for each process.
    pub memory: u64,
    /// CPU time of the running processes, and of the children that they have waited for.
    pub cpu_ns: u64,
    /// The number of processes.
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
    /// Its process id.
    pub pid: u32,
    /// Its parent's process id.
    pub parent: u32,
    /// Its effective user id.
    pub uid: u32,
    /// Its state, `R`, `S`, `D`, `Z` and so on, as `ps` shows it.
    pub state: String,
    /// Resident memory in bytes.
    pub memory: u64,
    /// CPU time in nanoseconds.
    pub cpu_ns: u64,
    /// When it started, in nanoseconds after the kernel's start.
    pub started_ns: u64,
    /// The device number of its terminal, 0 for none.
    pub terminal: u32,
    /// Its arguments, or its name in brackets if it has none; at most 4096 bytes.
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
