//! Requests to init while commands run.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use blockbox::guest::{Event, ExitStatus, GuestError, Identity, Stream};

use crate::guest::{Guest, command, journal_needs_recovery, shell};

#[test]
fn a_freeze_expires_unless_it_is_extended() {
    let Some(guest) = Guest::boot() else { return };
    let second = Duration::from_secs(1);
    guest.session.freeze(5 * second).unwrap();
    let frozen = Instant::now();
    assert!(!journal_needs_recovery(&guest.upper()));
    let again = guest.session.freeze(second);
    assert!(matches!(again, Err(GuestError::Refused { .. })));
    // Nothing that waits for the thaw blocks init: not a writer, not a trim, not a missing working
    // directory.
    let writer = guest.exec(&shell("echo x > /file; echo written"));
    assert!(matches!(
        guest.session.trim(),
        Err(GuestError::Refused { .. })
    ));
    guest.session.sync().unwrap();
    let mut spec = command(&["true"]);
    spec.cwd = b"/to/be/made".to_vec();
    match guest.session.exec(&spec) {
        Err(GuestError::SpawnFailed { message, .. }) => {
            assert!(message.contains("frozen"), "{message}")
        }
        other => panic!("{other:?}"),
    }
    for _ in 0..3 {
        std::thread::sleep(2 * second);
        guest.session.keep_frozen(5 * second).unwrap();
    }
    assert!(frozen.elapsed() > 5 * second && !journal_needs_recovery(&guest.upper()));
    let mut output = Vec::new();
    let status = writer.stream(&mut output, &mut std::io::sink()).unwrap();
    assert_eq!((status, &*output), (ExitStatus::Code(0), &b"written\n"[..]));
    // The host learns that its freeze has ended.
    for refused in [guest.session.keep_frozen(second), guest.session.thaw()] {
        assert!(matches!(
            refused,
            Err(GuestError::Refused { errno: 22, .. })
        ));
    }
    guest.shut_down();
}

#[test]
fn files_removed_in_the_guest_take_no_space_on_the_host() {
    let Some(guest) = Guest::boot() else { return };
    let blocks = || fs::metadata(guest.upper()).unwrap().blocks() * 512;
    let empty = blocks();
    let write = "dd if=/dev/urandom of=/large bs=1M count=40 2>/dev/null; sync; rm /large; sync";
    assert_eq!(guest.sh(write).status, ExitStatus::Code(0));
    assert!(blocks() > empty + (30 << 20), "{empty} {}", blocks());
    guest.session.trim().unwrap();
    assert!(blocks() < empty + (8 << 20), "{empty} {}", blocks());
    assert_eq!(guest.sh(write).status, ExitStatus::Code(0));
    // Also at the shutdown, without a request.
    let upper = guest.upper();
    let Guest {
        folder,
        vm,
        session,
    } = guest;
    session.shutdown(&vm, Duration::ZERO).unwrap();
    let after = fs::metadata(upper).unwrap().blocks() * 512;
    assert!(after < empty + (8 << 20), "{empty} {after}");
    drop(folder);
}

