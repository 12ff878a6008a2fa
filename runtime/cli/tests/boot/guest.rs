//! A booted guest, and the disks it boots from.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use blockbox::guest::{
    self, Boot, Event, Exec, ExecSpec, ExitStatus, INIT_PATH, PRIVATE_DIR, Session, Stream,
    UPPER_DIR, WORK_DIR,
};
use blockbox::vmm::{Accel, Arch, Vm, VmConfig, Vmm, kernel};
use testkit::{made, oracle, skip};

pub(crate) const BOOT_TIME: Duration = Duration::from_secs(60);

/// A guest that accepts commands, with its disks.
pub(crate) struct Guest {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) vm: Vm,
    pub(crate) session: Session,
}

impl Guest {
    /// Boots busybox, or reports why that is impossible here.
    pub(crate) fn boot() -> Option<Self> {
        Self::boot_with(|_| ())
    }

    /// Boots busybox after `prepare` has changed the image's root.
    pub(crate) fn boot_with(prepare: impl FnOnce(&Path)) -> Option<Self> {
        Self::boot_as(prepare, &Boot::new("testbox"))
    }

    /// As [`boot_with`](Self::boot_with), with the settings in `boot`.
    pub(crate) fn boot_as(prepare: impl FnOnce(&Path), boot: &Boot) -> Option<Self> {
        Self::boot_machine(prepare, boot, |config, _| config)
    }

    /// As [`boot_as`](Self::boot_as), in a machine that `machine` makes from the usual one; it may
    /// use the folder.
    pub(crate) fn boot_machine(
        prepare: impl FnOnce(&Path),
        boot: &Boot,
        machine: impl FnOnce(VmConfig, &Path) -> VmConfig,
    ) -> Option<Self> {
        let kernel = guest_kernel()?;
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        busybox_root(&root)?;
        prepare(&root);
        let disk = read_only_disk(folder.path(), &root)?;
        let upper = folder.path().join("upper.ext4");
        writable_disk(&upper);

        let mut config = VmConfig::new(kernel, disk, upper);
        config.helper = Some(env!("CARGO_BIN_EXE_blockbox").into());
        let config = machine(config, folder.path());
        let started = Instant::now();
        let vm = monitor().start(&config).unwrap();
        let session = match Session::connect(&vm, boot, BOOT_TIME) {
            Ok(session) => session,
            Err(error) => panic!("{error}"),
        };
        eprintln!(
            "{}: init reported {:?} after start; {:?} of the guest's own time",
            vm.vmm(),
            started.elapsed(),
            session.boot_times().guest
        );
        Some(Guest {
            folder,
            vm,
            session,
        })
    }

    pub(crate) fn exec(&self, spec: &ExecSpec) -> Exec {
        self.session.exec(spec).unwrap()
    }

    pub(crate) fn sh(&self, script: &str) -> Outcome {
        self.run(&shell(script))
    }

    pub(crate) fn run(&self, spec: &ExecSpec) -> Outcome {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let status = self.exec(spec).stream(&mut stdout, &mut stderr).unwrap();
        Outcome {
            status,
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }

    pub(crate) fn upper(&self) -> PathBuf {
        self.folder.path().join("upper.ext4")
    }

    /// Shuts down and checks the writable disk with e2fsck.
    pub(crate) fn shut_down(self) {
        let upper = self.upper();
        let Guest {
            folder,
            vm,
            session,
        } = self;
        session.shutdown(&vm, Duration::ZERO).unwrap();
        drop(vm);
        let needs_recovery = journal_needs_recovery(&upper);
        assert!(!needs_recovery, "the journal has something to replay");
        if let Some(mut e2fsck) = oracle("e2fsck") {
            let output = e2fsck.arg("-fn").arg(&upper).output().unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stdout)
            );
        }
        drop(folder);
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn outcome(status: ExitStatus, stdout: &str, stderr: &str) -> Outcome {
    Outcome {
        status,
        stdout: stdout.to_owned(),
        stderr: stderr.to_owned(),
    }
}

pub(crate) fn shell(script: &str) -> ExecSpec {
    command(&["sh", "-c", script])
}

pub(crate) fn command(args: &[&str]) -> ExecSpec {
    ExecSpec::new(args.iter().copied())
}

/// Reads a terminal's output until it ends with `end`.
pub(crate) fn read_until(exec: &mut Exec, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        match exec.next_event().unwrap() {
            Event::Output {
                stream: Stream::Stdout,
                data,
            } => {
                text.push_str(&String::from_utf8(data).unwrap());
            }
            other => panic!("{other:?} after {text:?}"),
        }
    }
    text
}

