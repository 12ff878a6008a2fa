//! The folder of a store: which folders can be one, and for whom.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::common::Blockbox;

#[test]
fn an_empty_variable_names_no_store() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Blockbox::new().command();
    let output = command
        .args(["volume", "create", "v"])
        .env("BLOCKBOX_HOME", "")
        .env("XDG_DATA_HOME", folder.path())
        .current_dir(&folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said, "");
    assert!(folder.path().join("blockbox/version").exists());
}

#[test]
fn a_folder_of_other_files_is_no_store_and_stays_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let thesis = dir.path().join("downloads/thesis.pdf");
    fs::create_dir(thesis.parent().unwrap()).unwrap();
    fs::write(&thesis, "x").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let blockbox = Blockbox::without_kernel();
    for command in [&["gc"][..], &["images"], &["image", "prune", "-a"]] {
        let home = ["--home", dir.path().to_str().unwrap()];
        let error = blockbox.fails(home.iter().chain(command));
        assert!(error.contains("not a store: it has downloads"), "{error}");
    }
    assert!(thesis.exists());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let mode = fs::metadata(dir.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o1777);
}

#[test]
fn commands_that_only_read_make_no_store() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("mistyped");
    let blockbox = Blockbox::without_kernel();
    let run = |command: &str| {
        let mut args = vec!["--home", home.to_str().unwrap()];
        args.extend(command.split(' '));
        blockbox.output(args)
    };
    for command in [
        "images",
        "ps -a",
        "df",
        "doctor",
        "volume ls",
        "snapshot ls",
        "kernel ls",
    ] {
        let output = run(command);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr, "", "{command}");
        assert!(!home.exists(), "{command}");
    }
    for command in [
        "inspect x",
        "image inspect x",
        "start x",
        "stop x",
        "rm x",
        "rm -f x",
        "logs x",
        "exec x true",
        "volume rm x",
        "snapshot rm x",
    ] {
        let output = run(command);
        let stderr = String::from_utf8_lossy(&output.stderr);
        // `rm -f` of a missing sandbox is not an error.
        assert_eq!(output.status.success(), command == "rm -f x", "{command}");
        assert!(!stderr.contains("os error"), "{command}: {stderr}");
        assert!(!home.exists(), "{command}");
    }
}

#[test]
fn root_changes_nothing_in_the_store_of_another_user() {
    let blockbox = Blockbox::without_kernel();
    blockbox.ok(["volume", "create", "v"]);
    // Only root can give files away, and only root is asked.
    let version = blockbox.home().join("version");
    if std::os::unix::fs::chown(version, Some(12_345), None).is_err() {
        testkit::skip("only root gives files to other users");
        return;
    }
    let before = blockbox.listing();
    for command in [&["volume", "create", "w"][..], &["ps"], &["gc"]] {
        let error = blockbox.fails(command);
        assert!(
            error.contains("belongs to the user with id 12345"),
            "{error}"
        );
        assert!(error.contains("sudo -u"), "{error}");
    }
    assert_eq!(blockbox.listing(), before);
}
