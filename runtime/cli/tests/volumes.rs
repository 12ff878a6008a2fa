//! Shared folders, named volumes, other images and secrets, as docker's users know them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::guest::{Guest, start, text, until};
use common::programs::Programs;
use serde_json::{Value, json};
use testkit::{TarBuilder, oracle};

/// Where Debian 12 has it; other systems name theirs.
const VIRTIOFSD: &str = "/usr/lib/qemu/virtiofsd";

/// Whether folders can be shared here; a test that is not run says so.
fn shares() -> bool {
    let found = Path::new(VIRTIOFSD).is_file() || std::env::var_os("BLOCKBOX_VIRTIOFSD").is_some();
    let root = rustix::process::geteuid().is_root();
    if !(found && root) {
        assert!(std::env::var_os("CI").is_none(), "virtiofsd cannot run");
        eprintln!("skipped: {VIRTIOFSD} is missing, or this is not root");
    }
    found && root
}

fn is_clean(disk: &Path) {
    if let Some(mut e2fsck) = oracle("e2fsck") {
        let checked = e2fsck.arg("-fn").arg(disk).stdout(Stdio::null()).status();
        assert!(checked.unwrap().success(), "{}", disk.display());
    }
}

/// File operations whose outcome a shell sees. `$b` is busybox, and the working directory the folder.
const OPERATIONS: &str = r#"
say() { echo "$1: $?"; }
echo one > a; say write; echo two >> a; cat a
$b mv a b; say rename; $b cat a 2>/dev/null; say gone
$b ln b c; say link; $b stat -c '%h %s' b; echo three >> c; cat b; $b rm b; $b stat -c %h c
$b ln -s c soft; cat soft; $b readlink soft; $b ln -s nowhere dangling; cat dangling 2>/dev/null; say dangling
$b mkdir -p d/e/f; say mkdir; $b rmdir d 2>/dev/null; say notempty; echo x > d/e/f/x; $b mv d moved; cat moved/e/f/x
$b mkfifo fifo; $b stat -c %F fifo
$b chmod 640 c; $b stat -c %a c; $b chmod 4755 c; $b stat -c %a c
$b touch -d '2001-02-03 04:05:06' c; $b stat -c %Y c
$b dd if=/dev/zero of=sparse bs=1 count=1 seek=1048575 2>/dev/null; $b stat -c %s sparse; $b truncate -s 10 sparse; $b wc -c < sparse
$b flock -n c echo locked; ( $b flock -n 9 || echo no; $b flock -n c echo second || echo held ) 9< c
i=0; while [ $i -lt 300 ]; do echo $i > many.$i; i=$((i+1)); done; $b ls | $b grep -c many
$b rm many.*; say rm; $b ls | $b grep -c many
exec 5<> open; echo kept >&5; $b rm open; echo more >&5; $b ls open 2>/dev/null; say unlinked; exec 5>&-
set -o noclobber; echo x > c 2>/dev/null; say exclusive
$b find . | $b sort
"#;

#[test]
fn operations_on_a_share_end_as_they_do_on_the_host() {
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
    // Links that point out are the guest's to follow.
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
    // And both folders are alike afterwards.
    let diff = Command::new("diff")
        .arg("-r")
        .args(["--exclude=fifo", "--no-dereference"])
        .args([path("work"), path("here")])
        .output()
        .unwrap();
    assert!(diff.status.success(), "{}", text(&diff.stdout));
}