pub(crate) fn monitor() -> Vmm {
    match std::env::var("BLOCKBOX_TEST_VMM").as_deref() {
        Ok("libkrun") => Vmm::Libkrun,
        _ => Vmm::Qemu { accel: Accel::Tcg },
    }
}

pub(crate) fn guest_kernel() -> Option<PathBuf> {
    if monitor() != Vmm::Libkrun {
        oracle(&format!("qemu-system-{}", std::env::consts::ARCH))?;
    }
    let library = made("kernel/libkrunfw.so.5");
    let library = library.exists().then_some(library);
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let found = {
        let cache = scratch.join("kernels");
        kernel::locate(library.as_deref(), scratch, &cache, Arch::HOST)
    };
    match found {
        Ok(kernel) => Some(kernel),
        Err(error) => {
            skip(&error.to_string());
            None
        }
    }
}

fn busybox_root(root: &Path) -> Option<()> {
    let busybox = Path::new("/bin/busybox");
    if !busybox.is_file() {
        skip("busybox-static is not installed");
        return None;
    }
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    let applets = Command::new(busybox).arg("--list").output().unwrap();
    for applet in String::from_utf8(applets.stdout).unwrap().lines() {
        if applet != "busybox" {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n",
    )
    .unwrap();
    fs::write(
        root.join("etc/group"),
        "root:x:0:\napp:x:1001:\nextra:x:2000:app\n",
    )
    .unwrap();
    fs::write(root.join("etc/from-image"), "image\n").unwrap();
    fs::write(root.join("etc/not-executable"), "#!/bin/sh\n").unwrap();
    Some(())
}

fn read_only_disk(folder: &Path, root: &Path) -> Option<PathBuf> {
    let image = folder.join("image.erofs");
    let output = oracle("mkfs.erofs")?
        .arg("-Enoinline_data")
        .arg(&image)
        .arg(root)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let size = fs::metadata(&image).unwrap().len();
    let descriptor = vmdk::Descriptor::flat(&[("image.erofs", size)]).unwrap();
    let disk = folder.join("disk.vmdk");
    fs::write(&disk, descriptor.to_string()).unwrap();
    Some(disk)
}

pub(crate) fn writable_disk(path: &Path) {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .unwrap();
    let options = ext4_writer::Options::new(256 << 20);
    let mut disk = ext4_writer::Builder::new(file, options).unwrap();
    let ours = ext4_writer::Metadata::new(0o755);
    let root = disk.root();
    for dir in [PRIVATE_DIR, UPPER_DIR, WORK_DIR] {
        disk.add_dir(root, dir.trim_start_matches('/').as_bytes(), ours.clone())
            .unwrap();
    }
    let (private, init) = disk.make_parents(INIT_PATH.as_bytes(), &ours).unwrap();
    let program = guest::init(Arch::HOST).unwrap();
    let size = Some(program.len() as u64);
    disk.add_file(private, init, ours, program, size).unwrap();
    disk.finish().unwrap();
}

/// Whether `s_feature_incompat` has `EXT4_FEATURE_INCOMPAT_RECOVER`.
pub(crate) fn journal_needs_recovery(upper: &Path) -> bool {
    let mut start = [0; 2048];
    File::open(upper).unwrap().read_exact(&mut start).unwrap();
    let incompat = u32::from_le_bytes(start[1024 + 0x60..1024 + 0x64].try_into().unwrap());
    incompat & 0x4 != 0
}
