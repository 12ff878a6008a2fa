//! PAX extended headers (POSIX.1-2001 `pax`, "pax Extended Header"), and the keywords that a layer
//! needs.

use crate::error::Problem;
use std::collections::BTreeMap;

/// A point in time: `secs` seconds since the epoch (negative before it) plus `nanos` nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    /// Whole seconds since 1970-01-01 00:00:00 UTC, rounded down.
    pub secs: i64,
    /// Nanoseconds after `secs`, below 1,000,000,000.
    pub nanos: u32,
}

const SCHILY: &[u8] = b"SCHILY.xattr.";
const LIBARCHIVE: &[u8] = b"LIBARCHIVE.xattr.";

/// The records that apply to one entry, or to all entries after them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pax {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Sparse format 0.0 repeats its keywords, so their order counts: offsets and lengths as they
    /// came.
    pub(crate) sparse: Vec<u8>,
}

impl Pax {
    /// Adds the records of an extended header.
    pub(crate) fn extend(&mut self, header: &[u8]) -> Result<(), Problem> {
        let mut at = 0;
        while at < header.len() {
            let record = record(&header[at..]).ok_or(Problem::Pax { at })?;
            at += record.len;
            let (key, value) = (record.key, record.value);
            // Go's archive/tar refuses NULs too: C strings cannot hold them, so readers would
            // differ.
            let text = matches!(key, b"path" | b"linkpath" | b"uname" | b"gname");
            if key.is_empty() || key.contains(&0) || (text && value.contains(&0)) {
                return Err(Problem::Pax {
                    at: at - record.len,
                });
            }
            if matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes") {
                if !self.sparse.is_empty() {
                    self.sparse.push(b',');
                }
                self.sparse.extend_from_slice(value);
            }
            self.records.insert(key.to_vec(), value.to_vec());
        }
        Ok(())
    }

    /// Whether there are no records.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns the records of `self`, overridden by those of `other`.
    pub(crate) fn overridden_by(&self, other: Self) -> Self {
        if self.records.is_empty() {
            return other;
        }
        let mut all = self.clone();
        all.records.extend(other.records);
        all.sparse = other.sparse;
        all
    }

    /// A record's value; an empty one deletes the record, so that the header's own field counts
    /// again.
    pub(crate) fn get(&self, key: &str) -> Option<&[u8]> {
        self.records
            .get(key.as_bytes())
            .map(Vec::as_slice)
            .filter(|value| !value.is_empty())
    }

    /// A decimal number.
    pub(crate) fn number(&self, key: &'static str) -> Result<Option<i128>, Problem> {
        self.get(key)
            .map(|value| decimal(value).ok_or(Problem::Number { field: key }))
            .transpose()
    }

    /// A time: decimal seconds with an optional fraction, negative before the epoch.
    pub(crate) fn time(&self, key: &'static str) -> Result<Option<Timestamp>, Problem> {
        self.get(key)
            .map(|value| time(value).ok_or(Problem::Number { field: key }))
            .transpose()
    }

    /// The extended attributes: raw under `SCHILY.xattr.NAME`, and base64 under
    /// `LIBARCHIVE.xattr.NAME` with a URL-encoded name, as bsdtar writes them side by side. The raw
    /// form comes first where both are there.
    pub(crate) fn xattrs(&self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Problem> {
        let mut found = BTreeMap::new();
        for (key, value) in &self.records {
            if let Some(name) = key.strip_prefix(LIBARCHIVE) {
                let bad = || Problem::PaxValue {
                    key: key.clone().into(),
                };
                let name = url_decoded(name).ok_or_else(bad)?;
                let value = base64_decoded(value).ok_or_else(bad)?;
                found.insert(name, value);
            }
        }
        for (key, value) in &self.records {
            if let Some(name) = key.strip_prefix(SCHILY) {
                found.insert(name.to_vec(), value.clone());
            }
        }
        Ok(found)
    }
}

struct Record<'a> {
    len: usize,
    key: &'a [u8],
    value: &'a [u8],
}

/// The record at the beginning of `rest`: its length in decimal, a space, `key=value`, a newline.
fn record(rest: &[u8]) -> Option<Record<'_>> {
    let space = rest.iter().take(20).position(|&byte| byte == b' ')?;
    let digits = &rest[..space];
    let len = usize::try_from(decimal(digits).filter(|_| digits[0] != b'-')?).ok()?;
    let body = rest.get(space + 1..len)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|&byte| byte == b'=')?;
    Some(Record {
        len,
        key: &body[..equals],
        value: &body[equals + 1..],
    })
}

/// A decimal number with an optional minus sign.
pub(crate) fn decimal(text: &[u8]) -> Option<i128> {
    let (digits, sign) = match text.strip_prefix(b"-") {
        Some(digits) => (digits, -1),
        None => (text, 1),
    };
    if digits.is_empty() {
        return None;
    }
    let value = digits.iter().try_fold(0_i128, |value, &digit| {
        let digit = digit.is_ascii_digit().then(|| digit - b'0')?;
        value.checked_mul(10)?.checked_add(digit.into())
    })?;
    Some(value * sign)
}