/// What a shell does not see: extended attributes, mappings, locks of processes, many files and names of any bytes.
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
fn calls_on_a_share_end_as_they_do_on_the_host() {
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

    // A file that is replaced on the host stays what it was where it is open, and is another by its name.
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
fn a_read_only_share_and_a_single_file_show_what_they_should_and_no_more() {
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
    // On a file system of its own: there can be no link to it.
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
    // virtio-fs keeps attributes for a moment.
    until("the change in the guest", || {
        exec("cat /etc/app/config")
            .contains("changed")
            .then_some(())
    });
    // Root in the guest can mount the device again, and finds the file alone.
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
    // What was linked and copied for the machine goes with it.
    let shared = guest.blockbox.home().join("sandboxes/files/shared");
    assert!(shared.is_dir());
    guest.blockbox.ok(["stop", "-t", "0", "files"]);
    assert!(!shared.exists());
    guest.blockbox.ok(["rm", "-f", "files"]);
    assert_eq!(fs::read_to_string(path("config")).unwrap(), "changed\n");
}

#[test]
fn what_cannot_be_mounted_is_refused_by_name_before_anything_is_made() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().display().to_string();
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
    for (options, wanted) in [
        (vec!["-v", "/no/such/folder:/x"], "/no/such/folder"),
        (
            vec!["-v", &format!("{at}/socket:/x")],
            "neither a folder nor a regular file",
        ),
        (vec!["-v", &format!("{at}:x")], "not an absolute path"),
        (vec!["-v", &format!("{at}:/x/../y")], "not an absolute path"),
        (vec!["-v", &format!("{at}:/")], "the root"),
        (vec!["-v", &format!("{at}:/proc")], "its own"),
        (
            vec!["-v", &format!("{at}:/x"), "-v", "v:/x"],
            "mounted there already",
        ),
        (vec!["-v", "bad+name:/x"], "cannot name a volume"),
        (
            vec!["--mount", "type=volume,src=v,dst=/x,volume-subpath=../y"],
            "subpath",
        ),
        (
            vec!["--mount", "type=image,src=no-such-image,dst=/x"],
            "no-such-image",
        ),
        (vec!["--secret", "a/b=/etc/passwd"], "cannot name a secret"),
    ] {
        let mut args = vec!["create", "--pull", "never"];
        args.extend(&options);
        args.extend([&*guest.image, "true"]);
        let error = guest.blockbox.fails(args);
        assert!(error.contains(wanted), "{options:?}: {error}");
    }
    assert_eq!(guest.sandboxes(), 0);
    assert_eq!(guest.blockbox.ok(["volume", "ls", "-q"]), "");

    // A server that is missing, by the package that has it.
    let share = format!("{at}:/x");
    let output = guest
        .blockbox
        .command()
        .env("BLOCKBOX_VIRTIOFSD", "/no/such/virtiofsd")
        .args([
            "run",
            "--rm",
            "--vmm",
            "qemu",
            "-v",
            &share,
            &guest.image,
            "true",
        ])
        .output()
        .unwrap();
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125));
    assert!(
        error.contains("virtiofsd") && error.contains("install"),
        "{error}"
    );

    // More devices than a machine has.
    let mounts: Vec<String> = (0..9).map(|i| format!("v{i}:/v{i}")).collect();
    let mut args = vec!["run", "--rm", "--vmm", "qemu"];
    for mount in &mounts {
        args.extend(["-v", mount]);
    }
    args.extend([&*guest.image, "true"]);
    let error = guest.blockbox.fails(args);
    assert!(error.contains("room for 6"), "{error}");
    assert_eq!(guest.sandboxes(), 0);
}

