//! Machines that pause: for a full disk of the host, and to be saved and copied.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use blockbox::guest::{
    Adoption, Boot, Event, Exec, ExecSpec, ExitStatus, RunningCommand, Session, Stdin, WindowSize,
};
use blockbox::store::sparse;
use blockbox::vmm::{MemoryBacking, SharedMemory, VmConfig, VmEvent, Vmm};
use testkit::{SmallDisk, skip};

use super::guest::{Guest, monitor, shell, writable_disk};

/// How long something may take in an emulated guest.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_full_host_disk_pauses_the_vm_until_there_is_room() {
    let mut small = None;
    let guest = Guest::boot_machine(
        |_| (),
        &Boot::new("testbox"),
        |mut config, folder| {
            let folder = folder.join("small");
            fs::create_dir(&folder).unwrap();
            small = SmallDisk::mount(&folder, 24);
            if small.is_some() {
                let upper = folder.join("upper.ext4");
                writable_disk(&upper);
                config.disks[1].path = upper;
            }
            config
        },
    );
    let (Some(guest), Some(small)) = (guest, small) else {
        return;
    };
    let events = guest.vm.events();
    let write = guest.exec(&shell(
        "dd if=/dev/zero of=/big bs=1M count=40 conv=fsync 2>/dev/null",
    ));
    let upper = small.path().join("upper.ext4");
    if monitor() == Vmm::Libkrun {
        // libkrun cannot pause: the guest gets an I/O error, and continues.
        let status = write.wait().unwrap();
        assert_ne!(status, ExitStatus::Code(0));
        assert_eq!(guest.sh("echo still there").stdout, "still there\n");
        return;
    }
    let full = events.recv_timeout(PATIENCE).unwrap();
    assert_eq!(
        full,
        VmEvent::DiskFull {
            disk: upper.clone()
        }
    );
    let qmp = guest.vm.qmp().unwrap();
    assert_eq!(qmp.status().unwrap(), "io-error");
    // Without space it stays paused, and reports it once.
    assert!(events.recv_timeout(Duration::from_millis(2500)).is_err());

    small.resize(128);
    assert_eq!(events.recv_timeout(PATIENCE).unwrap(), VmEvent::Resumed);
    assert_eq!(write.wait().unwrap(), ExitStatus::Code(0));
    let big = guest
        .sh("stat -c %s /big; sync; echo 3 > /proc/sys/vm/drop_caches; tr -d '\\0' < /big | wc -c");
    assert_eq!(big.stdout, format!("{}\n0\n", 40 << 20));
    let Guest { vm, session, .. } = guest;
    session.shutdown(&vm, Duration::ZERO).unwrap();
    drop(vm);
    check_disk(&upper);
}

