//! Arguments and options of commands that boot nothing: docker's spellings, and what is refused.

use std::fs;
use std::path::Path;

use serde_json::Value;
use testkit::TarBuilder;

use crate::common::Blockbox;
use crate::common::layout::{Compression, Layout};
use crate::layout;

#[test]
fn no_message_repeats_a_password_of_the_command_line() {
    let blockbox = Blockbox::without_kernel();
    let with_password = "me:s3cr3t@h.example/a";
    for command in [
        &["pull", with_password][..],
        &["copy", with_password, "oci:x"],
        &["rmi", with_password],
        &["tag", with_password, "b"],
        &["inspect", "https://me:s3cr3t@h.example/a"],
    ] {
        let output = blockbox.output(command);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(!error.contains("s3cr3t"), "{command:?}: {error}");
        assert!(error.contains("h.example/a"), "{command:?}: {error}");
    }
}

#[test]
fn variables_without_a_name_and_relative_directories_are_refused() {
    let blockbox = Blockbox::without_kernel();
    for (option, value) in [("-e", "=x"), ("-e", ""), ("-w", "here"), ("-w", "")] {
        for command in ["run", "exec"] {
            let output = blockbox.output([command, option, value, "image", "true"]);
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(125), "{error}");
            assert!(error.contains("invalid value"), "{error}");
        }
    }
}

#[test]
fn dockers_spellings_and_exit_statuses_are_supported() {
    let tar = TarBuilder::new().file("file", "contents").finish();
    let image = Layout::new().layer(&tar, Compression::None).finish();
    let image = image.reference();
    let blockbox = Blockbox::new();
    let script = "echo a long command that no table shows as a whole";
    blockbox.ok(["create", "--name", "box", &image, "sh", "-c", script]);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("new"), "new").unwrap();
    let new = folder.path().join("new").display().to_string();
    blockbox.ok(["cp", &new, "box:/new"]);
    let value = |args: &[&str]| -> Value { serde_json::from_str(&blockbox.ok(args)).unwrap() };
    let id = &value(&["inspect", "box"])[0]["id"];
    let id = id.as_str().unwrap();
    let whole = blockbox.ok(["ps", "-a", "--no-trunc"]);
    assert!(whole.contains(id) && whole.contains(script), "{whole}");
    assert_eq!(blockbox.ok(["ps", "-aq", "--no-trunc"]).trim(), id);
    let shown = value(&["image", "inspect", &image, "--format", "json"]);
    for args in [
        &["inspect", &image][..],
        &["inspect", "--type", "image", &image],
    ] {
        assert_eq!(value(args)[0]["manifest_digest"], shown["manifest_digest"]);
    }
    blockbox.fails(["inspect", "--type", "image", "box"]);
    for (args, printed) in [
        (
            &[
                "ps",
                "-a",
                "--format",
                r"table {{.Name}}\t{{.ExitCode}}\t{{.Status}}",
            ][..],
            "NAME   EXIT CODE   STATUS\nbox                created\n",
        ),
        (
            &["ps", "--format", r"table {{.Name}}\t{{.Status}}"],
            "NAME   STATUS\n",
        ),
        (
            &["image", "history", "--format", "{{.Layer}}", &image],
            "0\n",
        ),
        (
            &["diff", "--format", "{{.Kind}}{{.Path}}", "box"],
            "A/new\n",
        ),
    ] {
        assert_eq!(blockbox.ok(args), printed, "{args:?}");
    }
    assert_eq!(value(&["inspect", "--type=container", "box"])[0]["id"], id);
    for (args, code) in [
        (&["kill", "-s", "FOO", "box"][..], 1),
        (&["stop", "-s", "FOO", "box"], 1),
        (&["start", "none"], 1),
        (&["attach", "none"], 1),
        (&["exec", "none", "true"], 125),
    ] {
        let output = blockbox.output(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}");
    }
    for (option, limit) in [
        ("--memory=100T", "1024 GiB at most"),
        ("--cpus=200", "at most"),
    ] {
        let error = blockbox.fails(["create", option, &image, "sh"]);
        assert!(error.contains(limit), "{error}");
    }
    let fork = blockbox.ok(["fork", "--hostname", "db.example", "box"]);
    assert_eq!(
        value(&["inspect", fork.trim()])[0]["hostname"],
        "db.example"
    );
    blockbox.ok(["rm", "-v", "box", fork.trim()]);
    assert!(blockbox.ok(["image", "ls"]).contains(&image));
    blockbox.ok(["image", "rm", &image]);
    assert!(!blockbox.ok(["image", "list"]).contains(&image));
}