#[test]
fn a_volume_begins_with_the_images_files_and_outlives_its_sandboxes() {
    let tar = TarBuilder::new()
        .mode(0o750)
        .owner(1000, 1000)
        .dir("data")
        .mode(0o640)
        .file("data/seed", "seed\n");
    let Some(guest) = Guest::with_tars(json!({}), vec![tar.finish()]) else {
        return;
    };
    let blockbox = &guest.blockbox;
    let script = "cat /data/seed; /bin/busybox stat -c '%a %u' /data /data/seed; /bin/busybox ls -A /data; echo kept > /data/kept
        /bin/busybox ln /data/kept /data/link; /bin/busybox mkfifo /data/fifo";
    let seen = guest.script(&["--rm", "-v", "db:/data"], script);
    assert_eq!(seen, "seed\n750 1000\n640 1000\nseed\n");
    assert_eq!(blockbox.ok(["volume", "ls", "-q"]), "db\n");
    let disk = |name: &str| blockbox.home().join("volumes").join(name).join("data.ext4");
    is_clean(&disk("db"));

    // Another sandbox sees it, read-only where asked, in part where asked, and at an empty path.
    let seen = guest.script(
        &["--rm", "-v", "db:/other:ro"],
        "cat /other/kept; echo x > /other/new || echo denied",
    );
    assert_eq!(seen, "kept\ndenied\n");

    // Out and in again, as an archive that GNU tar reads, and as a disk.
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    blockbox.ok(["volume", "export", "db", "-o", &path("db.tar")]);
    let list = Command::new("tar")
        .args(["tvf", &path("db.tar")])
        .output()
        .unwrap();
    let list = text(&list.stdout);
    for wanted in ["1000/1000", "./", "seed", "link to kept", "prw"] {
        assert!(list.contains(wanted), "{list}");
    }
    blockbox.ok(["volume", "import", "copy", &path("db.tar"), "--size", "64M"]);
    blockbox.ok([
        "volume",
        "export",
        "db",
        "--kind",
        "ext4",
        "-o",
        &path("db.ext4"),
    ]);
    blockbox.ok([
        "volume",
        "import",
        "disk",
        "--kind",
        "ext4",
        &path("db.ext4"),
    ]);
    blockbox.ok(["volume", "grow", "copy", "--size", "1G"]);
    is_clean(&disk("copy"));
    let seen = guest.script(
        &["--name", "user", "-v", "copy:/copy", "-v", "disk:/disk"],
        "for d in /copy /disk; do cat $d/seed $d/link; /bin/busybox stat -c '%a %u %h' $d $d/kept; done; /bin/busybox df /copy | awk 'NR == 2 && $2 > 900000 { print \"large\" }'",
    );
    let one = "seed\nkept\n750 1000 2\n644 0 2\n";
    assert_eq!(seen, format!("{one}{one}large\n"));
    assert!(
        blockbox
            .fails(["volume", "import", "bad", "--kind", "ext4", "/etc/passwd"])
            .contains("/etc/passwd")
    );
    assert!(
        blockbox
            .fails(["volume", "create", "db"])
            .contains("already")
    );
    assert!(
        blockbox
            .fails(["volume", "rm", "copy"])
            .contains("\"user\"")
    );

    // What is removed in a volume goes back to the host.
    let script = "/bin/busybox dd if=/dev/urandom of=/v/big bs=1M count=24 2>/dev/null; /bin/busybox sync; /bin/busybox rm /v/big; /bin/busybox sync";
    guest.script(&["--rm", "-v", "trim:/v"], script);
    let info: Value = serde_json::from_str(&blockbox.ok(["volume", "inspect", "trim"])).unwrap();
    assert!(info[0]["allocated"].as_u64().unwrap() < 12 << 20, "{info}");

    let pruned = blockbox.ok(["volume", "prune", "--format", "{{.Name}}"]);
    assert_eq!(pruned, "db\ntrim\n");
    assert_eq!(blockbox.ok(["volume", "ls", "-q"]), "copy\ndisk\n");
    blockbox.ok(["gc"]);
    assert!(blockbox.ok(["df"]).contains("Volumes"));
    blockbox.ok(["rm", "user"]);
    blockbox.ok(["volume", "rm", "copy", "disk"]);
}

