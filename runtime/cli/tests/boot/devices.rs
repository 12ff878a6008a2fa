//! Machines with more than two disks.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use blockbox::guest::Boot;
use blockbox::vmm::{Arch, Disk, NetworkCard, Share};
use testkit::skip;

use super::guest::{Guest, monitor};

const MAC: [u8; 6] = [2, 0, 0, 0, 0x12, 0x34];

#[test]
fn further_disks_and_a_network_card_reach_the_guest() {
    let (mut segment, card) = UnixStream::pair().unwrap();
    let guest = Guest::boot_machine(
        |_| (),
        &Boot::new("testbox"),
        |config, folder| {
            for name in ["first", "second"] {
                let mut bytes = vec![0; 1 << 20];
                bytes[..name.len()].copy_from_slice(name.as_bytes());
                fs::write(folder.join(name), bytes).unwrap();
            }
            config
                .disk(Disk::raw("first", folder.join("first")))
                .disk(Disk::raw("second", folder.join("second")).read_only())
                .network(NetworkCard::new(card, MAC))
        },
    );
    let Some(guest) = guest else { return };
    let disks = guest.sh(
        "cd /sys/block; for d in vdc vdd; do echo $(cat $d/serial) $(cat $d/ro) $(head -c 6 /dev/$d | tr -d '\\0'); done",
    );
    assert_eq!(disks.stdout, "first 0 first\nsecond 1 second\n");
    guest.sh("echo -n changed | dd of=/dev/vdc conv=fsync 2>/dev/null");
    let first = fs::read(guest.folder.path().join("first")).unwrap();
    assert_eq!(&first[..7], b"changed");

    assert_eq!(
        guest.sh("cat /sys/class/net/eth0/address").stdout,
        "02:00:00:00:12:34\n"
    );
    guest.sh(
        "ip link set eth0 up; ip addr add 10.0.0.2/24 dev eth0; arping -c 1 -w 2 -I eth0 10.0.0.1",
    );
    segment
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    // The guest's kernel sends other frames, too, besides its ARP request for 10.0.0.1.
    loop {
        let mut length = [0; 4];
        segment.read_exact(&mut length).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        segment.read_exact(&mut frame).unwrap();
        assert_eq!(&frame[6..12], &MAC);
        if frame[12..14] == [0x08, 0x06] {
            assert_eq!(&frame[38..42], &[10, 0, 0, 1]);
            break;
        }
    }
    guest.shut_down();
}

#[test]
fn shares_show_the_hosts_folders() {
    let vmm = monitor();
    if !vmm.capabilities(Arch::HOST).shares {
        skip("there is no virtiofsd");
        return;
    }
    let guest = Guest::boot_machine(
        |_| (),
        &Boot::new("testbox"),
        |config, folder| {
            for name in ["rw,folder", "ro"] {
                fs::create_dir(folder.join(name)).unwrap();
                fs::write(folder.join(name).join("file"), "from the host\n").unwrap();
            }
            config
                .share(Share::new("rw", folder.join("rw,folder")))
                .share(Share::new("ro", folder.join("ro")).read_only())
        },
    );
    let Some(guest) = guest else { return };
    let mounted = guest.sh(
        "mkdir /rw /ro; mount -t virtiofs rw /rw && mount -t virtiofs ro /ro && cat /rw/file /ro/file",
    );
    assert_eq!(
        mounted.stdout, "from the host\nfrom the host\n",
        "{mounted:?}"
    );
    let wrote = guest.sh("echo from the guest > /rw/new; echo x > /ro/new");
    assert_ne!(wrote.stderr, "", "a read-only share was written to");
    let folder = guest.folder.path();
    let new = fs::read_to_string(folder.join("rw,folder/new")).unwrap();
    assert_eq!(new, "from the guest\n");
    assert!(!folder.join("ro/new").exists());
    guest.shut_down();
}

#[test]
fn signals_to_groups_do_not_reach_the_vm() {
    let Some(guest) = Guest::boot() else { return };
    let pid = guest.vm.process_id().unwrap();
    let group = |pid: u32| {
        let pid = rustix::process::Pid::from_raw(pid as i32);
        rustix::process::getpgid(pid).unwrap()
    };
    assert_ne!(group(pid), group(std::process::id()));
    // Not even if they are sent to its own process.
    for signal in ["HUP", "INT", "QUIT", "TERM", "TSTP"] {
        let sent = Command::new("kill")
            .args(["-s", signal, &pid.to_string()])
            .status();
        assert!(sent.unwrap().success());
    }
    assert_eq!(guest.sh("echo still there").stdout, "still there\n");
    guest.shut_down();
}
