//! Named volumes, other images, secrets and the machine's confinement, with docker's behaviour.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::guest::{Guest, can_share, text, until};
use serde_json::{Value, json};
use testkit::{TarBuilder, oracle};

fn is_clean(disk: &Path) {
    if let Some(mut e2fsck) = oracle("e2fsck") {
        let checked = e2fsck.arg("-fn").arg(disk).stdout(Stdio::null()).status();
        assert!(checked.unwrap().success(), "{}", disk.display());
    }
}

#[test]
fn mounts_that_cannot_work_are_rejected_by_name_before_anything_is_made() {
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

    // A missing server is reported with its package.
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

    // More devices than a machine supports.
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

    // Another sandbox sees it, read-only if requested, or a subfolder, or at another path.
    let seen = guest.script(
        &["--rm", "-v", "db:/other:ro"],
        "cat /other/kept; echo x > /other/new || echo denied",
    );
    assert_eq!(seen, "kept\ndenied\n");

    // Exported and imported as an archive that GNU tar reads, and as a disk.
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

    // Blocks of files removed in a volume are freed on the host.
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
    // Its journal is replayed, by the guest's kernel and by blockbox.
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

/// Collects every file of a folder, with its bytes.
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
    // Only half of each is here, so that this program's own files do not match.
    let (from_file, from_env, from_input) = (
        "qX7-file-".to_owned() + "Zk91",
        "qX7-env-".to_owned() + "Zk92",
        "qX7-in-".to_owned() + "Zk93",
    );
    fs::write(&file, &from_file).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let secret = format!("file={}", file.display());
    let host = tempfile::tempdir().unwrap();
    let shared = format!("{}:/share", host.path().display());
    let share: &[&str] = if can_share() { &["-v", &shared] } else { &[] };
    let script = "cat /run/secrets/file /run/secrets/ENV /run/secrets/input; echo; /bin/busybox stat -c %a /run/secrets/file
        /bin/busybox grep -c ' /run/secrets tmpfs' /proc/mounts; echo x > /run/secrets/x || echo denied; sleep 600";
    let mut command = blockbox.command();
    command
        .env("ENV", &from_env)
        // Not for this sandbox at all.
        .env("OTHER", "qX7-other")
        // The whole disk is searched.
        .args(["run", "-d", "--name", "s", "--upper-size", "64M"])
        .args([
            "--secret", &secret, "--secret", "ENV", "--secret", "input=-",
        ])
        .args(share)
        .args([&*guest.image, "--", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), from_input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    // The script's output is in the log, because the command wrote it; it is counted once.
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
        for file in ["cmdline", "environ"] {
            let bytes = fs::read(process.path().join(file)).unwrap_or_default();
            assert!(!text(&bytes).contains("qX7-"), "{file} {}", text(&bytes));
        }
    }
    let monitor = guest.state("s").unwrap()["monitor_pid"].as_u64().unwrap();
    let processes = children(monitor);
    // The machine, the gateway, and the server of the share.
    assert_eq!(processes.len(), 2 + share.len() / 2, "{processes:?}");
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
fn the_machines_confinement_is_reported_and_can_be_off() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    // What `inspect` reports, and what the kernel says of the machine's process.
    let confinement = |options: &[&str]| {
        // docker's option is accepted: there is always an init.
        let options = [&["--name", "c", "--init"], options].concat();
        guest.detached(&options, &["sleep", "600"]);
        let state = guest.state("c").unwrap();
        let said = state["confinement"].as_str().unwrap().to_owned();
        let monitor = state["monitor_pid"].as_u64().unwrap();
        let machine = children(monitor)
            .into_iter()
            .find(|child| {
                let line = fs::read(format!("/proc/{child}/cmdline")).unwrap();
                text(&line).contains("qemu-system-")
            })
            .unwrap();
        let status = fs::read_to_string(format!("/proc/{machine}/status")).unwrap();
        let kernel = ["Seccomp:", "NoNewPrivs:", "Seccomp_filters:"].map(|field| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            line.unwrap().trim().to_owned()
        });
        guest.blockbox.ok(["rm", "-f", "c"]);
        (said, kernel)
    };
    let (said, kernel) = confinement(&[]);
    assert!(said.contains("seccomp"), "{said}");
    assert_eq!(kernel[..2], ["2", "1"]);
    // Its own filter, and QEMU's, which denies executing programs.
    let filters: u32 = kernel[2].parse().unwrap();
    assert!(filters >= 2, "{filters}");
    assert!(guest.blockbox.ok(["doctor"]).contains(&said));
    let (said, kernel) = confinement(&["--no-confine"]);
    assert_eq!((&*said, kernel), ("none", ["0"; 3].map(str::to_owned)));
}

/// Returns the processes that a process has started.
fn children(process: u64) -> Vec<u64> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let of_task = |task: fs::DirEntry| fs::read_to_string(task.path().join("children"));
    let lists = tasks.flatten().filter_map(|task| of_task(task).ok());
    let lists: Vec<_> = lists.collect();
    let children = lists.iter().flat_map(|list| list.split_whitespace());
    children.map(|child| child.parse().unwrap()).collect()
}

#[test]
fn a_machine_with_too_many_devices_is_refused_before_a_volume_is_made() {
    let layout = common::layout::Layout::new()
        .layer(
            &TarBuilder::new().dir("etc").finish(),
            common::layout::Compression::None,
        )
        .finish();
    let blockbox = common::Blockbox::new();
    let image = layout.reference();
    let volumes: Vec<_> = (0..9).map(|i| format!("v{i}:/v{i}")).collect();
    let options = volumes.iter().flat_map(|volume| ["-v", volume]);
    for command in ["run", "create"] {
        let words = [command, "-q", "--name", "x"].into_iter();
        let words = words.chain(options.clone()).chain([&*image, "true"]);
        let error = blockbox.fails(words);
        assert!(error.contains("12"), "{error}");
        assert_eq!(blockbox.ok(["volume", "ls", "-q"]), "");
        assert_eq!(blockbox.ok(["ps", "-aq"]), "");
    }
    assert_eq!(
        blockbox.ok(["volume", "create", "--size", "64M", "own"]),
        "own\n"
    );
    let size = ["volume", "inspect", "-f", "{{.Size}}", "own"];
    assert_eq!(blockbox.ok(size), format!("{}\n", 64 << 20));
    blockbox.ok(["volume", "rm", "own"]);
    // One disk for all mounts of a volume.
    let folders: Vec<_> = (0..9).map(|i| format!("v:/v{i}")).collect();
    let options = folders.iter().flat_map(|volume| ["-v", volume]);
    let words = ["create", "-q", "--name", "x"].into_iter();
    blockbox.ok(words.chain(options).chain([&*image, "true"]));
    assert_eq!(blockbox.ok(["volume", "ls", "-q"]), "v\n");
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
    // The next attempt succeeds.
    blockbox.ok(import(&disk, "64M"));
    let info: Value = serde_json::from_str(&blockbox.ok(["volume", "inspect", "v"])).unwrap();
    assert_eq!(info[0]["size"], 64 << 20);
}
