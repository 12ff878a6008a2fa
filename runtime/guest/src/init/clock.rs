//! The guest's clock, which follows the host's.

use rustix::io::Errno;
use rustix::time::{ClockId, Timespec};

use super::sys;

/// Differences from here on are stepped instead of slewed.
const STEP_NS: i128 = 1_000_000_000;

/// Smaller differences may be due to the delay of the request.
const IGNORED_NS: i128 = 5_000_000;

const SECOND_NS: u64 = 1_000_000_000;

/// Sets the clock to `realtime_ns`, nanoseconds since 1970.
pub(crate) fn set(realtime_ns: u64) -> Result<(), Errno> {
    let time = Timespec {
        tv_sec: i64::try_from(realtime_ns / SECOND_NS).map_err(|_| Errno::INVAL)?,
        tv_nsec: i64::try_from(realtime_ns % SECOND_NS).map_err(|_| Errno::INVAL)?,
    };
    rustix::time::clock_settime(ClockId::Realtime, time)
}

/// Sets the clock to `realtime_ns` if it is behind.
pub(crate) fn set_at_least(realtime_ns: u64) -> Result<(), Errno> {
    if now_ns() < i128::from(realtime_ns) {
        set(realtime_ns)?;
    }
    Ok(())
}

/// Adjusts the clock to `realtime_ns`: by a step if it is far off, as after a sleep of the host,
/// otherwise gradually, so that time never runs backwards for programs.
pub(crate) fn follow(realtime_ns: u64) -> std::io::Result<()> {
    match correction(now_ns(), realtime_ns) {
        Correction::None => Ok(()),
        Correction::Slew(microseconds) => sys::slew_clock(microseconds),
        Correction::Step => Ok(set(realtime_ns)?),
    }
}

fn now_ns() -> i128 {
    let now = rustix::time::clock_gettime(ClockId::Realtime);
    i128::from(now.tv_sec) * i128::from(SECOND_NS) + i128::from(now.tv_nsec)
}

#[derive(Debug, PartialEq, Eq)]
enum Correction {
    None,
    Slew(i64),
    Step,
}

fn correction(now_ns: i128, realtime_ns: u64) -> Correction {
    let behind = i128::from(realtime_ns) - now_ns;
    if behind.abs() < IGNORED_NS {
        Correction::None
    } else if behind.abs() >= STEP_NS {
        Correction::Step
    } else {
        i64::try_from(behind / 1000).map_or(Correction::Step, Correction::Slew)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_differences_are_slewed_and_large_ones_stepped() {
        let second: i128 = 1_000_000_000;
        for (ahead_ns, expected) in [
            (0, Correction::None),
            (4_000_000, Correction::None),
            (-20_000_000, Correction::Slew(-20_000)),
            (20_000_000, Correction::Slew(20_000)),
            (second, Correction::Step),
            (-3600 * second, Correction::Step),
        ] {
            let now = 1_700_000_000 * second;
            let host = u64::try_from(now + ahead_ns).expect("after 1970");
            assert_eq!(correction(now, host), expected, "{ahead_ns}");
        }
    }
}
