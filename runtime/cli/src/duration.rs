//! Durations on the command line.

use std::time::Duration;

/// Parses a number of seconds, or a number with a unit: `ms`, `s`, `m`, `h`, `d`; several of them
/// add up (`1h30m`).
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time: use seconds, or a number with s, m or h");
    let mut rest = text;
    let mut total = 0.0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let unit_len = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let seconds = match unit {
            "ms" => 0.001,
            "" | "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return Err(wrong()),
        };
        if unit.is_empty() && rest.len() != text.len() {
            return Err(wrong());
        }
        total += number * seconds;
        rest = after;
    }
    Duration::try_from_secs_f64(total).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::duration;
    use std::time::Duration;

    #[test]
    fn times_are_seconds_unless_they_have_units() {
        for (text, ms) in [
            ("10", 10_000),
            ("0.5", 500),
            ("250ms", 250),
            ("2m", 120_000),
            ("1h30m", 5_400_000),
            ("0", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "-1", "s", "1x", "1h30", "1e9", "."] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
