//! Shared folders and files of the host, with docker's behaviour.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::process::Command;

use common::guest::{Guest, VIRTIOFSD, can_share, start, text, until};
use common::programs::Programs;
use serde_json::json;
use testkit::oracle;

/// Returns whether folders can be shared here, and reports a skipped test otherwise.
fn shares() -> bool {
    let can = can_share();
    if !can {
        testkit::skip(&format!("{VIRTIOFSD} is missing, or this is not root"));
    }
    can
}

/// File operations whose result a shell can see. `$b` is busybox, and the working directory is the
/// folder.
const OPERATIONS: &str = include_str!("common/operations.sh");

#[test]
fn operations_on_a_share_have_the_same_results_as_on_the_host() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    if !shares() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["work", "here"] {
        fs::create_dir(path(name)).unwrap();
    }
    let name = std::ffi::OsString::from_vec(b"not-\xff-utf-8".to_vec());
    fs::write(path("work").join(&name), "bytes\n").unwrap();
    fs::write(path("beside"), "a neighbour\n").unwrap();
    symlink("/etc/motd", path("work/absolute")).unwrap();
    symlink("../beside", path("work/climbs")).unwrap();
    symlink(path("beside"), path("work/host")).unwrap();

    let share = format!("{}:/work", path("work").display());
    // Links that point out of the folder are resolved in the guest.
    let links = "cd /work; cat absolute; cat climbs 2>/dev/null || echo none; cat host 2>/dev/null || echo none
        cat not-*; $b rm absolute climbs host not-*";
    let script = format!("b=/bin/busybox; umask 022; ( {links} ); cd /work; {OPERATIONS}");
    let output = guest.script(&["--rm", "-v", &share], &script);
    let (links, operations) = output.split_at("from the image\nnone\nnone\nbytes\n".len());
    assert_eq!(links, "from the image\nnone\nnone\nbytes\n");

    let busybox = oracle("busybox").unwrap().get_program().to_owned();
    let here = format!("b={}; umask 022; {OPERATIONS}", busybox.display());
    let expected = Command::new(&busybox)
        .args(["sh", "-c", &here])
        .current_dir(path("here"))
        .output()
        .unwrap();
    assert_eq!(operations, text(&expected.stdout));
    // Both folders are equal afterwards.
    let diff = Command::new("diff")
        .arg("-r")
        .args(["--exclude=fifo", "--no-dereference"])
        .args([path("work"), path("here")])
        .output()
        .unwrap();
    assert!(diff.status.success(), "{}", text(&diff.stdout));
}

/// Operations that a shell cannot test: extended attributes, mappings, locks of processes, many
/// files and names of any bytes.
const CALLS: &str = r#"
import errno, fcntl, mmap, os, sys
os.chdir(sys.argv[1])
def fails(call, *arguments):
    try:
        call(*arguments)
        return "went well"
    except OSError as error:
        return errno.errorcode[error.errno]
open("f", "w").write("text")
os.setxattr("f", "user.color", b"blue\0\xff")
os.setxattr("f", "user.large", b"x" * 3000)
print(os.getxattr("f", "user.color"), sorted(os.listxattr("f")), len(os.getxattr("f", "user.large")))
print(fails(os.setxattr, "f", "user.color", b"", os.XATTR_CREATE))
os.removexattr("f", "user.color")
print(fails(os.getxattr, "f", "user.color"))
with open("m", "w+b", buffering=0) as file:
    file.truncate(200_000)
    shared = mmap.mmap(file.fileno(), 0)
    shared[70_000:70_005] = b"store"
    print(os.pread(file.fileno(), 5, 70_000))
    os.pwrite(file.fileno(), b"write", 100_000)
    print(shared[100_000:100_005])
    private = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    private[0:3] = b"own"
    shared.flush()
print(open("m", "rb").read()[70_000:70_005], open("m", "rb").read(3))
with open("f", "r+") as file:
    fcntl.lockf(file, fcntl.LOCK_EX, 2, 0)
    sys.stdout.flush()
    if os.fork() == 0:
        with open("f", "r+") as other:
            print(fails(fcntl.lockf, other, fcntl.LOCK_EX | fcntl.LOCK_NB, 2, 1))
            print(fails(fcntl.lockf, other, fcntl.LOCK_EX | fcntl.LOCK_NB, 2, 2), flush=True)
        os._exit(0)
    os.wait()
