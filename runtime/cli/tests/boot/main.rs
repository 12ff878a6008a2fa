//! Boots a small image and runs commands in it. The image and its disks are made from busybox, by
//! other projects' programs where a second opinion matters.
//!
//! `BLOCKBOX_TEST_VMM` chooses the monitor, `qemu` (the default) or `libkrun`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod devices;
mod guest;
mod image;
mod pause;
mod requests;
mod setup;

use std::fs;
use std::io::Write;
#[cfg(target_os = "linux")]
use std::path::Path;
#[cfg(target_os = "linux")]
use std::process::Command;
use std::time::{Duration, Instant};

use blockbox::guest::{Boot, ExitStatus, GuestError, Session, Stream, WindowSize};
use blockbox::vmm::VmConfig;
use guest::{
    BOOT_TIME, Guest, command, guest_kernel, journal_needs_recovery, monitor, outcome, read_until,
    shell, writable_disk,
};
use testkit::oracle;

#[test]
fn exit_statuses_and_streams_are_the_commands_own() {
    let Some(guest) = Guest::boot() else { return };
    assert_eq!(
        guest.sh("echo out; echo err >&2"),
        outcome(ExitStatus::Code(0), "out\n", "err\n")
    );
    assert_eq!(guest.sh("exit 3").status, ExitStatus::Code(3));
    assert_eq!(guest.sh("exit 127").status, ExitStatus::Code(127));
    assert_eq!(guest.sh("kill -9 $$").status, ExitStatus::Signal(9));
    assert_eq!(ExitStatus::Signal(9).code(), 137);

    for (args, expected) in [
        (["no-such-command"], 127),
        (["/bin/no-such-file"], 127),
        (["/etc/not-executable"], 126),
        (["/etc"], 126),
    ] {
        match guest.session.exec(&command(&args)) {
            Err(GuestError::SpawnFailed { code, message }) => {
                assert_eq!(code, expected, "{message}");
                assert!(message.contains(args[0]), "{message}");
            }
            other => panic!("{args:?}: {other:?}"),
        }
    }
    // More than the kernel accepts in one argument, and more than a frame.
    for length in [200 << 10, 5 << 20] {
        match guest.session.exec(&command(&["echo", &"x".repeat(length)])) {
            Err(GuestError::SpawnFailed { code, .. }) => assert_eq!(code, 126),
            other => panic!("{length}: {other:?}"),
        }
    }
    assert_eq!(guest.sh("echo still there").stdout, "still there\n");
    guest.shut_down();
}