#[test]
fn a_volume_has_one_sandbox_at_a_time_and_survives_its_kill() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let blockbox = &guest.blockbox;
    let script = "echo whole > /v/whole; /bin/busybox sync; echo up
        i=0; while true; do echo $i > /v/f.$i; i=$((i+1)); done";
    let id = blockbox.ok([
        "run",
        "-d",
        "--name",
        "first",
        "-v",
        "v:/v",
        &guest.image,
        "--",
        "sh",
        "-c",
        script,
    ]);
    assert!(!id.is_empty());
    until("the writes", || {
        blockbox.ok(["logs", "first"]).contains("up").then_some(())
    });
    let refused = blockbox.fails(["run", "--rm", "-v", "v:/v", &guest.image, "--", "true"]);
    assert!(
        refused.contains("\"v\"") && refused.contains("\"first\""),
        "{refused}"
    );
    for command in [
        &["volume", "grow", "v", "--size", "32G"][..],
        &["volume", "rm", "v"],
    ] {
        assert!(blockbox.fails(command).contains("\"first\""));
    }

    let info: Value = serde_json::from_str(&blockbox.ok(["inspect", "first"])).unwrap();
    let monitor = info[0]["state"]["monitor_pid"].as_u64().unwrap();
    let killed = Command::new("kill")
        .args(["-9", &monitor.to_string()])
        .status();
    assert!(killed.unwrap().success());
    // Its journal is replayed, by the guest's kernel and by ours.
    let seen = guest.script(
        &["--rm", "-v", "v:/v"],
        "cat /v/whole; echo again > /v/again; cat /v/again",
    );
    assert_eq!(seen, "whole\nagain\n");
    is_clean(&blockbox.home().join("volumes/v/data.ext4"));
}

#[test]
fn another_image_is_mounted_read_only_and_kept() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let other = common::layout::Layout::new()
        .layer(
            &TarBuilder::new()
                .dir("models")
                .file("models/weights", "0.5\n")
                .finish(),
            common::layout::Compression::Gzip,
        )
        .finish();
    let name = other.reference();
    guest.blockbox.ok(["pull", "-q", &name]);
    let whole = format!("type=image,src={name},dst=/mnt/other");
    let part = format!("type=image,src={name},dst=/models,image-subpath=models");
    let script = "cat /mnt/other/models/weights /models/weights; echo x > /models/x || echo denied";
    let options = [
        "--name",
        "user",
        "--mount",
        &whole,
        "--mount",
        &part,
        "--tmpfs",
        "/scratch:size=1m",
    ];
    let script = format!("{script}; /bin/busybox df -m /scratch | awk 'NR == 2 {{ print $2 }}'");
    let seen = guest.script(&options, &script);
    assert_eq!(seen, "0.5\n0.5\ndenied\n1\n");
    assert!(guest.blockbox.fails(["rmi", &name]).contains("user"));
    guest.blockbox.ok(["image", "prune", "-a"]);
    guest.blockbox.ok(["start", "-a", "user"]);
}

/// Every file of a folder, and its bytes.
fn files(folder: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, found),
            false => found.push((path.clone(), fs::read(&path).unwrap_or_default())),
        }
    }
}

