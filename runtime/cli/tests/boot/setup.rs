//! Settings of the boot message that init applies.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, SystemTime};
use std::{fs, thread};

use blockbox::guest::{
    Address, Boot, ExitStatus, Folder, GuestError, Host, Mount, MountSource, Network, Secret,
    Session, Sysctl, Ulimit,
};
use blockbox::vmm::VmConfig;

use crate::guest::{BOOT_TIME, Guest, command, guest_kernel, monitor, shell};

const NOFILE: u32 = 7;
const TOKEN: &[u8] = b"of-no-disk-4711";

fn docker_folder(root: &Path) {
    let folder = root.join("var/lib/docker");
    fs::create_dir_all(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o710)).unwrap();
    fs::write(folder.join("seed"), "seed\n").unwrap();
    chown(folder.join("seed"), Some(5), Some(6)).unwrap();
}

#[test]
fn init_applies_the_settings_of_the_boot_message() {
    let mut boot = Boot::new("box.example.org");
    boot.leave_on_disk("/tmp");
    let disk = |path: &str| Mount::new(path, MountSource::SandboxDisk).copy_up(true);
    let memory = MountSource::Memory {
        size: 1 << 20,
        mode: 0o1770,
    };
    boot.mounts.extend([
        disk("/var/lib/docker"),
        disk("/new/folder").read_only(true),
        Mount::new("/scratch", memory).options("nr_inodes=100"),
    ]);
    for path in ["/data/volume", "/etc"] {
        let (path, mode) = (path.as_bytes().to_vec(), 0o755);
        boot.folders.push(Folder { path, mode });
    }
    boot.secrets = vec![Secret {
        name: b"token".to_vec(),
        data: TOKEN.to_vec(),
        mode: 0o440,
        uid: 0,
        gid: 1001,
    }];
    boot.hosts = vec![Host {
        address: [192, 0, 2, 9].into(),
        name: "db".to_owned(),
    }];
    boot.sysctls = vec![Sysctl {
        name: "net.core.somaxconn".to_owned(),
        value: "1234".to_owned(),
    }];
    boot.ulimits = vec![Ulimit {
        resource: NOFILE,
        soft: 100,
        hard: 200,
    }];
    boot.machine_id = vec![0xab; 16];
    let Some(guest) = Guest::boot_as(docker_folder, &boot) else {
        return;
    };
    assert_eq!(guest.session.warnings(), &[] as &[String]);

    for (script, expected) in [
        (
            "hostname; cat /etc/hostname",
            "box.example.org\nbox.example.org\n",
        ),
        (
            "grep -v ip6 /etc/hosts | tail -n 2",
            "192.0.2.9\tdb\n127.0.1.1\tbox.example.org box\n",
        ),
        ("cat /etc/machine-id", "abababababababababababababababab\n"),
        ("cat /proc/sys/net/core/somaxconn", "1234\n"),
        ("ulimit -Sn; ulimit -Hn", "100\n200\n"),
        (
            "stat -c %F /data/volume; stat -c %a /tmp; grep -c ' /tmp ' /proc/mounts",
            "directory\n1777\n0\n",
        ),
        (
            "stat -f -c %T /var/lib/docker; stat -c '%a %u %g' /var/lib/docker /var/lib/docker/seed",
            "ext2/ext3\n710 0 0\n644 5 6\n",
        ),
        ("touch /new/folder/x 2>&1 | grep -c Read-only", "1\n"),
        (
            "stat -c %a /scratch; stat -f -c '%T %b %S' /scratch",
            "1770\ntmpfs 256 4096\n",
        ),
        (
            "awk '$2 == \"/scratch\"' /proc/mounts | grep -c nr_inodes=100",
            "1\n",
        ),
        (
            "stat -c '%a %u %g' /run/secrets/token; cat /run/secrets/token",
            "440 0 1001\nof-no-disk-4711",
        ),
        ("rm /run/secrets/token 2>&1 | grep -c Read-only", "1\n"),
        (
            "echo more > /var/lib/docker/more; mkdir /var/lib/docker/overlay && echo made",
            "made\n",
        ),
    ] {
        let outcome = guest.sh(script);
        assert_eq!(outcome.stdout, expected, "{script}: {}", outcome.stderr);
    }
    // A command's own limits apply, within those that it may set.
    let mut spec = shell("ulimit -Sn; grep NoNewPrivs /proc/self/status; id -G");
    spec.ulimits = vec![Ulimit {
        resource: NOFILE,
        soft: 50,
        hard: 60,
    }];
    spec.user = b"app".to_vec();
    spec.groups = vec![b"4242".to_vec(), b"extra".to_vec()];
    spec.no_new_privileges = true;
    assert_eq!(
        guest.run(&spec).stdout,
        "50\nNoNewPrivs:\t1\n1001 2000 4242\n"
    );
    spec.groups = vec![b"nobodys".to_vec()];
    let refused = guest.session.exec(&spec);
    assert!(matches!(
        refused,
        Err(GuestError::SpawnFailed { code: 125, .. })
    ));

    // The folder of the disk is there at the next start, and the secret is not on any disk.
    let upper = guest.upper();
    let Guest {
        folder,
        vm,
        session,
    } = guest;
    session.shutdown(&vm, Duration::ZERO).unwrap();
    drop(vm);
    let bytes = fs::read(&upper).unwrap();
    assert!(!bytes.windows(TOKEN.len()).any(|window| window == TOKEN));
    drop(bytes);
    let mut config = VmConfig::new(
        guest_kernel().unwrap(),
        folder.path().join("disk.vmdk"),
        &upper,
    );
    config.helper = Some(env!("CARGO_BIN_EXE_blockbox").into());
    let mut boot = Boot::new("box");
    boot.mounts.push(disk("/var/lib/docker"));
    boot.read_only_root = true;
    let vm = monitor().start(&config).unwrap();
    let session = Session::connect(&vm, &boot, BOOT_TIME).unwrap();
    let guest = Guest {
        folder,
        vm,
        session,
    };
    let outcome = guest.sh(
        "ls /var/lib/docker; touch /x 2>&1 | grep -c Read-only; touch /run/x /tmp/x && echo ok",
    );
    assert_eq!(
        outcome.stdout, "more\noverlay\nseed\n1\nok\n",
        "{}",
        outcome.stderr
    );
    guest.shut_down();
}

