//! The generated completions and man pages.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

fn blockbox(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_blockbox"))
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn shells_complete_every_subcommand() {
    let help = blockbox(&["--help"]);
    let listed = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty());
    let commands: Vec<_> = listed
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.contains(&"run"), "{help}");
    for shell in ["bash", "zsh", "fish"] {
        let script = blockbox(&["completion", shell]);
        for command in &commands {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    // Bash itself completes a word.
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("completion");
    std::fs::write(&script, blockbox(&["completion", "bash"])).unwrap();
    let offered = "source \"$0\"; COMP_WORDS=(blockbox ren); COMP_CWORD=1; _blockbox blockbox ren blockbox; \
                   echo \"${COMPREPLY[*]}\"";
    let bash = Command::new("bash")
        .args(["-c", offered])
        .arg(&script)
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&bash.stdout),
        "rename\n",
        "{bash:?}"
    );
}

#[test]
fn man_pages_exist_for_the_command_and_its_subcommands() {
    let folder = tempfile::tempdir().unwrap();
    blockbox(&["man", folder.path().to_str().unwrap()]);
    for page in ["blockbox.1", "blockbox-run.1", "blockbox-erofs-build.1"] {
        let text = std::fs::read_to_string(folder.path().join(page)).unwrap();
        assert!(text.contains(".SH NAME"), "{page}");
    }
    let page = std::fs::read_to_string(folder.path().join("blockbox-run.1")).unwrap();
    assert!(page.contains("\\-\\-name"), "{page}");
}