#[test]
fn a_secret_is_in_the_guest_and_nowhere_on_the_host() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let blockbox = &guest.blockbox;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    // Half of each is here, so that this program's own files are not found.
    let (from_file, from_env, from_input) = (
        "qX7-file-".to_owned() + "Zk91",
        "qX7-env-".to_owned() + "Zk92",
        "qX7-in-".to_owned() + "Zk93",
    );
    fs::write(&file, &from_file).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let secret = format!("file={}", file.display());
    let script = "cat /run/secrets/file /run/secrets/ENV /run/secrets/input; echo; /bin/busybox stat -c %a /run/secrets/file
        /bin/busybox grep -c ' /run/secrets tmpfs' /proc/mounts; echo x > /run/secrets/x || echo denied; sleep 600";
    let mut command = blockbox.command();
    command
        .env("ENV", &from_env)
        // All of the disk is searched.
        .args(["run", "-d", "--name", "s", "--upper-size", "64M"])
        .args([
            "--secret", &secret, "--secret", "ENV", "--secret", "input=-",
        ])
        .args([&*guest.image, "--", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), from_input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    // The script's own output is in the log: it is what the command wrote, and counted once.
    let logged = until("the output", || {
        let log = blockbox.ok(["logs", "s"]);
        log.contains("denied").then_some(log)
    });
    assert_eq!(
        logged,
        format!("{from_file}{from_env}{from_input}\n444\n1\ndenied\n")
    );
    let inspected = blockbox.ok(["inspect", "s"]);
    assert!(
        inspected.contains("\"ENV\"") && !inspected.contains("qX7"),
        "{inspected}"
    );
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        assert!(!text(&line).contains("qX7-"), "{}", text(&line));
    }
    blockbox.ok(["stop", "-t", "0", "s"]);
    let holding = || {
        let mut found = Vec::new();
        files(blockbox.home(), &mut found);
        found.retain(|(_, bytes)| bytes.windows(4).any(|part| part == b"qX7-"));
        found.into_iter().map(|(path, _)| path).collect::<Vec<_>>()
    };
    assert_eq!(holding(), [blockbox.home().join("sandboxes/s/log")]);

    // Every start needs them again.
    assert!(blockbox.fails(["start", "s"]).contains("\"ENV\""));
    let output = blockbox
        .command()
        .env("ENV", "new")
        .args([
            "start",
            "s",
            "--secret",
            "input=/etc/hostname",
            "--",
            "cat",
            "/run/secrets/ENV",
        ])
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout), "new", "{}", text(&output.stderr));
    let missing = blockbox.fails([
        "run",
        "--rm",
        "--secret",
        "x=/no/such/file",
        &guest.image,
        "true",
    ]);
    assert!(
        missing.contains("\"x\"") && missing.contains("/no/such/file"),
        "{missing}"
    );
}

#[test]
fn what_confines_the_machine_is_reported_and_can_be_off() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let confinement = |options: &[&str]| {
        let mut args = vec!["run", "--name", "c"];
        args.extend(options);
        args.extend([&*guest.image, "--", "sh", "-c", ":"]);
        guest.blockbox.ok(args);
        let said = guest
            .blockbox
            .ok(["inspect", "-f", "{{.State.Confinement}}", "c"]);
        guest.blockbox.ok(["rm", "c"]);
        said.trim().to_owned()
    };
    let said = confinement(&[]);
    assert!(said.contains("seccomp"), "{said}");
    assert!(guest.blockbox.ok(["doctor"]).contains(&said));
    assert_eq!(confinement(&["--no-confine"]), "none");
}

#[test]
fn a_disk_that_cannot_be_a_volume_of_that_size_leaves_none_behind() {
    let blockbox = common::Blockbox::without_kernel();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    for name in ["volume/data", "file"] {
        fs::create_dir_all(folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("file/data"), "no folder").unwrap();
    let create = |name: &str| {
        let (dir, disk) = (path(name), path(&format!("{name}.ext4")));
        let arguments = [
            "ext4", "create", "--size", "32M", "--dir", &dir, "-o", &disk,
        ];
        blockbox.ok(arguments);
        disk
    };
    let (disk, wrong) = (create("volume"), create("file"));
    let import = |disk: &str, size: &str| {
        let arguments = ["volume", "import", "v", "--kind", "ext4", disk];
        let size = ["--size", size];
        let arguments = arguments.into_iter().chain(size);
        arguments.map(str::to_owned).collect::<Vec<_>>()
    };
    let refused = blockbox.fails(import(&wrong, "64M"));
    assert!(refused.contains("not the disk of a volume"), "{refused}");
    blockbox.fails(import(&disk, "16M"));
    assert_eq!(blockbox.ok(["volume", "ls", "-q"]), "");
    // And nothing is in the way of the next try.
    blockbox.ok(import(&disk, "64M"));
    let info: Value = serde_json::from_str(&blockbox.ok(["volume", "inspect", "v"])).unwrap();
    assert_eq!(info[0]["size"], 64 << 20);
}