#[test]
fn commands_are_measured_listed_and_killed_with_their_descendants() {
    let Some(guest) = Guest::boot() else { return };
    // A descendant in its own session, whose parent has ended.
    let mut parent = guest.exec(&shell(
        "setsid sh -c 'sleep 1000 & exec sleep 1001' & echo up; exec sleep 1002",
    ));
    while !matches!(parent.next_event().unwrap(), Event::Output { .. }) {}
    let busy = guest.exec(&shell("while :; do :; done"));
    std::thread::sleep(Duration::from_millis(500));

    let stats = guest.session.stats().unwrap();
    assert!(stats.memory_total > 400 << 20 && stats.memory_available < stats.memory_total);
    assert!(stats.disk_total > 200 << 20 && stats.disk_free <= stats.disk_total);
    assert!(stats.cpus == 1 && stats.uptime_ns > 0 && stats.cpu_busy_ns > 0);
    assert!(stats.disk_read > 0);
    let of = |id: u32| {
        stats
            .commands
            .iter()
            .find(|command| command.id == id)
            .unwrap()
    };
    let (sleeping, running) = (of(parent.control().id()), of(busy.control().id()));
    assert_eq!((sleeping.processes, running.processes), (3, 1));
    assert!(
        running.cpu_ns > sleeping.cpu_ns && running.cpu_ns > 50_000_000,
        "{stats:?}"
    );
    assert!(running.memory > 0 && running.memory < 64 << 20, "{stats:?}");

    let listed = guest.session.processes().unwrap();
    let sleepers: Vec<_> = listed
        .iter()
        .filter(|process| process.command.starts_with(b"sleep\0"))
        .collect();
    assert_eq!(sleepers.len(), 3, "{listed:?}");
    assert!(
        sleepers
            .iter()
            .all(|process| process.state == "S" && process.uid == 0)
    );
    assert!(
        listed
            .iter()
            .any(|process| process.pid == busy.pid() && process.cpu_ns > 0)
    );
    assert!(listed.iter().all(|process| process.pid != 1));

    for exec in [parent, busy] {
        exec.control().kill_all().unwrap();
        assert_eq!(exec.wait().unwrap(), ExitStatus::Signal(9));
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while !guest.session.processes().unwrap().is_empty() {
        assert!(Instant::now() < deadline, "{:?}", guest.session.processes());
        std::thread::sleep(Duration::from_millis(50));
    }
    guest.shut_down();
}

#[test]
fn a_detached_command_goes_on_when_nobody_reads() {
    let Some(guest) = Guest::boot() else { return };
    let mut spec = shell(
        "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo end > /tmp/end",
    );
    spec.detach = true;
    let exec = guest.exec(&spec);
    exec.close_output(Stream::Stdout).unwrap();
    assert_eq!(exec.wait().unwrap(), ExitStatus::Code(0));
    assert_eq!(guest.sh("cat /tmp/end").stdout, "end\n");
    guest.shut_down();
}

#[test]
fn floods_leave_others_their_turn() {
    let Some(guest) = Guest::boot() else { return };
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let mut flood = guest.exec(&shell("exec yes"));
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    flood.next_event().unwrap();
                }
                flood.control().kill_all().unwrap();
            });
        }
        let started = Instant::now();
        let outcome = guest.sh("i=0; while [ $i -lt 20 ]; do echo $i; i=$((i+1)); done");
        let took = started.elapsed();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(outcome.stdout.lines().count(), 20);
        assert!(took < Duration::from_secs(30), "{took:?}");
    });
    guest.shut_down();
}

#[test]
fn a_fork_bomb_does_not_hold_up_the_end() {
    let Some(guest) = Guest::boot() else { return };
    let bomb = guest.exec(&shell("b() { b | b & }; b 2>/dev/null; exec sleep 1000"));
    std::thread::sleep(Duration::from_secs(2));
    drop(bomb);
    let started = Instant::now();
    guest.shut_down();
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "{:?}",
        started.elapsed()
    );
}

