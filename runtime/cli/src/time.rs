//! Points in time, in readable form and in JSON.

use jiff::{Timestamp, ToSpan};

use super::duration::duration;

/// Formats a time in nanoseconds since the epoch as RFC 3339 in UTC.
pub(super) fn rfc3339(ns: u64) -> String {
    Timestamp::from_nanosecond(ns.into())
        .map_or_else(|_| ns.to_string(), |time| format!("{time:.9}"))
}

/// Parses a time in RFC 3339, in seconds since the epoch, or as a duration ago. Returns nanoseconds
/// since the epoch.
pub(super) fn since(text: &str) -> Result<u64, String> {
    let seconds = text.parse::<i64>().ok();
    let time = if let Some(time) = seconds.and_then(|s| Timestamp::from_second(s).ok()) {
        time
    } else if let Ok(ago) = duration(text) {
        let ago = i64::try_from(ago.as_nanos()).map_err(|_| format!("{text:?} is too long ago"))?;
        Timestamp::now()
            .checked_sub(ago.nanoseconds())
            .map_err(|e| e.to_string())?
    } else {
        text.parse::<Timestamp>()
            .map_err(|_| format!("{text:?} is neither a time in RFC 3339 nor a duration"))?
    };
    Ok(u64::try_from(time.as_nanosecond()).unwrap_or(0))
}

/// Returns the current time, in nanoseconds since the epoch.
pub(super) fn now() -> u64 {
    u64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(0)
}

/// Formats how long ago a time was, in one unit, as docker does.
pub(super) fn ago(ns: u64) -> String {
    let now = Timestamp::now().as_nanosecond();
    let seconds = u64::try_from((now - i128::from(ns)) / 1_000_000_000).unwrap_or(0);
    let (number, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_shown_in_rfc_3339() {
        let ns = since("2026-01-31T12:00:00.5Z").unwrap();
        assert_eq!(rfc3339(ns), "2026-01-31T12:00:00.500000000Z");
        assert_eq!(since("2026-01-31T13:00:00.5+01:00"), Ok(ns));
        assert_eq!(since("1577836800"), since("2020-01-01T00:00:00Z"));
        assert!(since("yesterday").is_err());
        let minute_ago = since("1m").unwrap();
        assert_eq!(ago(minute_ago), "1 minute");
    }
}
