//! The scripts of a run: in the guest, and on the guest's host.

use std::fmt::Write as _;

/// The folder with the measuring program, in the guest.
pub(super) const BENCH: &str = "/bench";

/// The memory of a guest, in MiB.
pub(super) const MEMORY: u32 = 1024;

/// The workloads that read everything that the other workloads read of the image.
const READING: [&str; 3] = ["metadata-scan", "read-all", "traverse"];

/// The time limit of a run, in seconds of the clock of the guest's host.
pub(super) const SECONDS: u32 = 100;

/// The last line of a script that kept its time limit.
pub(super) const DONE: &str = "done";

/// The beginning of the line that says where the guest's `/tmp` is.
pub(super) const TMP: &str = "tmp ";

/// Returns a shell script for the guest. After `before`, it runs the workloads on the system in the
/// folder `root` (empty for the guest's own root), and prints the report in one line.
pub(super) fn workloads(before: &str, root: &str) -> String {
    // The program is copied to the writable disk. From a shared folder it would be read again after
    // the caches were emptied, and some guests mount tmpfs without permission to execute.
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
    // The first run fills the caches of the guest's host, as other guests of the image would have.
    script + &format!(" {root}/ >/dev/null || exit\nexec /.fsbench --rounds 1 --json {root}/\n")
}

/// Returns a shell script for the guest's host. It runs `command` with the variables `environment`
/// for at most `seconds`, and prints [`DONE`] last unless that time ran out.
pub(super) fn script(environment: &str, command: &str, seconds: u32) -> String {
    // After the time limit, GNU's timeout ends with status 124, and that of busybox with 143.
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