#[test]
fn settings_that_cannot_be_applied_are_named() {
    let Some(kernel) = guest_kernel() else { return };
    let none = MountSource::Disk {
        serial: "nowhere".to_owned(),
        filesystem: "ext4".to_owned(),
        path: Vec::new(),
    };
    let sysctl = Sysctl {
        name: "kernel.no_such_setting".to_owned(),
        value: "1".to_owned(),
    };
    let secret = Secret {
        name: b"../escape".to_vec(),
        data: Vec::new(),
        mode: 0,
        uid: 0,
        gid: 0,
    };
    let mut boots = vec![Boot::new("box"); 3];
    boots[0].mounts.push(Mount::new("/data", none));
    boots[1].sysctls.push(sysctl);
    boots[2].secrets.push(secret);
    let Some(guest) = Guest::boot() else { return };
    let mut config = VmConfig::new(
        kernel,
        guest.folder.path().join("disk.vmdk"),
        guest.folder.path().join("other.ext4"),
    );
    config.helper = Some(env!("CARGO_BIN_EXE_blockbox").into());
    crate::guest::writable_disk(&config.disks[1].path);
    for (boot, named) in boots
        .iter()
        .zip(["nowhere", "kernel.no_such_setting", "../escape"])
    {
        let vm = monitor().start(&config).unwrap();
        match Session::connect(&vm, boot, BOOT_TIME) {
            Err(GuestError::SetupFailed { message }) => {
                assert!(message.contains(named), "{message}");
            }
            other => panic!("{named}: {other:?}"),
        }
        let _ = vm.wait_timeout(Duration::from_secs(20));
    }
    guest.shut_down();
}

#[test]
fn the_guests_clock_is_the_hosts() {
    let Some(guest) = Guest::boot() else { return };
    let clock = || -> f64 {
        let text = guest
            .sh("adjtimex | awk '/tv_sec/ { s = $2 } /tv_usec/ { printf \"%d.%06d\", s, $2 }'");
        text.stdout.trim().parse().unwrap()
    };
    let now = || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.unwrap().as_secs_f64()
    };
    let near = |what: &str| {
        let (before, guest, after) = (now(), clock(), now());
        assert!(
            (before - 0.5..after + 0.5).contains(&guest),
            "{what}: {before} {guest} {after}"
        );
    };
    near("at the start");
    // As after a pause of the guest, and of a host whose clock was wrong.
    for date in ["2020-01-01 00:00:00", "2037-01-01 00:00:00"] {
        assert_eq!(
            guest.sh(&format!("date -s '{date}'")).status,
            ExitStatus::Code(0)
        );
        guest.session.set_clock().unwrap();
        near(date);
    }
    thread::sleep(Duration::from_millis(10));
    guest.shut_down();
}

#[test]
fn a_network_without_a_device_is_named() {
    let Some(kernel) = guest_kernel() else { return };
    let Some(guest) = Guest::boot() else { return };
    let mut boot = Boot::new("box");
    let mut network = Network::default();
    network.addresses = vec![Address {
        ip: [192, 0, 2, 2].into(),
        prefix: 24,
    }];
    boot.network = Some(network);
    let upper = guest.folder.path().join("other.ext4");
    crate::guest::writable_disk(&upper);
    let mut config = VmConfig::new(kernel, guest.folder.path().join("disk.vmdk"), upper);
    config.helper = Some(env!("CARGO_BIN_EXE_blockbox").into());
    let vm = monitor().start(&config).unwrap();
    match Session::connect(&vm, &boot, BOOT_TIME) {
        Err(GuestError::SetupFailed { message }) => assert!(message.contains("eth0"), "{message}"),
        other => panic!("{other:?}"),
    }
    let outcome = guest.run(&command(&["true"]));
    assert_eq!(outcome.status, ExitStatus::Code(0));
    guest.shut_down();
}