os.mkdir("many")
for i in range(10_000):
    os.close(os.open(b"many/%d-\xff\n" % i, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
names = os.listdir(b"many")
print(len(names), len(set(names)), fails(os.rmdir, "many"))
for name in sorted(names)[:500]:
    os.rename(b"many/" + name, b"many/moved-" + name)
for name in sorted(names)[500:1_000]:
    os.unlink(b"many/" + name)
names = os.listdir(b"many")
print(len(names), len([name for name in names if name.startswith(b"moved-")]))
print(fails(os.open, "f", os.O_CREAT | os.O_EXCL), fails(os.mkdir, "x" * 256), fails(os.rename, "none", "f"))
with open("f", "a") as one, open("f", "a") as other:
    one.write("1"); one.flush(); other.write("2"); other.flush()
print(open("f").read())
"#;

const PYTHON: &str = "/usr/bin/python3.11";

#[test]
fn system_calls_on_a_share_have_the_same_results_as_on_the_host() {
    let programs = || {
        let python = Programs::default().program(PYTHON)?;
        python.folder("/usr/lib/python3.11")
    };
    let Some(programs) = programs() else { return };
    let Some(guest) = Guest::with_tars(json!({}), vec![programs.tar().finish()]) else {
        return;
    };
    if !shares() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["work", "here"] {
        fs::create_dir(path(name)).unwrap();
    }
    fs::write(path("work/calls.py"), CALLS).unwrap();
    fs::write(path("work/config"), "old\n").unwrap();
    let share = format!("{}:/work", path("work").display());
    let name = ["run", "-d", "--name", "calls", "-v", &share, &guest.image];
    guest
        .blockbox
        .ok(name.into_iter().chain(["--", "sleep", "600"]));
    let exec = ["exec", "calls", "--"];
    let script = exec.into_iter().chain([PYTHON, "/work/calls.py", "/work"]);
    let output = guest.blockbox.ok(script);
    let expected = Command::new(PYTHON)
        .arg(path("work/calls.py"))
        .arg(path("here"))
        .output();
    let expected = expected.unwrap();
    assert!(expected.status.success(), "{expected:?}");
    assert_eq!(output, text(&expected.stdout));

    // A file that is replaced on the host keeps its contents where it is open, and is the new one
    // by name.
    let script = "cd /work; exec 5< config; cat config; echo > ready
        while [ ! -e go ]; do sleep 0.1; done; cat <&5
        while ! /bin/busybox grep -q new config; do sleep 0.1; done; cat config";
    let reading = start(
        &guest.blockbox,
        &["exec", "calls", "--", "sh", "-c", script],
    );
    until("the guest has the file open", || {
        path("work/ready").exists().then_some(())
    });
    fs::write(path("work/next"), "new\n").unwrap();
    fs::rename(path("work/next"), path("work/config")).unwrap();
    fs::write(path("work/go"), "").unwrap();
    let read = reading.wait_with_output().unwrap();
    assert_eq!(
        text(&read.stdout),
        "old\nold\nnew\n",
        "{}",
        text(&read.stderr)
    );
    guest.blockbox.ok(["rm", "-f", "calls"]);
}

#[test]
fn a_read_only_share_and_a_single_file_show_nothing_else() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    if !shares() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("ro")).unwrap();
    fs::write(path("ro/file"), "readable\n").unwrap();
    fs::write(path("config"), "host\n").unwrap();
    fs::write(path("secret"), "secret\n").unwrap();
    // On another file system, so that it cannot be linked.
    let shared_memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let elsewhere = shared_memory.path().join("elsewhere");
    fs::write(&elsewhere, "elsewhere\n").unwrap();

    let mut child = guest.blockbox.command();
    child
        .current_dir(folder.path())
        .args(["run", "-d", "--name", "files"])
        .args(["-v", "./ro:/ro:ro", "-v", "./config:/etc/app/config"])
        .arg("--mount")
        .arg(format!(
            "type=bind,src={},dst=/x,readonly",
            elsewhere.display()
        ))
        .args([&guest.image, "--", "sleep", "600"]);
    let output = child.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));

    let exec = |script: &str| {
        guest
            .blockbox
            .ok(["exec", "files", "--", "sh", "-c", script])
    };
    let script = "cat /ro/file /etc/app/config /x; echo x > /ro/new && echo written
        /bin/busybox rm /ro/file && echo removed; echo x >> /x && echo written; echo guest >> /etc/app/config";
    assert_eq!(exec(script), "readable\nhost\nelsewhere\n");
    assert_eq!(fs::read_to_string(path("config")).unwrap(), "host\nguest\n");
    fs::write(path("config"), "changed\n").unwrap();
    // virtio-fs caches attributes briefly.
    until("the change in the guest", || {
        exec("cat /etc/app/config")
            .contains("changed")
            .then_some(())
    });
    // Root in the guest can mount the device again, and only finds the file.
    let script = "/bin/busybox mkdir -p /m; for tag in share0 share1 share2; do
        /bin/busybox mount -t virtiofs $tag /m && /bin/busybox ls -A /m /m/.. | /bin/busybox grep -c secret; /bin/busybox ls -A /m
        cat /m/../secret 2>/dev/null; /bin/busybox umount /m; done";
    let seen = exec(script);
    let lines: Vec<_> = seen.lines().collect();
    assert_eq!(lines.len(), 6, "{seen}");
    assert_eq!(
        lines.iter().filter(|line| **line == "0").count(),
        3,
        "{seen}"
    );
    assert_eq!(
        lines.iter().filter(|line| **line == "file").count(),
        3,
        "{seen}"
    );
    // Links and copies for the machine are removed with it.
    let shared = guest.blockbox.home().join("sandboxes/files/shared");
    assert!(shared.is_dir());
    guest.blockbox.ok(["stop", "-t", "0", "files"]);
    assert!(!shared.exists());
    guest.blockbox.ok(["rm", "-f", "files"]);
    assert_eq!(fs::read_to_string(path("config")).unwrap(), "changed\n");
}