#[test]
fn the_guest_is_what_a_container_expects() {
    let Some(guest) = Guest::boot() else { return };
    let disks = guest.sh("awk 'NR > 2 && $4 ~ /^[a-z]/ { print $4 }' /proc/partitions");
    assert_eq!(disks.stdout, "vda\nvdb\n");
    let fstypes = guest.sh(
        "for d in / /proc /sys /dev /dev/pts /dev/shm /tmp /run; do awk -v d=$d '$2 == d { print d, $3 }' /proc/mounts; done",
    );
    assert_eq!(
        fstypes.stdout,
        "/ overlay\n/proc proc\n/sys sysfs\n/dev devtmpfs\n/dev/pts devpts\n/dev/shm tmpfs\n/tmp tmpfs\n/run tmpfs\n"
    );
    assert_eq!(
        guest
            .sh("stat -c %a /tmp /dev/shm /run; stat -c %a /dev/ptmx")
            .stdout,
        "1777\n1777\n755\n666\n"
    );
    assert_eq!(
        guest
            .sh("hostname; cat /etc/hostname; tail -n 1 /etc/hosts")
            .stdout,
        "testbox\ntestbox\n127.0.1.1\ttestbox\n"
    );
    assert_eq!(
        guest
            .sh("ping -c 1 -W 2 127.0.0.1 > /dev/null && echo up")
            .stdout,
        "up\n"
    );
    assert_eq!(
        guest
            .sh("echo via-dev > /dev/stdout; readlink /dev/fd")
            .stdout,
        "via-dev\n/proc/self/fd\n"
    );
    // The sandbox's disk and init's own folders are hidden.
    assert_eq!(
        guest
            .sh("ls -d /blockbox /upper /work 2>/dev/null; grep -c ext4 /proc/mounts")
            .stdout,
        "0\n"
    );

    let mut spec = shell(
        "id -u; id -g; id -G; echo $HOME; pwd; umask; touch /tmp/mine && echo ok > /dev/stderr",
    );
    spec.user = b"app".to_vec();
    spec.cwd = b"/srv/made/for/it".to_vec();
    assert_eq!(
        guest.run(&spec),
        outcome(
            ExitStatus::Code(0),
            "1000\n1001\n1001 2000\n/home/app\n/srv/made/for/it\n0022\n",
            "ok\n"
        )
    );
    let mut spec = command(&["env"]);
    spec.env = [&b"A=1"[..], b"B=", b"C=x=y", b"PATH=/bin"]
        .map(<[u8]>::to_vec)
        .to_vec();
    let mut lines: Vec<_> = guest.run(&spec).stdout.lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(
        lines,
        [
            "A=1",
            "B=",
            "C=x=y",
            "HOME=/root",
            "HOSTNAME=testbox",
            "PATH=/bin"
        ]
    );
    guest.shut_down();
}

#[test]
fn large_streams_arrive_whole_and_in_order() {
    let Some(guest) = Guest::boot() else { return };
    const SIZE: usize = 10 << 20;
    let data: Vec<u8> = (0..SIZE as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();

    let started = Instant::now();
    let mut spec = command(&["cat"]);
    spec.stdin = true;
    let mut exec = guest.exec(&spec);
    let mut stdin = exec.take_stdin().unwrap();
    let sent = data.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let status = exec.stream(&mut stdout, &mut stderr).unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(status, ExitStatus::Code(0));
    assert_eq!(stderr, b"");
    assert!(stdout == data, "{} bytes came back of {SIZE}", stdout.len());
    eprintln!("10 MiB there and back in {:?}", started.elapsed());

    // Both outputs at once, read in the order of arrival.
    let outcome = guest.sh(
        "head -c 2000000 /dev/zero | tr '\\0' e >&2 & head -c 2000000 /dev/zero | tr '\\0' o; wait",
    );
    assert_eq!(outcome.stdout, "o".repeat(2_000_000));
    assert_eq!(outcome.stderr, "e".repeat(2_000_000));
    guest.shut_down();
}

#[test]
fn a_command_nobody_reads_from_stops_no_other() {
    let Some(guest) = Guest::boot() else { return };
    let unread = guest.exec(&shell("while :; do echo flood; done"));
    let mut spec = shell("exec sleep 1000");
    spec.stdin = true;
    let mut deaf = guest.exec(&spec);
    let mut stdin = deaf.take_stdin().unwrap();
    // More than any buffer in between holds; the command never reads it.
    let writer = std::thread::spawn(move || stdin.write_all(&vec![0; 4 << 20]));
    std::thread::sleep(Duration::from_millis(500));

    assert_eq!(guest.sh("echo alive").stdout, "alive\n");
    deaf.control().signal(15).unwrap();
    assert_eq!(deaf.wait().unwrap(), ExitStatus::Signal(15));
    let error = writer.join().unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);

    // Closing the output of the flood ends it as a closed pipe does.
    unread.close_output(Stream::Stdout).unwrap();
    assert_eq!(unread.wait().unwrap(), ExitStatus::Signal(13));
    guest.shut_down();
}

