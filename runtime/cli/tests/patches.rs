//! `--patch`: changes to a sandbox's image before the boot, seen from inside.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use common::guest::Guest;
use serde_json::json;
use testkit::{TarBuilder, oracle};

/// An image whose `/lib` is a link, as in current distributions.
fn guest() -> Option<Guest> {
    let tar = TarBuilder::new()
        .dir("usr")
        .dir("usr/lib")
        .file("usr/lib/old", "old\n")
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr/lib")
        .symlink("loop", "loop")
        .symlink("dangling", "/nowhere/at/all")
        .dir("srv")
        .file("srv/a", "a\n")
        .symlink("srv/abs", "/usr/lib")
        .symlink("srv/up", "../usr/lib")
        .dir("srv/sub")
        .file("srv/sub/b", "b\n")
        .device("pipe", b'6', 0, 0);
    Guest::with_tars(json!({}), vec![tar.finish()])
}

fn is_clean(upper: &Path) {
    if let Some(mut e2fsck) = oracle("e2fsck") {
        let checked = e2fsck.arg("-fn").arg(upper).stdout(Stdio::null()).status();
        assert!(checked.unwrap().success(), "{}", upper.display());
    }
}

#[test]
fn every_verb_is_seen_from_inside_and_leaves_a_clean_disk() {
    let Some(guest) = guest() else { return };
    let host = tempfile::tempdir().unwrap();
    let path = |name: &str| host.path().join(name);
    fs::create_dir_all(path("tree/lib")).unwrap();
    fs::create_dir_all(path("tree/srv")).unwrap();
    fs::write(path("tree/lib/new"), "new\n").unwrap();
    fs::write(path("tree/srv/a"), "changed\n").unwrap();
    fs::hard_link(path("tree/srv/a"), path("tree/srv/c")).unwrap();
    // Links of the image below the target are relative to their own folders, not to the target.
    for (folder, file) in [("abs", "one"), ("up", "two")] {
        let folder = path("below").join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(file), file).unwrap();
    }
    fs::write(path("file"), "a file\n").unwrap();
    let tar = TarBuilder::new()
        .owner(1000, 2000)
        .file("lib/packed", "packed\n")
        .finish();
    fs::write(path("archive.tar"), tar).unwrap();
    fs::write(
        path("patches.toml"),
        "[[patch]]\nwrite = '/etc/key'\ntext = 'key'\nmode = '0640'\nowner = 'app:extra'\n\
         [[patch]]\ncopy = '/lib/'\nfrom = 'file'\nowner = 'app'\n",
    )
    .unwrap();
    let copy = |target: &str, name: &str| format!("copy:{target}={}", path(name).display());
    let patches = [
        "write:/etc/motd=patched\n".to_owned(),
        "append:/etc/group=late:x:77:\n".to_owned(),
        "write:/lib/written=w\n".to_owned(),
        "mkdir:/new/deep=0700".to_owned(),
        "chown:/new/deep=1234:late".to_owned(),
        "symlink:/new/link=../etc/motd".to_owned(),
        copy("/", "tree"),
        copy("/srv", "below"),
        copy("/new/", "file"),
        format!("extract:/={}", path("archive.tar").display()),
        "rm:/usr/lib/old".to_owned(),
        "rm:/srv/sub".to_owned(),
        "mkdir:/srv/sub".to_owned(),
        "chmod:/bin/busybox=0711".to_owned(),
        "chown:/abs/packed=app".to_owned(),
    ];
    let mut options = vec!["--name", "patched", "--patch-file"];
    let file = path("patches.toml");
    options.push(file.to_str().unwrap());
    for patch in &patches {
        options.extend(["--patch", patch]);
    }
    let script = "cat /etc/motd /new/link /lib/written /lib/new /srv/a /new/file /lib/packed /lib/file
        /bin/busybox tail -n1 /etc/group
        /bin/busybox stat -c '%n %a %u:%g' /etc/key /new/deep /bin/busybox /usr/lib/packed /lib/new /lib/file /etc/motd
        /bin/busybox readlink /lib; /bin/busybox ls -A /srv/sub | wc -l; cat /lib/old 2>/dev/null || echo gone
        /bin/busybox stat -c %h /srv/c; echo more >> /srv/c; cat /srv/a; /bin/busybox ls /usr/lib";
    let text = guest.script(&options, script);
    let expected = "patched\npatched\nw\nnew\nchanged\na file\npacked\na file\nlate:x:77:\n\
         /etc/key 640 1000:2000\n/new/deep 700 1234:77\n/bin/busybox 711 0:0\n/usr/lib/packed 644 1000:1000\n\
         /lib/new 644 0:0\n/lib/file 644 1000:1000\n/etc/motd 644 0:0\n\
         usr/lib\n0\ngone\n2\nchanged\nmore\nfile\nnew\none\npacked\ntwo\nwritten\n";
    assert_eq!(text, expected);
    is_clean(&guest.blockbox.home().join("sandboxes/patched/upper.ext4"));
}

