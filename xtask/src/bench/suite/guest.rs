//! What runs in the guest of every contender.

use std::fmt::Write as _;

/// Where a guest has the folder with the program that measures.
pub(super) const BENCH: &str = "/bench";

/// Of a guest, in MiB.
pub(super) const MEMORY: u32 = 1024;

/// What of the workloads reads all that the others read of the image.
const READING: [&str; 3] = ["metadata-scan", "read-all", "traverse"];

/// For how long a sandbox may run, in seconds of its host's clock.
pub(super) const SECONDS: u32 = 100;

/// The last line of a script that was not ended.
pub(super) const DONE: &str = "done";

/// What a line of a guest's begins with that says where `/tmp` is.
pub(super) const TMP: &str = "tmp ";

/// A shell script for the guest: after `before`, runs the workloads on the system in the folder
/// `root`, which is nothing for the guest's own, and writes the report in one line.
pub(super) fn workloads(before: &str, root: &str) -> String {
    // On the writable disk: a shared folder would have to answer for it when the caches were
    // emptied, and what is in memory may not be executed everywhere.
    let mut script = format!(
        "cp {BENCH}/fsbench /.fsbench && chmod 755 /.fsbench || exit\n\
         {before}\
         case \"$(cat /proc/mounts)\" in\n\
         *' {root}/tmp tmpfs '*) echo {TMP}memory ;;\n\
         *) echo {TMP}disk ;;\n\
         esac\n\
         /.fsbench --rounds 1 --warm"
    );
    for name in READING {
        let _ = write!(script, " --only {name}");
    }
    // That was for the caches of the guest's host, where other guests of an image find its disk.
    script + &format!(" {root}/ >/dev/null || exit\nexec /.fsbench --rounds 1 --json {root}/\n")
}

/// A shell script for the guest's host, which runs `command` with the variables `environment` for
/// at most so many `seconds`, and ends in [`DONE`] unless it took longer.
pub(super) fn script(environment: &str, command: &str, seconds: u32) -> String {
    // GNU's timeout ends with status 124 then, that of busybox with that of the command.
    format!(
        "export {environment}\n\
         timeout {seconds} {command} </dev/null 2>/tmp/stderr.$$\n\
         status=$?\n\
         case $status in\n\
         0) ;;\n\
         124 | 143) exit ;;\n\
         *) echo \"ended with status $status\"; tail -n 20 /tmp/stderr.$$ ;;\n\
         esac\n\
         rm -f /tmp/stderr.$$\n\
         echo {DONE}\n"
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::shell;

    fn sh(arguments: &[&str]) -> String {
        shell::output(Command::new("/bin/sh").args(arguments)).expect("a shell")
    }

    #[test]
    fn script_has_the_variables_and_tells_how_a_command_that_fails_ended() {
        let text = script(
            "WHERE='a b'",
            "sh -c 'echo $WHERE; echo why >&2; exit 3'",
            100,
        );
        assert_eq!(sh(&["-c", &text]), "a b\nended with status 3\nwhy\ndone\n");
    }

    #[test]
    fn script_whose_command_does_not_end_does_not_say_that_it_is_done() {
        let text = script("A=b", "sleep 1000", 1);
        assert_eq!(sh(&["-c", &text]), "");
    }

    #[test]
    fn workloads_are_a_script_of_the_shell_wherever_the_system_is() {
        for (before, root) in [("", ""), ("mkdir -p /tree || exit\n", "/tree")] {
            let text = workloads(before, root);
            sh(&["-n", "-c", &text]);
            assert!(text.ends_with(&format!(" {root}/\n")), "{text}");
        }
    }
}
