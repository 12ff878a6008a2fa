//! Contents of images that the guest must handle, or must not hide.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use blockbox::guest::{ExitStatus, GuestError};

use crate::guest::{Guest, outcome, shell};

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// An image with files of daemons that are not root: folders in `/run`, files in `/tmp`, and its
/// own files in `/etc`.
fn image_with_runtime_folders(root: &Path) {
    let daemon = root.join("run/daemon");
    fs::create_dir_all(&daemon).unwrap();
    set_mode(&root.join("run"), 0o751);
    set_mode(&daemon, 0o1775);
    chown(&daemon, Some(1000), Some(1001)).unwrap();
    fs::write(daemon.join("a"), "contents\n").unwrap();
    fs::hard_link(daemon.join("a"), daemon.join("b")).unwrap();
    symlink("daemon/a", root.join("run/link")).unwrap();
    fs::create_dir(root.join("var")).unwrap();
    symlink("/run", root.join("var/run")).unwrap();
    fs::create_dir(root.join("tmp")).unwrap();
    set_mode(&root.join("tmp"), 0o1777);
    // More than an eighth of the guest's memory.
    let large = fs::File::create(root.join("tmp/large")).unwrap();
    large.set_len(600 << 20).unwrap();

    fs::write(root.join("etc/hostname"), "stale\n").unwrap();
    fs::write(root.join("etc/hosts"), "10.0.0.1 stale\n").unwrap();
    symlink("../run/resolver/stub.conf", root.join("etc/resolv.conf")).unwrap();
}

#[test]
fn files_of_the_image_in_run_and_tmp_are_there() {
    let Some(guest) = Guest::boot_with(image_with_runtime_folders) else {
        return;
    };
    let found = guest.sh(
        "stat -c '%a %u %g' /run /run/daemon; cat /var/run/link; stat -c %h /run/daemon/b; \
         stat -c '%a %s' /tmp /tmp/large; awk '$2 == \"/run\" || $2 == \"/tmp\" { print $2, $3 }' /proc/mounts",
    );
    let expected = "751 0 0\n1775 1000 1001\ncontents\n2\n1777 3\n644 629145600\n/run tmpfs\n";
    let size_of_tmp = |line: &&str| !line.starts_with("1777 ");
    let lines = |text: &str| {
        text.lines()
            .filter(size_of_tmp)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(lines(&found.stdout), lines(expected), "{}", found.stderr);

    let mut spec =
        shell("umask 022; echo $$ > /run/daemon/pid; ls -l /run/daemon/pid | cut -d' ' -f1");
    spec.user = b"app".to_vec();
    assert_eq!(guest.run(&spec).stdout, "-rw-r--r--\n");

    // The sandbox's names, whatever the image contains, even through a dangling link.
    let names =
        guest.sh("cat /etc/hostname; tail -n 1 /etc/hosts; cat /run/resolver/stub.conf | wc -l");
    assert_eq!(
        names.stdout, "testbox\n127.0.1.1\ttestbox\n1\n",
        "{}",
        names.stderr
    );
    guest.shut_down();
}

#[test]
fn files_of_the_image_that_never_end_are_not_read() {
    let prepare = |root: &Path| {
        for name in ["passwd", "group", "hosts"] {
            let path = root.join("etc").join(name);
            // The image has no hosts.
            let _ = fs::remove_file(&path);
            let made = Command::new("mkfifo").arg(&path).status().unwrap();
            assert!(made.success());
        }
    };
    let Some(guest) = Guest::boot_with(prepare) else {
        return;
    };
    // Programs that look up names would wait for the fifo.
    let mut spec =
        shell("awk '/^[UG]id/ { print $2 }' /proc/self/status; [ -p /etc/hosts ] && echo fifo");
    spec.user = b"1234:5".to_vec();
    assert_eq!(
        guest.run(&spec),
        outcome(ExitStatus::Code(0), "1234\n5\nfifo\n", "")
    );
    spec.user = b"app".to_vec();
    match guest.session.exec(&spec) {
        Err(GuestError::SpawnFailed { code: 125, message }) => {
            assert!(
                message.contains("/etc/passwd: not a regular file"),
                "{message}"
            );
        }
        other => panic!("{other:?}"),
    }
    guest.shut_down();
}

#[test]
fn any_user_binds_low_ports_may_ping_and_opens_many_files() {
    let Some(guest) = Guest::boot() else { return };
    let mut spec = shell(
        "(timeout 5 nc -l -p 80 > /tmp/got) & sleep 1; echo low | timeout 3 nc 127.0.0.1 80; cat /tmp/got; \
         cat /proc/sys/net/ipv4/ping_group_range; ulimit -Sn; ulimit -Hn; \
         ping -c1 -W2 127.0.0.1 >/dev/null && ping -c1 -W2 localhost >/dev/null && echo pinged; \
         awk '/^Cap(Eff|Prm|Amb)/ { print $2 }' /proc/self/status",
    );
    spec.user = b"app".to_vec();
    assert_eq!(
        guest.run(&spec),
        outcome(
            ExitStatus::Code(0),
            "low\n0\t2147483647\n1048576\n1048576\npinged\n\
             0000000000002000\n0000000000002000\n0000000000002000\n",
            ""
        )
    );
    guest.shut_down();
}
