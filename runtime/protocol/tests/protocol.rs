//! Messages are decoded unchanged, however their bytes are split, and no bytes make the decoder
//! panic.

use std::net::IpAddr;

use blockbox_protocol::frame::{Frame, HEADER, MAX_PAYLOAD};
use blockbox_protocol::{
    Address, Boot, CommandStats, Decoder, ExecSpec, ExitStatus, FileTask, Folder, Host, Identity,
    Mount, MountSource, Network, Process, ProtocolError, Reply, Request, Secret, Stats, Stream,
    Sysctl, Ulimit, WindowSize,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn stream() -> impl Strategy<Value = Stream> {
    prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)]
}

fn size() -> impl Strategy<Value = WindowSize> {
    any::<(u16, u16)>().prop_map(|(rows, cols)| WindowSize { rows, cols })
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..80)
}

fn text() -> impl Strategy<Value = String> {
    ".{0,20}"
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from)
    ]
}

fn ulimits() -> impl Strategy<Value = Vec<Ulimit>> {
    let ulimit = any::<(u32, u64, u64)>().prop_map(|(resource, soft, hard)| Ulimit {
        resource,
        soft,
        hard,
    });
    vec(ulimit, 0..3)
}

fn spec() -> impl Strategy<Value = ExecSpec> {
    let lists = [vec(bytes(), 0..4), vec(bytes(), 0..4), vec(bytes(), 0..4)];
    let flags = any::<[bool; 4]>();
    let tty = proptest::option::of(size());
    (lists, bytes(), bytes(), tty, flags, any::<u32>(), ulimits()).prop_map(
        |([args, env, groups], cwd, user, tty, flags, stop_signal, ulimits)| {
            let mut spec = ExecSpec::new(args);
            (spec.env, spec.groups, spec.cwd, spec.user) = (env, groups, cwd, user);
            spec.tty = tty;
            [spec.stdin, spec.detach, spec.init, spec.no_new_privileges] = flags;
            (spec.stop_signal, spec.ulimits) = (stop_signal, ulimits);
            spec
        },
    )
}

fn mount() -> impl Strategy<Value = Mount> {
    let source = prop_oneof![
        any::<(u64, u32)>().prop_map(|(size, mode)| MountSource::Memory { size, mode }),
        (text(), bytes()).prop_map(|(tag, path)| MountSource::Share { tag, path }),
        (text(), text(), bytes()).prop_map(|(serial, filesystem, path)| MountSource::Disk {
            serial,
            filesystem,
            path
        }),
        Just(MountSource::SandboxDisk),
    ];
    (bytes(), source, any::<(bool, bool)>(), text()).prop_map(
        |(target, source, (read_only, copy_up), options)| {
            Mount::new(target, source)
                .read_only(read_only)
                .copy_up(copy_up)
                .options(options)
        },
    )
}

fn hosts() -> impl Strategy<Value = Vec<Host>> {
    vec(
        (ip(), text()).prop_map(|(address, name)| Host { address, name }),
        0..3,
    )
}

fn network() -> impl Strategy<Value = Network> {
    let address = (ip(), any::<u32>()).prop_map(|(ip, prefix)| Address { ip, prefix });
    let ips = [vec(ip(), 0..3), vec(ip(), 0..3)];
    let texts = [vec(text(), 0..3), vec(text(), 0..3)];
    (vec(address, 0..3), ips, any::<(u32, u16)>(), bytes(), texts).prop_map(
        |(addresses, [gateways, nameservers], (mtu, relay_port), hardware_address, texts)| {
            let mut network = Network::default();
            (network.addresses, network.gateways) = (addresses, gateways);
            (network.mtu, network.relay_port) = (mtu, relay_port);
            (network.nameservers, network.hardware_address) = (nameservers, hardware_address);
            [network.search, network.resolver_options] = texts;
            network
        },
    )
}

