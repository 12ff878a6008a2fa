//! Sizes on the command line.

/// Parses a number of bytes with an optional suffix `K`, `M`, `G`, `T` (powers of 1024, as
/// docker's), which `iB` or `B` may follow.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let power = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        other => return Err(format!("unknown unit {other:?}: use K, M, G or T")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{digits:?} is not a whole number"))?;
    number
        .checked_mul(1 << (10 * power))
        .ok_or_else(|| "more than 16 EiB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn suffixes_are_powers_of_1024_in_any_case() {
        assert_eq!(size("512"), Ok(512));
        assert_eq!(size("16k"), Ok(16 << 10));
        assert_eq!(size("3M"), Ok(3 << 20));
        assert_eq!(size("4GiB"), Ok(4 << 30));
        assert_eq!(size("1tb"), Ok(1 << 40));
    }

    #[test]
    fn invalid_numbers_units_and_overflow_are_rejected() {
        for text in ["", "G", "-1", "1.5G", "12x", "99999999999T"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
