//! Sandboxes with another processor than the host's, which QEMU emulates.

use super::common::guest::{ARM64_KERNEL, Guest, text};

const PLATFORM: &str = "--platform=linux/arm64";

/// Returns what a command in a sandbox prints. It must succeed.
fn printed(guest: &Guest, name: &str, script: &str) -> String {
    let output = guest.exec(&[name, "sh", "-c", script]);
    assert!(output.status.success(), "{script}: {output:?}");
    text(&output.stdout)
}

#[test]
fn an_arm64_image_runs_on_an_x86_64_host_and_its_sandbox_keeps_its_files() {
    let Some(guest) = Guest::arm64() else { return };
    let blockbox = &guest.blockbox;
    let options = [PLATFORM, "--name", "far", "--forkable"];
    guest.detached(&options, &["sleep", "1000"]);
    assert_eq!(printed(&guest, "far", "uname -m"), "aarch64\n");
    let format = "{{.Machine.Arch}} {{.Image.Platform}} {{.State.Vmm}}";
    let shown = blockbox.ok(["inspect", "-f", format, "far"]);
    assert_eq!(shown, "arm64 linux/arm64 qemu (tcg)\n");

    // It goes on as a copy with its memory and its disk.
    printed(&guest, "far", "echo one > /file; echo two > /tmp/file");
    blockbox.ok(["fork", "--memory", "--name", "copy", "far"]);
    let script = "cat /file /tmp/file; uname -m";
    assert_eq!(printed(&guest, "copy", script), "one\ntwo\naarch64\n");

    blockbox.ok(["stop", "-t", "0", "copy", "far"]);
    // Nothing says again which processor it is.
    blockbox.ok(["start", "far"]);
    let script = "cat /file; uname -m";
    assert_eq!(printed(&guest, "far", script), "one\naarch64\n");
}

#[test]
fn what_emulation_lacks_is_named_before_a_pull_with_what_installs_it() {
    let Some(guest) = Guest::arm64() else { return };
    let blockbox = &guest.blockbox;
    let none = ["run", "--rm", PLATFORM, "127.0.0.1:9/none"];
    let said = blockbox.ok(["kernel", "ls", "--format", "{{.Arch}} {{.Used}}"]);
    assert!(said.contains("aarch64 true"), "{said}");

    let error = blockbox.fails([&none[..], &["--vmm=libkrun"]].concat());
    assert!(
        error.contains("another processor") && error.contains("`--vmm qemu`"),
        "{error}"
    );

    let folder = tempfile::tempdir().unwrap();
    let output = blockbox
        .command()
        .args(none)
        .env("PATH", folder.path())
        .output()
        .unwrap();
    let error = text(&output.stderr);
    assert!(error.contains("qemu-system-aarch64 not found"), "{error}");
    assert!(error.contains("package qemu-system-arm"), "{error}");

    let kernel = blockbox.home().join(ARM64_KERNEL);
    let moved = blockbox.home().join("kernel/moved");
    std::fs::rename(&kernel, &moved).unwrap();
    let install = ["kernel", "install", PLATFORM];
    let error = blockbox.fails(none);
    assert!(error.contains("no guest kernel for aarch64"), "{error}");
    assert!(
        error.contains(&format!(
            "`blockbox {}`",
            install.join(" ").replace('=', " ")
        )),
        "{error}"
    );
    let report = text(&blockbox.output(["doctor"]).stdout);
    assert!(
        report.contains("arm64      not emulated: no guest kernel for aarch64"),
        "{report}"
    );

    // A library of this host's processor is no substitute.
    let own = testkit::made("kernel/libkrunfw.so.5");
    let error = blockbox.fails([&install[..], &[own.to_str().unwrap()]].concat());
    assert!(
        error.contains("for x86_64 machines, not aarch64"),
        "{error}"
    );
    blockbox.ok([&install[..], &[moved.to_str().unwrap()]].concat());
    let report = text(&blockbox.output(["doctor"]).stdout);
    assert!(report.contains("arm64      emulated by"), "{report}");
    assert!(report.contains(kernel.to_str().unwrap()), "{report}");
}

#[test]
fn an_image_for_another_processor_is_refused_unless_the_command_line_asks_for_it() {
    let Some(guest) = Guest::arm64() else { return };
    let blockbox = &guest.blockbox;
    let id = blockbox.ok(["images", "-q"]);
    let id = id.trim().trim_start_matches("sha256:");
    for (name, pull) in [(id, "--pull=never"), (&guest.image, "--pull=missing")] {
        let error = blockbox.fails(["create", pull, name, "true"]);
        assert!(
            error.contains("`--platform linux/arm64`"),
            "{name}: {error}"
        );
    }
    assert_eq!(blockbox.ok(["ps", "-aq"]), "");
    blockbox.ok(["create", "--pull=never", PLATFORM, id, "true"]);
}