fn boot() -> impl Strategy<Value = Boot> {
    let secret =
        (bytes(), bytes(), any::<[u32; 3]>()).prop_map(|(name, data, [mode, uid, gid])| Secret {
            name,
            data,
            mode,
            uid,
            gid,
        });
    let folder = (bytes(), any::<u32>()).prop_map(|(path, mode)| Folder { path, mode });
    let sysctl = (text(), text()).prop_map(|(name, value)| Sysctl { name, value });
    (
        (text(), vec(mount(), 0..3), vec(folder, 0..3)),
        (vec(secret, 0..3), vec(sysctl, 0..3), hosts()),
        (proptest::option::of(network()), ulimits()),
        (bytes(), bytes(), any::<(bool, u64)>()),
    )
        .prop_map(
            |(
                (hostname, mounts, folders),
                (secrets, sysctls, hosts),
                (network, ulimits),
                (machine_id, entropy, (read_only_root, realtime_ns)),
            )| {
                let mut boot = Boot::new(hostname);
                (boot.mounts, boot.folders, boot.secrets) = (mounts, folders, secrets);
                (boot.sysctls, boot.hosts, boot.network) = (sysctls, hosts, network);
                (boot.ulimits, boot.machine_id, boot.entropy) = (ulimits, machine_id, entropy);
                (boot.read_only_root, boot.realtime_ns) = (read_only_root, realtime_ns);
                boot
            },
        )
}

fn identity() -> impl Strategy<Value = Identity> {
    let network = proptest::option::of(network());
    let numbers = any::<(u64, bool, u32)>();
    (text(), [bytes(), bytes()], network, hosts(), numbers).prop_map(
        |(hostname, [machine_id, entropy], network, hosts, numbers)| {
            let mut identity = Identity::default();
            (identity.hostname, identity.machine_id) = (hostname, machine_id);
            (identity.entropy, identity.network, identity.hosts) = (entropy, network, hosts);
            (
                identity.realtime_ns,
                identity.close_connections,
                identity.hook_timeout_ms,
            ) = numbers;
            identity
        },
    )
}

