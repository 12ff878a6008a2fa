//! Evaluates the report of the script of checks.

use super::checks::Check;
use crate::test::Tally;

/// The outcome of one check.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    status: i32,
    seconds: u64,
    stdout: String,
    stderr: String,
}

/// Compares a report, line by line, with the expected results. A check without an outcome has
/// failed.
pub(super) fn judge<'a>(report: &str, checks: impl IntoIterator<Item = &'a Check>) -> Tally {
    let mut outcomes = report.lines().filter_map(outcome);
    let mut tally = Tally::default();
    for check in checks {
        if right(check, outcomes.next()) {
            tally.passed += 1;
        } else {
            tally.failed += 1;
        }
    }
    tally
}

fn right(check: &Check, outcome: Option<Outcome>) -> bool {
    let Some(outcome) = outcome else {
        println!("FAILED  {}: it never ran", check.rule);
        return false;
    };
    if outcome.status == check.status && outcome.stdout == check.stdout {
        println!("ok      {} ({} s)", check.rule, outcome.seconds);
        return true;
    }
    println!(
        "FAILED  {}\n  expected: status {}, {:?}\n  was:      status {}, {:?}\n  stderr:   {}",
        check.rule,
        check.status,
        check.stdout,
        outcome.status,
        outcome.stdout,
        outcome.stderr.trim_end().replace('\n', "\n            ")
    );
    false
}

/// Parses `check STATUS SECONDS xSTDOUT xSTDERR`, with the outputs in hexadecimal.
fn outcome(line: &str) -> Option<Outcome> {
    let mut words = line.trim().strip_prefix("check ")?.split(' ');
    Some(Outcome {
        status: words.next()?.parse().ok()?,
        seconds: words.next()?.parse().ok()?,
        stdout: text(words.next()?)?,
        stderr: text(words.next()?)?,
    })
}

fn text(word: &str) -> Option<String> {
    let digits = word.strip_prefix('x')?.as_bytes();
    let bytes: Option<Vec<u8>> = digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    Some(String::from_utf8_lossy(&bytes?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::super::checks::CHECKS;
    use super::*;

    #[test]
    fn outputs_are_read_from_hexadecimal() {
        let expected = Outcome {
            status: 3,
            seconds: 7,
            stdout: "a\n".to_owned(),
            stderr: String::new(),
        };
        assert_eq!(outcome("check 3 7 x610a x\r\n"), Some(expected));
        assert_eq!(outcome("done"), None);
    }

    #[test]
    fn a_check_that_never_ran_has_failed() {
        assert_eq!(judge("done\n", CHECKS).failed, CHECKS.len() as u64);
    }
}