#[test]
fn input_left_unread_does_not_hold_up_the_end() {
    let Some(guest) = Guest::boot() else { return };
    let mut spec = shell("head -c 5 >&2; exec <&-; sleep 0.2; echo done");
    spec.stdin = true;
    let mut exec = guest.exec(&spec);
    let mut stdin = exec.take_stdin().unwrap();
    // All of it is accepted, although the command closed its input after the beginning.
    stdin.write_all(&vec![b'x'; 1 << 20]).unwrap();
    drop(stdin);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let status = exec.stream(&mut stdout, &mut stderr).unwrap();
    assert_eq!(
        (status, &*stdout, &*stderr),
        (ExitStatus::Code(0), &b"done\n"[..], &b"xxxxx"[..])
    );
    guest.shut_down();
}

#[test]
fn a_command_with_a_terminal_can_use_it_as_one() {
    let Some(guest) = Guest::boot() else { return };
    let mut spec = shell(
        "trap 'stty size' WINCH; tty; stty size; until read line; do :; done; echo got $line; echo err >&2",
    );
    spec.tty = Some(WindowSize { rows: 33, cols: 99 });
    let mut exec = guest.exec(&spec);
    let mut stdin = exec.take_stdin().unwrap();
    assert_eq!(
        read_until(&mut exec, "33 99\r\n"),
        "/dev/pts/0\r\n33 99\r\n"
    );
    let size = WindowSize { rows: 44, cols: 55 };
    exec.control().resize(size).unwrap();
    // The signal interrupts a waiting `read`.
    assert_eq!(read_until(&mut exec, "44 55\r\n"), "44 55\r\n");
    stdin.write_all(b"hello\n").unwrap();
    let mut rest = Vec::new();
    let status = exec.stream(&mut rest, &mut std::io::sink()).unwrap();
    assert_eq!(status, ExitStatus::Code(0));
    assert_eq!(
        String::from_utf8(rest).unwrap(),
        "hello\r\ngot hello\r\nerr\r\n"
    );

    // Everything that a command writes just before its end arrives, even while a child keeps the
    // terminal open.
    let mut spec = shell("sleep 1000 & head -c 100000 /dev/zero | tr '\\0' t");
    spec.tty = Some(WindowSize { rows: 24, cols: 80 });
    let outcome = guest.run(&spec);
    assert_eq!(outcome.stdout, "t".repeat(100_000));
    guest.shut_down();
}

#[test]
fn background_processes_do_not_keep_a_command_alive() {
    let Some(guest) = Guest::boot() else { return };
    let started = Instant::now();
    let outcome = guest.sh("sleep 1000 & echo done");
    assert_eq!(outcome, self::outcome(ExitStatus::Code(0), "done\n", ""));
    assert!(started.elapsed() < Duration::from_secs(30));
    // Orphans are reaped by init.
    let zombies = guest.sh("(sleep 0.1 &) ; sleep 0.5; ps -o stat | grep -c '^Z'");
    assert_eq!(zombies.stdout, "0\n");
    guest.shut_down();
}

#[test]
fn writes_go_to_the_upper_and_the_image_stays() {
    let Some(guest) = Guest::boot() else { return };
    let image = fs::read(guest.folder.path().join("image.erofs")).unwrap();
    let outcome = guest.sh("echo changed > /etc/from-image; mkdir /new; echo x > /new/file; rm /etc/group; cat /etc/from-image");
    assert_eq!(outcome.stdout, "changed\n");
    guest.session.sync().unwrap();
    guest.session.freeze(Duration::ZERO).unwrap();
    // While frozen, the image on the host has no journal to replay.
    assert!(!journal_needs_recovery(&guest.upper()));
    guest.session.thaw().unwrap();
    assert!(matches!(
        guest.session.thaw(),
        Err(GuestError::Refused { .. })
    ));
    assert_eq!(
        fs::read(guest.folder.path().join("image.erofs")).unwrap(),
        image
    );

    let Some(mut debugfs) = oracle("debugfs") else {
        return;
    };
    let upper = guest.upper();
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("upper.ext4");
    let Guest {
        folder: disks,
        vm,
        session,
    } = guest;
    session.shutdown(&vm, Duration::ZERO).unwrap();
    fs::copy(upper, &copy).unwrap();
    drop(disks);
    let output = debugfs
        .args(["-R", "cat /upper/etc/from-image"])
        .arg(&copy)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "changed\n");
}