/// Digits after the ninth of the fraction are cut off.
fn time(text: &[u8]) -> Option<Timestamp> {
    let point = text.iter().position(|&byte| byte == b'.');
    let (whole, fraction) = match point {
        Some(point) => (&text[..point], &text[point + 1..]),
        None => (text, &b""[..]),
    };
    let negative = whole.starts_with(b"-");
    let secs = match whole {
        // ".5" and "-.5" are what printf-like writers may leave.
        b"" | b"-" if !fraction.is_empty() => 0,
        _ => decimal(whole)?,
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9).fold(0_i128, |nanos, at| {
        nanos * 10 + fraction.get(at).map_or(0, |digit| i128::from(digit - b'0'))
    });
    // i128 holds any i64 of seconds in nanoseconds.
    let secs = i64::try_from(secs).ok()?;
    let total = i128::from(secs) * 1_000_000_000 + if negative { -nanos } else { nanos };
    Some(Timestamp {
        secs: i64::try_from(total.div_euclid(1_000_000_000)).ok()?,
        nanos: u32::try_from(total.rem_euclid(1_000_000_000)).ok()?,
    })
}

/// `%41` as `A`.
fn url_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        decoded.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    Some(decoded)
}

/// Base64 in the standard alphabet; libarchive writes no padding, other writers do.
fn base64_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let end = text
        .iter()
        .rposition(|&byte| byte != b'=')
        .map_or(0, |at| at + 1);
    if text.len() - end > 2 {
        return None;
    }
    let mut decoded = Vec::with_capacity(end / 4 * 3 + 2);
    for group in text[..end].chunks(4) {
        if group.len() == 1 {
            return None;
        }
        let mut bits = 0_u32;
        for at in 0..4 {
            let digit = match group.get(at) {
                None => 0,
                Some(&digit @ b'A'..=b'Z') => digit - b'A',
                Some(&digit @ b'a'..=b'z') => digit - b'a' + 26,
                Some(&digit @ b'0'..=b'9') => digit - b'0' + 52,
                Some(b'+') => 62,
                Some(b'/') => 63,
                Some(_) => return None,
            };
            bits = bits << 6 | u32::from(digit);
        }
        // 2, 3, 4 digits hold 1, 2, 3 bytes.
        decoded.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_must_be_exactly_as_long_as_they_say() {
        let parse = |header: &[u8]| {
            let mut pax = Pax::default();
            pax.extend(header).map(|()| pax.records)
        };
        assert_eq!(parse(b"8 a=bcd\n").unwrap()[&b"a"[..]], b"bcd");
        // A value may hold newlines and equals signs.
        assert_eq!(parse(b"11 a=b\n=d\n\n").unwrap()[&b"a"[..]], b"b\n=d\n");
        for bad in [
            &b"8 a=bc\n"[..],
            b"9 a=bcd\n",
            b"7 a=bcd\n",
            b"8 a=bcd\0",
            b"0 a=bcd\n",
            b"-8 a=bcd\n",
            b"8a=bcd\n",
            b"8 abcd\n\n",
            b"6 =bc\n",
            b"99999999999999999999999 a=b\n",
            b"1 ",
            b" ",
            b"3 \n",
        ] {
            assert!(parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn times_keep_nanoseconds_before_and_after_the_epoch() {
        for (text, secs, nanos) in [
            ("0", 0, 0),
            ("1700000000.123456789", 1_700_000_000, 123_456_789),
            ("1.5", 1, 500_000_000),
            ("1.1234567899", 1, 123_456_789),
            ("-1", -1, 0),
            ("-1.25", -2, 750_000_000),
            ("-0.5", -1, 500_000_000),
            ("4294967296", 1 << 32, 0),
            ("1.", 1, 0),
        ] {
            assert_eq!(
                time(text.as_bytes()),
                Some(Timestamp { secs, nanos }),
                "{text}"
            );
        }
        for text in [
            "",
            "-",
            ".",
            "1e9",
            "1.x",
            "1.-5",
            "+1",
            " 1",
            "99999999999999999999",
        ] {
            assert_eq!(time(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn base64_is_decoded_with_and_without_padding() {
        for (text, decoded) in [
            ("", Some("")),
            ("Zg", Some("f")),
            ("Zg==", Some("f")),
            ("Zm8", Some("fo")),
            ("Zm9v", Some("foo")),
            ("Zm9vYg", Some("foob")),
            ("Z", None),
            ("Zm9vY", None),
            ("Zm 9v", None),
            ("Zg===", None),
        ] {
            assert_eq!(
                base64_decoded(text.as_bytes()).as_deref(),
                decoded.map(str::as_bytes),
                "{text}"
            );
        }
    }
}