fn on_fork(root: &Path) {
    let folder = root.join("etc/blockbox");
    fs::create_dir_all(&folder).unwrap();
    let hook = folder.join("on-fork");
    fs::write(&hook, "#!/bin/sh\nhostname > /tmp/hook\n[ ! -e /tmp/fail ] || exit 1\n[ ! -e /tmp/hang ] || sleep 1000\n").unwrap();
    fs::set_permissions(hook, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_clone_becomes_a_guest_of_its_own() {
    let Some(guest) = Guest::boot_with(on_fork) else {
        return;
    };
    let mut identity = Identity::default();
    identity.hostname = "clone".to_owned();
    identity.machine_id = vec![0xcd; 16];
    identity.entropy = vec![7; 64];
    identity.close_connections = true;
    identity.hook_timeout_ms = 20_000;
    guest.session.identity(&identity).unwrap();
    let names = guest
        .sh("hostname; cat /etc/hostname /tmp/hook; tail -n 1 /etc/hosts; cat /etc/machine-id");
    assert_eq!(
        names.stdout,
        format!(
            "clone\nclone\nclone\n127.0.1.1\tclone\n{}\n",
            "cd".repeat(16)
        )
    );
    // The image's hook is waited for, and its failure is reported.
    guest.sh("touch /tmp/fail");
    let failed = guest.session.identity(&identity);
    assert!(
        matches!(failed, Err(GuestError::Refused { errno: 125, .. })),
        "{failed:?}"
    );
    guest.sh("rm /tmp/fail; touch /tmp/hang");
    identity.hook_timeout_ms = 500;
    let late = guest.session.identity(&identity);
    assert!(
        matches!(late, Err(GuestError::Refused { errno: 110, .. })),
        "{late:?}"
    );
    guest.shut_down();
}

fn inittab(root: &Path) {
    let inittab = "::sysinit:/bin/sh -c 'echo booted as $$ > /tmp/booted; cat /proc/1/comm >> /tmp/booted'\n\
                   ::respawn:/bin/sleep 1000\n";
    fs::write(root.join("etc/inittab"), inittab).unwrap();
}

#[test]
fn an_init_asks_for_no_more_process_ids_than_the_kernel_has() {
    let booted = Guest::boot_with(|root| {
        inittab(root);
        let settings = root.join("usr/lib/sysctl.d");
        fs::create_dir_all(&settings).unwrap();
        let pid_max = "kernel.pid_max = 4194304\n";
        fs::write(settings.join("50-pid-max.conf"), pid_max).unwrap();
    });
    let Some(guest) = booted else {
        return;
    };
    let mut spec = command(&["/bin/init"]);
    spec.init = true;
    let init = guest.exec(&spec);
    // As systemd does: if several files have the same name, the one in /run is read.
    let outcome = guest.sh("for dir in /run /usr/lib; do file=$dir/sysctl.d/50-pid-max.conf; [ -e $file ] && break; done; \
                            sysctl -p $file && echo set");
    assert_eq!(outcome.stdout.lines().last(), Some("set"), "{outcome:?}");
    init.control().signal(12).unwrap();
    init.wait().unwrap();
    guest.shut_down();
}

#[test]
fn an_init_is_process_1_and_later_commands_join_it() {
    let Some(guest) = Guest::boot_with(inittab) else {
        return;
    };
    let mut spec = command(&["/bin/init"]);
    spec.init = true;
    // Busybox's init powers off.
    spec.stop_signal = 12;
    let init = guest.exec(&spec);
    let joined = "while [ ! -s /tmp/booted ]; do sleep 0.1; done; tail -n 1 /tmp/booted; cat /proc/1/comm; \
                  readlink /proc/1/ns/pid > /tmp/ns; [ $(readlink /proc/self/ns/pid) = $(cat /tmp/ns) ] && echo joined; \
                  cat /proc/self/cgroup /proc/1/cgroup; ls -d /sys/fs/cgroup/cgroup.procs; echo $container";
    let outcome = guest.sh(joined);
    let mut lines = outcome.stdout.lines();
    assert_eq!(lines.next(), Some("init"), "{outcome:?}");
    assert_eq!(lines.next(), Some("init"));
    assert_eq!(lines.next(), Some("joined"), "{outcome:?}");
    assert!(outcome.stdout.contains("\n0::/\n"), "{outcome:?}");
    let second = guest.session.exec(&spec);
    assert!(matches!(
        second,
        Err(GuestError::SpawnFailed { code: 125, .. })
    ));
    // It is ended by its own signal when the guest powers off, and its namespace with it.
    let started = Instant::now();
    init.control().signal(12).unwrap();
    let status = init.wait().unwrap();
    assert_ne!(
        status,
        ExitStatus::Signal(9),
        "after {:?}",
        started.elapsed()
    );
    assert_eq!(guest.sh("cat /proc/1/comm").stdout, "init\n");
    guest.shut_down();
}
