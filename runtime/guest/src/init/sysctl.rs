//! Kernel settings below `/proc/sys`.

use std::fs;
use std::io::Write;

use super::failure::{Failure, Step, tolerate};

/// What every guest gets, as docker sets it: any user may bind low ports and send ICMP echo requests; the number of open
/// files is limited for each process (`RLIMIT_NOFILE`) and not for all.
const DEFAULTS: [(&str, &str); 3] = [
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
    ("fs/file-max", "9223372036854775807"),
];

/// Sets [`DEFAULTS`]; a kernel may lack one.
pub(crate) fn set_defaults() {
    for (name, value) in DEFAULTS {
        tolerate(set(name, value));
    }
}

/// Writes `value` to the setting `name`, a path below `/proc/sys`.
fn set(name: &str, value: &str) -> Result<(), Failure> {
    fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/sys/{name}"))
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .step(format!("setting {name}"))
}