#[test]
fn h_is_the_host_name_in_commands_that_make_a_sandbox_and_help_elsewhere() {
    let tar = TarBuilder::new().file("file", "contents").finish();
    let image = Layout::new().layer(&tar, Compression::None).finish();
    let image = image.reference();
    let blockbox = Blockbox::new();
    blockbox.ok(["create", "--name", "box", "-h", "web", &image, "sh"]);
    let format = "{{.Hostname}} {{.State.Running}} {{.CreatedAt}}";
    let inspected = blockbox.ok(["inspect", "box", "--format", format]);
    assert!(inspected.starts_with("web false 20"), "{inspected}");
    assert_eq!(
        blockbox.ok(["ps", "-a", "--format", "{{.Names}} {{.State}}"]),
        "box created\n"
    );
    for command in ["run", "create", "warm"] {
        let output = blockbox.output([command, "-h"]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("--hostname"), "{error}");
        assert!(!output.status.success());
        assert!(blockbox.ok([command, "--help"]).contains("Usage: "));
    }
    for command in ["ps", "exec", "start"] {
        assert!(blockbox.ok([command, "-h"]).contains("Usage: "));
    }
}

#[test]
fn a_sandbox_with_the_name_of_a_subcommand_of_export_is_exported_after_two_dashes() {
    let blockbox = Blockbox::new();
    let error = blockbox.fails(["export", "--", "containerd-cache"]);
    assert!(error.contains("no sandbox"), "{error}");
    let error = blockbox.fails(["export", "-o", "a.tar", "containerd-cache"]);
    assert!(error.contains("no sandbox"), "{error}");
    let error = blockbox.fails(["export", "help"]);
    assert!(error.contains("no sandbox"), "{error}");
    let output = blockbox.output(["export", "containerd-cache"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && error.contains("<DIR>"),
        "{error}"
    );
}

#[test]
fn a_layout_that_does_not_exist_is_named_as_such() {
    let blockbox = Blockbox::without_kernel();
    let error = blockbox.fails(["pull", "oci:nowhere"]);
    assert!(error.contains("nowhere: no such folder"), "{error}");
}

#[test]
fn a_file_that_is_no_kernel_is_rejected_when_the_sandbox_is_made() {
    if testkit::oracle("qemu-system-x86_64").is_none() {
        return;
    }
    let blockbox = Blockbox::without_kernel();
    let image = layout(2).reference();
    for command in ["create", "run"] {
        let words = [command, "--kernel", "/etc/passwd", &image, "--", "true"];
        let error = blockbox.fails(words);
        assert!(error.contains("/etc/passwd"), "{error}");
        assert!(error.contains("not a kernel"), "{error}");
    }
    assert_eq!(blockbox.ok(["ps", "-aq"]), "");
}

#[test]
fn the_last_of_an_option_that_is_given_twice_counts() {
    let blockbox = Blockbox::without_kernel();
    let twice = ["images", "--format", "table", "--format", "json"];
    assert_eq!(blockbox.ok(twice).trim(), "[]");
}

#[test]
fn a_new_sandbox_has_the_monitor_of_the_variable_unless_an_option_names_one() {
    if testkit::oracle("qemu-system-x86_64").is_none() {
        return;
    }
    let mut blockbox = Blockbox::new();
    let layout = layout(2);
    let image = layout.reference();
    blockbox.set("BLOCKBOX_VMM", Path::new("qemu"));
    for (name, options, monitor) in [("a", &[][..], "qemu"), ("b", &["--vmm", "auto"], "auto")] {
        let words = [&["create", "--name", name], options, &[&image, "true"]].concat();
        blockbox.ok(words);
        let spec = blockbox
            .home()
            .join("sandboxes")
            .join(name)
            .join("sandbox.json");
        let spec: Value = serde_json::from_slice(&fs::read(spec).unwrap()).unwrap();
        assert_eq!(spec["machine"]["vmm"], monitor, "{spec}");
    }
    blockbox.set("BLOCKBOX_VMM", Path::new("kvm"));
    let error = blockbox.fails(["create", &image, "true"]);
    assert!(error.contains("BLOCKBOX_VMM: kvm is none of"), "{error}");
}