#[test]
fn a_saved_machine_runs_on_as_a_clone_and_as_itself() {
    if monitor() == Vmm::Libkrun {
        skip("libkrun does not save machines");
        return;
    }
    let mut source = None;
    let guest = Guest::boot_machine(
        |_| (),
        &Boot::new("testbox"),
        |mut config, _| {
            config.memory_mib = 128;
            config.memory = MemoryBacking::Shared(SharedMemory::new(128).unwrap());
            source = Some(config.clone());
            config
        },
    );
    let (Some(guest), Some(source)) = (guest, source) else {
        return;
    };
    // A command that continues in both, one that ends in the copy, and a terminal that is not used
    // there.
    let mut count = shell("i=0; while read line; do i=$((i+1)); echo $line $i; done");
    count.stdin = true;
    let mut counter = guest.exec(&count);
    let _terminal = guest.exec(&terminal());
    let folder = guest.folder.path().to_owned();
    let state = folder.join("state");
    let MemoryBacking::Shared(memory) = &source.memory else {
        panic!("{:?}", source.memory);
    };
    let save = |copy: &str| {
        let file = File::create(&state).unwrap();
        let started = Instant::now();
        guest.session.freeze(PATIENCE).unwrap();
        let suspended = guest.session.suspend().unwrap();
        let last_id = suspended.last_id();
        let saved = guest.vm.save(&file, PATIENCE, || {
            let copies = [
                (memory.file(), "memory"),
                (&File::open(guest.upper()).unwrap(), "upper"),
            ];
            for (from, name) in copies {
                let to = File::create(folder.join(format!("{name}.{copy}"))).unwrap();
                sparse::copy(from, &to, &blockbox::store::Meter::default()).unwrap();
            }
        });
        drop(suspended);
        saved.unwrap();
        guest.session.thaw().unwrap();
        let length = fs::metadata(&state).unwrap().len();
        eprintln!(
            "saved {length} bytes; the guest stood still for {:?}",
            started.elapsed()
        );
        last_id
    };
    let mut input = counter.take_stdin().unwrap();
    say(&mut input, &mut counter, "source", "source 1\n");
    let last_id = save("copy");
    // The image, which was detached meanwhile, is attached again.
    let read = "echo 3 > /proc/sys/vm/drop_caches; /bin/busybox sha256sum /bin/busybox";
    let whole = guest.sh(read).stdout;
    assert!(whole.contains("/bin/busybox"), "{whole}");
    say(&mut input, &mut counter, "source", "source 2\n");

    let clone = clone_of(&source, &folder);
    let started = Instant::now();
    let vm = monitor().start(&clone).unwrap();
    let clones = vm.qmp().unwrap();
    clones
        .restore(&File::open(&state).unwrap(), PATIENCE)
        .unwrap();
    let mut adoption = Adoption::default();
    adoption.last_id = last_id;
    adoption.command = Some(RunningCommand {
        id: counter.control().id(),
        pid: counter.pid(),
        tty: false,
        stdin: true,
    });
    adoption.identity.hostname = "clone".to_owned();
    adoption.identity.machine_id = vec![0xcd; 16];
    let (session, exec) = Session::adopt(&vm, &adoption).unwrap();
    eprintln!("a clone is taken over after {:?}", started.elapsed());
    let mut exec = exec.unwrap();
    let mut clones_input = exec.take_stdin().unwrap();
    say(&mut clones_input, &mut exec, "clone", "clone 2\n");
    let clone = Guest {
        folder: tempfile::tempdir().unwrap(),
        vm,
        session,
    };
    let names = clone
        .sh("hostname; cat /etc/machine-id; echo clone > /who; sync")
        .stdout;
    assert_eq!(names, format!("clone\n{}\n", "cd".repeat(16)));
    assert_eq!(clone.sh(read).stdout, whole);
    drop(clones_input);
    assert_eq!(exec.wait().unwrap(), ExitStatus::Code(0));
    let Guest { vm, session, .. } = clone;
    session.shutdown(&vm, Duration::ZERO).unwrap();
    drop(vm);
    check_disk(&folder.join("upper.copy"));

    // A second time, and the source is unchanged.
    save("again");
    assert_eq!(guest.sh("hostname; ls /who").stdout, "testbox\n");
    say(&mut input, &mut counter, "source", "source 3\n");
    drop(input);
    drop(counter);
    // The copy is a clean file system.
    check_disk(&folder.join("upper.again"));
    guest.shut_down();
}

/// Writes a line to a command and waits for its answer.
fn say(input: &mut Stdin, exec: &mut Exec, line: &str, answer: &str) {
    writeln!(input, "{line}").unwrap();
    match exec.next_event().unwrap() {
        Event::Output { data, .. } => assert_eq!(String::from_utf8_lossy(&data), answer),
        other => panic!("{other:?}"),
    }
}

fn terminal() -> ExecSpec {
    let mut spec = shell("sleep 1000");
    spec.tty = Some(WindowSize { rows: 24, cols: 80 });
    spec
}

fn check_disk(disk: &Path) {
    let e2fsck = Command::new("e2fsck")
        .arg("-fn")
        .arg(disk)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&e2fsck.stdout);
    assert!(e2fsck.status.success(), "{text}");
}

fn clone_of(source: &VmConfig, folder: &Path) -> VmConfig {
    let mut clone = source.clone();
    clone.memory = MemoryBacking::CopyOf(folder.join("memory.copy"));
    clone.disks[1].path = folder.join("upper.copy");
    clone.incoming = true;
    clone
}
