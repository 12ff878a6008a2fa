//! `blockbox-init`: the first process of a blockbox guest.
//!
//! The kernel starts it from the writable ext4 disk. It sets up the container's root from the two
//! disks and the host's boot message ([`boot`]), and then runs commands for the host over a
//! virtio-console port ([`server`]) until the host shuts it down or disconnects ([`power`]). It is
//! a static program with one thread: all waiting is in one `poll`, and work that may take long is
//! done in child processes ([`worker`]).

#[cfg(target_os = "linux")]
mod boot;
#[cfg(target_os = "linux")]
mod cgroup;
#[cfg(target_os = "linux")]
mod clock;
#[cfg(target_os = "linux")]
mod command;
#[cfg(target_os = "linux")]
mod control;
#[cfg(target_os = "linux")]
mod copy;
#[cfg(target_os = "linux")]
mod devices;
#[cfg(target_os = "linux")]
mod disk;
#[cfg(target_os = "linux")]
mod etc;
#[cfg(target_os = "linux")]
mod failure;
#[cfg(target_os = "linux")]
mod files;
#[cfg(target_os = "linux")]
mod identity;
#[cfg(target_os = "linux")]
mod kernel;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(target_os = "linux")]
mod mounts;
#[cfg(target_os = "linux")]
mod namespaces;
#[cfg(target_os = "linux")]
mod network;
#[cfg(target_os = "linux")]
mod power;
#[cfg(target_os = "linux")]
mod rcu;
#[cfg(target_os = "linux")]
mod readahead;
#[cfg(target_os = "linux")]
mod root;
#[cfg(target_os = "linux")]
mod secrets;
#[cfg(target_os = "linux")]
mod server;
#[cfg(target_os = "linux")]
mod spawn;
#[cfg(target_os = "linux")]
mod stats;
#[cfg(target_os = "linux")]
mod streams;
#[cfg(target_os = "linux")]
mod sys;
#[cfg(target_os = "linux")]
mod trim;
#[cfg(target_env = "musl")]
#[allow(unsafe_code)]
mod unwind;
#[cfg(target_os = "linux")]
mod worker;

#[cfg(target_os = "linux")]
fn main() {
    if std::process::id() != 1 {
        eprintln!("blockbox-init: starts a blockbox guest; it must be process 1");
        std::process::exit(1);
    }
    // The kernel names a process by its program's file, which is one in memory. Nothing depends on
    // the name.
    let _ = rustix::thread::set_name(c"init");
    server::run()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("blockbox-init: runs on Linux");
    std::process::exit(1);
}
