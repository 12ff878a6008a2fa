//! Sizes and counts on the command line.

use std::num::NonZeroU8;

/// Parses a number of bytes, with decimals if wanted, and an optional suffix `K`, `M`, `G`, `T`
/// (powers of 1024, as docker's), which `iB` or `B` may follow.
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
    let unit = 1_u64 << (10 * power);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let invalid = || format!("{digits:?} is not a number");
    if fraction.len() > MOST_DECIMALS || !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(invalid());
    }
    let whole: u64 = whole.parse().map_err(|_| invalid())?;
    let fraction: u64 = fraction.parse().map_err(|_| invalid())?;
    let decimals = digits.split_once('.').map_or(1, |(_, after)| after.len());
    // At most 2^40 times 10^6.
    let part = fraction * unit / 10_u64.pow(u32::try_from(decimals).unwrap_or(0));
    whole
        .checked_mul(unit)
        .and_then(|bytes| bytes.checked_add(part))
        .ok_or_else(|| "more than 16 EiB".to_owned())
}

/// The most digits after a point.
const MOST_DECIMALS: usize = 6;

/// The smallest and the largest size of a writable disk, in bytes. Most file systems of hosts have
/// no larger files.
const DISK_SIZES: std::ops::Range<u64> = 2 << 20..16 << 40;

/// Parses the size of a sandbox's writable disk, as [`size`].
pub(super) fn disk_size(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    match DISK_SIZES.contains(&bytes) {
        true => Ok(bytes),
        false => Err("a writable disk has at least 2M and less than 16T".to_owned()),
    }
}

/// The smallest and the largest size of a volume, in bytes: those of ext4 with blocks of 4 KiB and
/// the group descriptors that a volume has.
const VOLUME_SIZES: std::ops::Range<u64> = 2 << 20..64 << 40;

/// Parses the size of a volume, as [`size`].
pub(super) fn volume_size(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    match VOLUME_SIZES.contains(&bytes) {
        true => Ok(bytes),
        false => Err("a volume has at least 2M and less than 64T".to_owned()),
    }
}

/// Parses a number of CPUs. Fractions, which docker's `--cpus` takes, are rounded up: a machine has
/// whole CPUs.
pub(super) fn cpus(text: &str) -> Result<NonZeroU8, String> {
    let invalid = || format!("{text:?} is not a number of CPUs from 1 to 255");
    let whole = |text: &str| text.parse::<u8>().map_err(|_| invalid());
    let count = match text.split_once('.') {
        None => whole(text)?,
        Some((count, fraction)) => {
            if fraction.is_empty() || !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
                return Err(invalid());
            }
            let count = if count.is_empty() { 0 } else { whole(count)? };
            let more = u8::from(fraction.bytes().any(|digit| digit != b'0'));
            count.checked_add(more).ok_or_else(invalid)?
        }
    };
    NonZeroU8::new(count).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::{cpus, disk_size, size, volume_size};

    #[test]
    fn suffixes_are_powers_of_1024_in_any_case() {
        assert_eq!(size("512"), Ok(512));
        assert_eq!(size("16k"), Ok(16 << 10));
        assert_eq!(size("3M"), Ok(3 << 20));
        assert_eq!(size("4GiB"), Ok(4 << 30));
        assert_eq!(size("1tb"), Ok(1 << 40));
        assert_eq!(size("1.5G"), Ok(3 << 29));
        assert_eq!(size("0.25k"), Ok(256));
        assert_eq!(size("1.05M"), Ok(1_101_004));
    }

    #[test]
    fn fractions_of_cpus_are_rounded_up() {
        for (text, count) in [("1", 1), ("0.5", 1), (".5", 1), ("1.5", 2), ("2.0", 2)] {
            assert_eq!(cpus(text).map(u8::from), Ok(count), "{text}");
        }
        for text in ["0", "0.0", "-1", "x", "1.", ".", "256", "255.5", "1.x"] {
            assert!(cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_that_no_disk_can_have_are_rejected() {
        assert_eq!(disk_size("16M"), Ok(16 << 20));
        for text in ["0", "1", "1M", "16T", "99999T"] {
            assert!(disk_size(text).is_err(), "{text}");
        }
        assert_eq!(volume_size("63T"), Ok(63 << 40));
        for text in ["0", "1M", "64T", "18446744073709551615"] {
            assert!(volume_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn invalid_numbers_units_and_overflow_are_rejected() {
        for text in [
            "",
            "G",
            "-1",
            "1.G",
            ".5G",
            "1.-5G",
            "1.5.5",
            "12x",
            "99999999999T",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