#[test]
fn a_frozen_guest_shuts_down_cleanly() {
    let Some(guest) = Guest::boot() else { return };
    guest.session.freeze(Duration::ZERO).unwrap();
    let _blocked = guest.exec(&shell("echo x > /file"));
    guest.shut_down();
}

#[test]
fn a_guest_whose_disk_is_not_an_image_reports_it() {
    let Some(kernel) = guest_kernel() else { return };
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("image.erofs");
    fs::write(&raw, vec![0; 1 << 20]).unwrap();
    let descriptor = vmdk::Descriptor::flat(&[("image.erofs", 1 << 20)]).unwrap();
    let disk = folder.path().join("disk.vmdk");
    fs::write(&disk, descriptor.to_string()).unwrap();
    let upper = folder.path().join("upper.ext4");
    writable_disk(&upper);
    let mut config = VmConfig::new(&kernel, disk, &upper);
    config.helper = Some(env!("CARGO_BIN_EXE_blockbox").into());
    let vm = monitor().start(&config).unwrap();
    match Session::connect(&vm, &Boot::new("testbox"), BOOT_TIME) {
        Err(GuestError::SetupFailed { message }) => assert!(message.contains("EROFS"), "{message}"),
        other => panic!("{other:?}"),
    }
    drop(vm);

    // Without any init the kernel panics, and the error shows its last output.
    fs::write(&upper, vec![0; 16 << 20]).unwrap();
    let vm = monitor().start(&config).unwrap();
    match Session::connect(&vm, &Boot::new("testbox"), BOOT_TIME) {
        Err(error @ GuestError::NeverReported { .. }) => {
            assert!(error.to_string().contains("Kernel panic"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_guest_whose_host_is_gone_ends() {
    let Some(guest) = Guest::boot() else { return };
    let Guest {
        folder,
        vm,
        session,
    } = guest;
    let background = session.exec(&command(&["sleep", "1000"])).unwrap();
    // When blockbox dies, the channel closes.
    vm.channel()
        .unwrap()
        .shutdown(std::net::Shutdown::Both)
        .unwrap();
    let ended = vm.wait_timeout(Duration::from_secs(30)).unwrap();
    assert!(ended.is_some(), "the VM still runs");
    assert!(!journal_needs_recovery(&folder.path().join("upper.ext4")));
    assert!(matches!(background.wait(), Err(GuestError::Lost { .. })));
}

/// Not a test itself: the process that [`a_killed_host_leaves_no_vm`] kills.
#[test]
#[ignore = "holds a guest until killed"]
fn hold_a_guest() {
    let Some(guest) = Guest::boot() else { return };
    println!("holding");
    let _ = guest.vm.wait();
}

#[test]
#[cfg(target_os = "linux")]
fn a_killed_host_leaves_no_vm() {
    if guest_kernel().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut host = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hold_a_guest", "--ignored", "--nocapture"])
        .env("TMPDIR", folder.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = std::io::BufReader::new(host.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("holding") {
        line.clear();
        let count = std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
        assert_ne!(count, 0, "the host ended");
    }
    assert!(vm_with(folder.path()));
    host.kill().unwrap();
    host.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while vm_with(folder.path()) {
        assert!(Instant::now() < deadline, "the VM outlived its host");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Returns whether a process has a path in `folder` on its command line, as a VM has its disks.
#[cfg(target_os = "linux")]
fn vm_with(folder: &Path) -> bool {
    let folder = folder.to_str().unwrap();
    fs::read_dir("/proc").unwrap().flatten().any(|process| {
        let cmdline = fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&cmdline).contains(folder)
    })
}