fn task() -> impl Strategy<Value = FileTask> {
    prop_oneof![
        (bytes(), any::<bool>()).prop_map(|(path, follow)| FileTask::Stat { path, follow }),
        (bytes(), bytes(), any::<bool>()).prop_map(|(path, name, follow)| FileTask::Pack {
            path,
            name,
            follow
        }),
        (bytes(), any::<bool>()).prop_map(|(path, owners)| FileTask::Unpack { path, owners }),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let id = any::<u32>();
    prop_oneof![
        (any::<u32>(), boot()).prop_map(|(version, boot)| Request::Boot { version, boot }),
        (id, spec()).prop_map(|(id, spec)| Request::Exec { id, spec }),
        (id, task()).prop_map(|(id, task)| Request::Files { id, task }),
        (id, bytes()).prop_map(|(id, data)| Request::Stdin { id, data }),
        id.prop_map(|id| Request::StdinEof { id }),
        (id, stream(), any::<u32>()).prop_map(|(id, stream, bytes)| Request::Credit {
            id,
            stream,
            bytes
        }),
        (id, stream()).prop_map(|(id, stream)| Request::CloseOutput { id, stream }),
        (id, size()).prop_map(|(id, size)| Request::Resize { id, size }),
        (id, any::<u32>()).prop_map(|(id, signal)| Request::Signal { id, signal }),
        id.prop_map(|id| Request::KillExec { id }),
        id.prop_map(|id| Request::Sync { id }),
        (id, any::<u32>()).prop_map(|(id, thaw_after_ms)| Request::Freeze { id, thaw_after_ms }),
        (id, any::<u32>())
            .prop_map(|(id, thaw_after_ms)| Request::KeepFrozen { id, thaw_after_ms }),
        id.prop_map(|id| Request::Thaw { id }),
        id.prop_map(|id| Request::Suspend { id }),
        id.prop_map(|id| Request::Trim { id }),
        (id, any::<u64>(), any::<bool>()).prop_map(|(id, realtime_ns, step)| Request::SetClock {
            id,
            realtime_ns,
            step
        }),
        id.prop_map(|id| Request::Stats { id }),
        id.prop_map(|id| Request::Processes { id }),
        (id, identity()).prop_map(|(id, identity)| Request::Identity { id, identity }),
        any::<u32>().prop_map(|grace_ms| Request::Shutdown { grace_ms }),
    ]
}

fn stats() -> impl Strategy<Value = Stats> {
    let command = any::<(u32, u32, u64, u64, u32)>().prop_map(|numbers| {
        let mut command = CommandStats::default();
        (
            command.id,
            command.pid,
            command.memory,
            command.cpu_ns,
            command.processes,
        ) = numbers;
        command
    });
    (any::<[u64; 10]>(), any::<[u32; 2]>(), vec(command, 0..3)).prop_map(
        |(numbers, counts, commands)| {
            let mut stats = Stats::default();
            [
                stats.uptime_ns,
                stats.memory_total,
                stats.memory_available,
                stats.cpu_busy_ns,
                stats.disk_total,
                stats.disk_free,
                stats.disk_read,
                stats.disk_written,
                stats.network_received,
                stats.network_sent,
            ] = numbers;
            [stats.cpus, stats.processes] = counts;
            stats.commands = commands;
            stats
        },
    )
}

fn process() -> impl Strategy<Value = Process> {
    (any::<[u32; 4]>(), any::<[u64; 3]>(), text(), bytes()).prop_map(
        |(ids, numbers, state, command)| {
            let mut process = Process::default();
            [process.pid, process.parent, process.uid, process.terminal] = ids;
            [process.memory, process.cpu_ns, process.started_ns] = numbers;
            (process.state, process.command) = (state, command);
            process
        },
    )
}

fn reply() -> impl Strategy<Value = Reply> {
    let id = any::<u32>();
    prop_oneof![
        (2_u32.., any::<u64>(), text(), vec(text(), 0..3)).prop_map(
            |(version, uptime_ns, kernel, warnings)| Reply::Hello {
                version,
                uptime_ns,
                kernel,
                warnings,
            }
        ),
        (id, any::<u32>(), any::<bool>()).prop_map(|(id, kind, known)| Reply::Rejected {
            id,
            kind,
            known
        }),
        (id, stats()).prop_map(|(id, stats)| Reply::Stats { id, stats }),
        (id, vec(process(), 0..3)).prop_map(|(id, processes)| Reply::Processes { id, processes }),
        ".{0,40}".prop_map(|message| Reply::Fatal { message }),
        (id, any::<u32>()).prop_map(|(id, pid)| Reply::Started { id, pid }),
        (id, any::<u8>(), ".{0,40}").prop_map(|(id, code, message)| Reply::SpawnFailed {
            id,
            code,
            message
        }),
        (id, stream(), bytes()).prop_map(|(id, stream, data)| Reply::Output { id, stream, data }),
        (id, any::<u32>()).prop_map(|(id, bytes)| Reply::StdinCredit { id, bytes }),
        (id, any::<u8>()).prop_map(|(id, code)| Reply::Exited {
            id,
            status: ExitStatus::Code(code)
        }),
        (id, any::<u8>()).prop_map(|(id, signal)| Reply::Exited {
            id,
            status: ExitStatus::Signal(signal)
        }),
        (id, any::<u32>()).prop_map(|(id, errno)| Reply::Done { id, errno }),
        any::<u32>().prop_map(|errno| Reply::Bye { errno }),
    ]
}

proptest! {
    #[test]
    fn requests_are_decoded_however_their_bytes_are_split(requests in vec(request(), 1..6), cut in 1_usize..40) {
        let mut stream = Vec::new();
        for request in &requests {
            request.encode(&mut stream);
        }
        let mut decoder = Decoder::default();
        let mut received = Vec::new();
        for piece in stream.chunks(cut) {
            decoder.push(piece);
            while let Some(frame) = decoder.next_frame().unwrap() {
                received.push(Request::decode(frame).unwrap());
            }
        }
        prop_assert!(decoder.is_empty());
        prop_assert_eq!(received, requests);
    }

    #[test]
    fn replies_are_decoded_however_their_bytes_are_split(replies in vec(reply(), 1..6), cut in 1_usize..40) {
        let mut stream = Vec::new();
        for reply in &replies {
            reply.encode(&mut stream);
        }
        let mut decoder = Decoder::default();
        let mut received = Vec::new();
        for piece in stream.chunks(cut) {
            decoder.push(piece);
            while let Some(frame) = decoder.next_frame().unwrap() {
                received.push(Reply::decode(frame).unwrap());
            }
        }
        prop_assert_eq!(received, replies);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(kind in prop_oneof![0_u32..0x20, 0x100_u32..0x120], payload in vec(any::<u8>(), 0..64), garbage in bytes()) {
        let mut frame = (payload.len() as u32).to_le_bytes().to_vec();
        frame.extend(kind.to_le_bytes());
        frame.extend([7, 0, 0, 0]);
        frame.extend(&payload);
        let mut decoder = Decoder::default();
        decoder.push(&frame);
        if let Some(frame) = decoder.next_frame().unwrap() {
            let _ = Request::decode(frame);
            let _ = Reply::decode(frame);
        }
        decoder.push(&garbage);
        while let Ok(Some(frame)) = decoder.next_frame() {
            let _ = Request::decode(frame);
        }
    }
}

#[test]
fn a_frame_beyond_the_limit_is_refused_before_it_arrives() {
    let length = MAX_PAYLOAD as u32 + 1;
    let mut header = length.to_le_bytes().to_vec();
    header.resize(HEADER, 0);
    let mut decoder = Decoder::default();
    decoder.push(&header);
    let refused = ProtocolError::TooLong { kind: 0, length };
    assert_eq!(decoder.next_frame().unwrap_err(), refused);
}

#[test]
fn the_first_versions_hello_is_understood() {
    let mut payload = 1_u32.to_le_bytes().to_vec();
    payload.extend(7_u64.to_le_bytes());
    payload.extend(3_u32.to_le_bytes());
    payload.extend(b"6.6");
    let frame = Frame {
        kind: 0x101,
        id: 0,
        payload: &payload,
    };
    let hello = Reply::Hello {
        version: 1,
        uptime_ns: 7,
        kernel: "6.6".to_owned(),
        warnings: Vec::new(),
    };
    assert_eq!(Reply::decode(frame), Ok(hello));
}

#[test]
fn a_count_alone_allocates_nothing() {
    // An exec with 4 billion arguments, of which none follows.
    let frame = Frame {
        kind: 1,
        id: 1,
        payload: &[0xff; 4],
    };
    assert!(matches!(
        Request::decode(frame),
        Err(ProtocolError::Malformed { .. })
    ));
}

#[test]
fn secrets_are_not_in_debug_output() {
    let secret = Secret {
        name: b"token".to_vec(),
        data: b"hunter2".to_vec(),
        mode: 0o400,
        uid: 0,
        gid: 0,
    };
    let mut boot = Boot::new("box");
    boot.secrets.push(secret);
    let text = format!("{boot:?}");
    assert!(text.contains("token") && !text.contains("hunter2") && !text.contains("104, 117"));
}

#[test]
fn exit_status_of_a_signal_is_128_plus_its_number() {
    assert_eq!(ExitStatus::Code(3).code(), 3);
    assert_eq!(ExitStatus::Signal(15).code(), 143);
    assert!(ExitStatus::Code(0).success() && !ExitStatus::Signal(0).success());
}
