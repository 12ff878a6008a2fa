//! The bytes on the wire, as hexadecimal dumps. They may not change, because writable disks contain
//! an init of an earlier version.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fmt::Write;

use blockbox_protocol::{
    Address, Boot, ExecSpec, ExitStatus, Folder, Host, Identity, Mount, MountSource, Network,
    Process, Reply, Request, Secret, Stats, Stream, Sysctl, Ulimit, WindowSize,
};

fn network() -> Network {
    let mut network = Network::default();
    network.addresses = vec![
        Address {
            ip: [192, 0, 2, 2].into(),
            prefix: 24,
        },
        Address {
            ip: [0xfd00, 0, 0, 0, 0, 0, 0, 2].into(),
            prefix: 64,
        },
    ];
    network.gateways = vec![[192, 0, 2, 1].into()];
    network.mtu = 1500;
    network.hardware_address = vec![2, 0, 0, 0, 0, 1];
    network.nameservers = vec![[192, 0, 2, 1].into()];
    network.search = vec!["example.org".to_owned()];
    network.resolver_options = vec!["ndots:1".to_owned()];
    network.relay_port = 7;
    network
}

fn hosts() -> Vec<Host> {
    vec![Host {
        address: [192, 0, 2, 9].into(),
        name: "db".to_owned(),
    }]
}

fn boot() -> Boot {
    let mut boot = Boot::new("box");
    boot.mounts.extend([
        Mount::new(
            "/src",
            MountSource::Share {
                tag: "share0".to_owned(),
                path: b"file".to_vec(),
            },
        )
        .read_only(true),
        Mount::new(
            "/data",
            MountSource::Disk {
                serial: "volume0".to_owned(),
                filesystem: "ext4".to_owned(),
                path: Vec::new(),
            },
        )
        .options("discard"),
        Mount::new("/var/lib/docker", MountSource::SandboxDisk),
    ]);
    boot.folders = vec![Folder {
        path: b"/volume".to_vec(),
        mode: 0o755,
    }];
    boot.secrets = vec![Secret {
        name: b"token".to_vec(),
        data: b"value".to_vec(),
        mode: 0o400,
        uid: 1,
        gid: 2,
    }];
    boot.network = Some(network());
    boot.hosts = hosts();
    boot.sysctls = vec![Sysctl {
        name: "net.core.somaxconn".to_owned(),
        value: "9".to_owned(),
    }];
    boot.ulimits = ulimits();
    boot.read_only_root = true;
    boot.machine_id = (0..16).collect();
    boot.entropy = vec![0xee; 4];
    boot.realtime_ns = 1_700_000_000_000_000_000;
    boot
}

fn ulimits() -> Vec<Ulimit> {
    vec![Ulimit {
        resource: 7,
        soft: 10,
        hard: u64::MAX,
    }]
}

fn spec() -> ExecSpec {
    let mut spec = ExecSpec::new(["sh", "-c", "true"]);
    spec.env = vec![b"A=1".to_vec()];
    spec.cwd = b"/srv".to_vec();
    spec.user = b"app".to_vec();
    spec.groups = vec![b"adm".to_vec()];
    spec.tty = Some(WindowSize { rows: 24, cols: 80 });
    spec.stdin = true;
    spec.detach = true;
    spec.init = true;
    spec.no_new_privileges = true;
    spec.stop_signal = 37;
    spec.ulimits = ulimits();
    spec
}

fn identity() -> Identity {
    let mut identity = Identity::default();
    identity.hostname = "clone".to_owned();
    identity.machine_id = vec![9; 16];
    identity.network = Some(network());
    identity.hosts = hosts();
    identity.entropy = vec![1];
    identity.realtime_ns = 5;
    identity.close_connections = true;
    identity.hook_timeout_ms = 1000;
    identity
}

#[test]
fn requests_are_these_bytes() {
    let (id, stream) = (3, Stream::Stderr);
    let requests = [
        Request::Boot {
            version: 2,
            boot: boot(),
        },
        Request::Exec { id, spec: spec() },
        Request::Stdin {
            id,
            data: b"data".to_vec(),
        },
        Request::StdinEof { id },
        Request::Credit {
            id,
            stream,
            bytes: 9,
        },
        Request::CloseOutput { id, stream },
        Request::Resize {
            id,
            size: WindowSize { rows: 1, cols: 2 },
        },
        Request::Signal { id, signal: 15 },
        Request::KillExec { id },
        Request::Sync { id },
        Request::Freeze {
            id,
            thaw_after_ms: 500,
        },
        Request::KeepFrozen {
            id,
            thaw_after_ms: 500,
        },
        Request::Thaw { id },
        Request::Suspend { id },
        Request::Adopt {
            id,
            command: 9,
            identity: identity(),
        },
        Request::Trim { id },
        Request::SetClock {
            id,
            realtime_ns: 5,
            step: true,
        },
        Request::Stats { id },
        Request::Processes { id },
        Request::Identity {
            id,
            identity: identity(),
        },
        Request::Shutdown { grace_ms: 1000 },
    ];
    insta::assert_snapshot!(dump(&requests, Request::encode));
}

#[test]
fn replies_are_these_bytes() {
    let id = 3;
    let mut process = Process::default();
    (process.pid, process.parent, process.uid) = (10, 1, 1000);
    (process.state, process.command) = ("S".to_owned(), b"sleep\x001".to_vec());
    let mut stats = Stats::default();
    (stats.uptime_ns, stats.cpus) = (1, 2);
    let replies = [
        Reply::Hello {
            version: 2,
            uptime_ns: 1,
            kernel: "6.12".to_owned(),
            warnings: vec!["a".to_owned()],
        },
        Reply::Fatal {
            message: "m".to_owned(),
        },
        Reply::Started { id, pid: 10 },
        Reply::SpawnFailed {
            id,
            code: 127,
            message: "m".to_owned(),
        },
        Reply::Output {
            id,
            stream: Stream::Stdout,
            data: b"data".to_vec(),
        },
        Reply::StdinCredit { id, bytes: 4 },
        Reply::Exited {
            id,
            status: ExitStatus::Code(3),
        },
        Reply::Exited {
            id,
            status: ExitStatus::Signal(9),
        },
        Reply::Done { id, errno: 22 },
        Reply::Rejected {
            id,
            kind: 99,
            known: false,
        },
        Reply::Stats { id, stats },
        Reply::Processes {
            id,
            processes: vec![process],
        },
        Reply::Bye { errno: 0 },
    ];
    insta::assert_snapshot!(dump(&replies, Reply::encode));
}

/// Returns each message's name and bytes, sixteen bytes per line.
fn dump<M: std::fmt::Debug>(messages: &[M], encode: impl Fn(&M, &mut Vec<u8>)) -> String {
    let mut text = String::new();
    for message in messages {
        let debug = format!("{message:?}");
        let name = debug.split([' ', '{']).next().unwrap();
        let mut bytes = Vec::new();
        encode(message, &mut bytes);
        writeln!(text, "{name}").unwrap();
        for line in bytes.chunks(16) {
            let hex: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
            let shown = line.iter().map(|&byte| match byte {
                b' '..=b'~' => char::from(byte),
                _ => '.',
            });
            let shown: String = shown.collect();
            writeln!(text, "  {:47}  {shown}", hex.join(" ")).unwrap();
        }
    }
    text
}
