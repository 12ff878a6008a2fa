//! Machines that pause: for a full disk of the host, and to be saved and cloned.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use blockbox::guest::{Boot, ExitStatus};
use blockbox::store::sparse;
use blockbox::vmm::{MemoryBacking, SharedMemory, VmConfig, VmEvent, Vmm};
use testkit::skip;

use super::guest::{Guest, monitor, shell, writable_disk};

/// How long something may take in an emulated guest.
const PATIENCE: Duration = Duration::from_secs(60);

/// A file system in memory of a given size, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where this user may not mount.
    fn mount(path: &Path, mebibytes: u32) -> Option<Self> {
        fs::create_dir(path).unwrap();
        if !rustix::process::geteuid().is_root() {
            skip("mounting a small file system takes root");
            return None;
        }
        let disk = SmallDisk(path.to_owned());
        disk.mount_with(&["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "small"]);
        Some(disk)
    }

    fn grow(&self, mebibytes: u32) {
        self.mount_with(&["-o", &format!("remount,size={mebibytes}m")]);
    }

    fn mount_with(&self, args: &[&str]) {
        let mounted = Command::new("mount").args(args).arg(&self.0).status();
        assert!(mounted.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_host_disk_pauses_the_vm_until_there_is_room() {
    let mut small = None;
    let guest = Guest::boot_machine(
        |_| (),
        &Boot::new("testbox"),
        |mut config, folder| {
            let folder = folder.join("small");
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
    let upper = small.0.join("upper.ext4");
    if monitor() == Vmm::Libkrun {
        // It cannot pause: the guest gets an I/O error, and lives.
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
    // Without room it stays as it is, and says so once.
    assert!(events.recv_timeout(Duration::from_millis(2500)).is_err());

    small.grow(128);
    assert_eq!(events.recv_timeout(PATIENCE).unwrap(), VmEvent::Resumed);
    assert_eq!(write.wait().unwrap(), ExitStatus::Code(0));
    let big = guest
        .sh("stat -c %s /big; sync; echo 3 > /proc/sys/vm/drop_caches; tr -d '\\0' < /big | wc -c");
    assert_eq!(big.stdout, format!("{}\n0\n", 40 << 20));
    let Guest { vm, session, .. } = guest;
    session.shutdown(&vm, Duration::ZERO).unwrap();
    drop(vm);
    let e2fsck = Command::new("e2fsck").arg("-fn").arg(&upper).output();
    assert!(e2fsck.unwrap().status.success());
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
    let counter = guest.exec(&shell(
        "i=0; while true; do i=$((i+1)); echo $i > /count; sync; sleep 0.1; done",
    ));
    let folder = guest.folder.path().to_owned();
    let state = folder.join("state");
    let MemoryBacking::Shared(memory) = &source.memory else {
        panic!("{:?}", source.memory);
    };
    let started = Instant::now();
    let save = || {
        let file = File::create(&state).unwrap();
        guest.vm.save(&file, PATIENCE, || {
            let copy = File::create(folder.join("memory.copy")).unwrap();
            sparse::copy(memory.file(), &copy).unwrap();
            sparse::copy(
                &File::open(guest.upper()).unwrap(),
                &File::create(folder.join("upper.copy")).unwrap(),
            )
            .unwrap();
        })
    };
    save().unwrap();
    eprintln!(
        "saved {} bytes after {:?}",
        fs::metadata(&state).unwrap().len(),
        started.elapsed()
    );
    // The image, which was taken out meanwhile, is there again.
    let read = "echo 3 > /proc/sys/vm/drop_caches; /bin/busybox sha256sum /bin/busybox";
    let whole = guest.sh(read).stdout;
    assert!(whole.contains("/bin/busybox"), "{whole}");

    let upper = folder.join("upper.copy");
    let clone = clone_of(&source, &folder);
    let started = Instant::now();
    let vm = monitor().start(&clone).unwrap();
    let clones = vm.qmp().unwrap();
    clones
        .restore(&File::open(&state).unwrap(), PATIENCE)
        .unwrap();
    eprintln!("a clone runs after {:?}", started.elapsed());
    assert_eq!(clones.status().unwrap(), "running");
    // The loop of the source goes on in the clone, on the clone's disk.
    let before = fs::read(&upper).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while fs::read(&upper).unwrap() == before {
        assert!(Instant::now() < deadline, "{}", vm.console_tail());
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(vm);
    // Once more, and the source is as it was.
    save().unwrap();
    assert_eq!(guest.sh(read).stdout, whole);
    drop(counter);
    guest.shut_down();
}

fn clone_of(source: &VmConfig, folder: &Path) -> VmConfig {
    let mut clone = source.clone();
    clone.memory = MemoryBacking::CopyOf(folder.join("memory.copy"));
    clone.disks[1].path = folder.join("upper.copy");
    clone.incoming = true;
    clone
}