#[test]
fn a_patch_that_does_not_apply_is_refused_by_its_name_and_leaves_nothing() {
    let Some(guest) = guest() else { return };
    for (patch, wanted) in [
        ("write:etc/x=1", "absolute path"),
        ("write:/srv/../x=1", "without `..`"),
        ("write:/nowhere/x=1", "there is no directory /nowhere"),
        ("write:/dangling=1", "there is no directory /nowhere"),
        ("write:/loop=1", "too many symbolic links"),
        ("write:/etc/motd/x=1", "/etc/motd is not a directory"),
        ("write:/srv=1", "it is a directory"),
        ("write:/pipe=1", "not a regular file"),
        ("append:/srv=1", "it is a directory"),
        ("append:/pipe=1", "not a regular file"),
        ("write:/proc/x=1", "its own /proc"),
        ("write:/etc/hosts=1", "its own /etc/hosts"),
        ("mkdir:/etc/motd", "something of this name"),
        ("mkdir:/etc/motd/x", "something of this name"),
        ("symlink:/srv=x", "something of this name"),
        ("rm:/nothing", "no such file"),
        ("rm:/", "root directory"),
        ("chmod:/nothing=644", "no such file"),
        ("chown:/srv=nobody", "unable to find user nobody"),
        ("chown:/srv=app:none", "unable to find group none"),
        ("copy:/srv/x=/no/such/file", "/no/such/file"),
        ("copy:/etc/motd=/usr/lib", "/etc/motd is not a directory"),
        ("copy:/srv/x=/dev/null", "neither a file nor a folder"),
        ("extract:/srv=/etc/passwd", "/etc/passwd"),
    ] {
        let error = guest.blockbox.fails([
            "create",
            "--pull",
            "never",
            "--patch",
            patch,
            &guest.image,
            "true",
        ]);
        assert!(error.contains(wanted), "{patch}: {error}");
        let (verb, rest) = patch.split_once(':').unwrap();
        let path = rest.split('=').next().unwrap();
        let named = error.contains(&format!("patch {verb} {path}"));
        assert!(
            named || error.contains(rest.rsplit('=').next().unwrap()),
            "{patch}: {error}"
        );
    }
    assert_eq!(guest.sandboxes(), 0);
}

/// Hundreds of patches in any order have the same result as the commands in a shell.
#[test]
fn patches_do_what_a_shell_does() {
    let Some(guest) = guest() else { return };
    let mut seed = 7_u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    let paths = [
        "/srv",
        "/srv/a",
        "/srv/sub",
        "/srv/sub/b",
        "/lib/old",
        "/abs/x",
        "/srv/x",
        "/srv/x/y",
    ];
    let mut accepted: Vec<String> = Vec::new();
    let mut script = String::from("cd /; PATH=/bin; b=/bin/busybox; rm() { $b rm -rf $1; }\n");
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("usr/lib", folder.path().join("lib")).unwrap();
    std::os::unix::fs::symlink("usr/lib", folder.path().join("abs")).unwrap();
    for dir in ["usr/lib", "srv/sub"] {
        fs::create_dir_all(folder.path().join(dir)).unwrap();
    }
    for (file, text) in [
        ("usr/lib/old", "old\n"),
        ("srv/a", "a\n"),
        ("srv/sub/b", "b\n"),
    ] {
        fs::write(folder.path().join(file), text).unwrap();
    }
    for number in 0..400 {
        let path = paths[random(paths.len() as u64) as usize];
        let at = folder.path().join(&path[1..]);
        // What a shell on the host does, if it succeeds.
        let patch = match random(5) {
            0 => fs::write(&at, format!("{number}\n")).map(|()| format!("write:{path}={number}\n")),
            1 => fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(&at)
                .and_then(|mut file| std::io::Write::write_all(&mut file, b"+\n"))
                .map(|()| format!("append:{path}=+\n")),
            2 => fs::create_dir_all(&at).map(|()| format!("mkdir:{path}")),
            3 => std::os::unix::fs::symlink("a", &at).map(|()| format!("symlink:{path}=a")),
            _ => fs::symlink_metadata(&at)
                .and_then(|found| match found.is_dir() {
                    true => fs::remove_dir_all(&at),
                    false => fs::remove_file(&at),
                })
                .map(|()| format!("rm:{path}")),
        };
        accepted.extend(patch);
    }
    let list = "for f in $($b find srv usr/lib | $b sort); do echo $f; \
         if [ -L $f ]; then $b readlink $f; elif [ -f $f ]; then cat $f; fi; done\n";
    script.push_str(list);
    let options: Vec<&str> = accepted
        .iter()
        .flat_map(|patch| ["--patch", patch])
        .collect();
    let mut options = options;
    options.extend(["--name", "shell"]);
    let text = guest.script(&options, &script);
    let Some(busybox) = oracle("busybox") else {
        return;
    };
    let busybox = busybox.get_program().to_owned();
    let here = format!("b={}\n{}", busybox.to_str().unwrap(), list);
    let output = std::process::Command::new("sh")
        .args(["-c", &here])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(accepted.len() > 100, "{}", accepted.len());
    assert_eq!(text, String::from_utf8(output.stdout).unwrap());
    is_clean(&guest.blockbox.home().join("sandboxes/shell/upper.ext4"));
}
