//! ustar headers, and PAX records for values that do not fit in them.

use crate::pax::Timestamp;
use crate::source::BLOCK;

/// The fields of a header that differ between entries.
#[derive(Clone, Debug)]
pub struct Header<'a> {
    /// The path.
    pub path: &'a [u8],
    /// The target of a link.
    pub link: &'a [u8],
    /// The type (`typeflag`).
    pub kind: u8,
    /// The mode.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Bytes of the body.
    pub size: u64,
    /// The modification time.
    pub mtime: Timestamp,
    /// The major and the minor number of a device.
    pub device: (u32, u32),
}

/// Bytes that a header has for a name.
pub const NAME_BYTES: usize = field::NAME.end;

impl Header<'_> {
    /// The header, with a PAX header before it where `records` or the header's own fields need one.
    pub fn encode(&self, mut records: Records) -> Vec<u8> {
        let mut own = Records::default();
        if self.path.len() > field::NAME.len() {
            own.add(b"path", self.path);
        }
        if self.link.len() > field::LINKNAME.len() {
            own.add(b"linkpath", self.link);
        }
        for (key, value, width) in [
            (&b"uid"[..], u64::from(self.uid), field::UID.len()),
            (b"gid", u64::from(self.gid), field::GID.len()),
            (b"size", self.size, field::SIZE.len()),
        ] {
            if !fits(value, width) {
                own.add(key, value.to_string().as_bytes());
            }
        }
        let seconds = u64::try_from(self.mtime.secs).ok();
        let plain_time = seconds.filter(|&s| fits(s, field::MTIME.len()) && self.mtime.nanos == 0);
        if plain_time.is_none() {
            own.add(b"mtime", decimal_time(self.mtime).as_bytes());
        }
        own.0.append(&mut records.0);
        let mut out = Vec::new();
        if !own.0.is_empty() {
            let pax = Self {
                path: b"PaxHeaders/0",
                link: b"",
                kind: b'x',
                mode: 0o644,
                uid: 0,
                gid: 0,
                size: own.0.len() as u64,
                mtime: Timestamp { secs: 0, nanos: 0 },
                device: (0, 0),
            };
            out.extend_from_slice(&pax.block());
            out.extend_from_slice(&own.0);
            pad(&mut out);
        }
        out.extend_from_slice(&self.block());
        out
    }

    fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put = |field: std::ops::Range<usize>, bytes: &[u8]| {
            if let Some(field) = block.get_mut(field) {
                for (to, from) in field.iter_mut().zip(bytes) {
                    *to = *from;
                }
            }
        };
        put(field::NAME, self.path);
        put(field::LINKNAME, self.link);
        put(field::TYPE, &[self.kind]);
        put(field::MAGIC, b"ustar\x0000");
        for (field, value) in [
            (field::MODE, self.mode.into()),
            (field::UID, self.uid.into()),
            (field::GID, self.gid.into()),
            (field::SIZE, self.size),
            (field::MTIME, u64::try_from(self.mtime.secs).unwrap_or(0)),
            (field::MAJOR, self.device.0.into()),
            (field::MINOR, self.device.1.into()),
        ] {
            let digits = field.len().saturating_sub(1);
            // A value that does not fit has a PAX record, so any number can be written here.
            let value = if fits(value, field.len()) { value } else { 0 };
            put(field, format!("{value:0digits$o}").as_bytes());
        }
        put(field::CHECKSUM, b"        ");
        let sum: u32 = block
            .iter()
            .fold(0, |sum, &byte| sum.saturating_add(byte.into()));
        let sum = format!("{sum:06o}\0 ");
        if let Some(field) = block.get_mut(field::CHECKSUM) {
            field.copy_from_slice(sum.as_bytes());
        }
        block
    }
}

/// Where the fields of a ustar header are.
mod field {
    use std::ops::Range;

    pub(super) const NAME: Range<usize> = 0..100;
    pub(super) const MODE: Range<usize> = 100..108;
    pub(super) const UID: Range<usize> = 108..116;
    pub(super) const GID: Range<usize> = 116..124;
    pub(super) const SIZE: Range<usize> = 124..136;
    pub(super) const MTIME: Range<usize> = 136..148;
    pub(super) const CHECKSUM: Range<usize> = 148..156;
    pub(super) const TYPE: Range<usize> = 156..157;
    pub(super) const LINKNAME: Range<usize> = 157..257;
    pub(super) const MAGIC: Range<usize> = 257..265;
    pub(super) const MAJOR: Range<usize> = 329..337;
    pub(super) const MINOR: Range<usize> = 337..345;
}

/// Whether `value` has at most one octal digit less than a field of `width` bytes.
fn fits(value: u64, width: usize) -> bool {
    let bits = width.saturating_sub(1).saturating_mul(3);
    u32::try_from(bits).is_ok_and(|bits| value.checked_shr(bits).unwrap_or(0) == 0)
}

/// Zeros up to the next block.
pub fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

/// Seconds and nanoseconds as a decimal fraction, without zeros at its end.
fn decimal_time(time: Timestamp) -> String {
    // Nanoseconds count upwards from the second, also before 1970.
    let total = i128::from(time.secs)
        .saturating_mul(1_000_000_000)
        .saturating_add(time.nanos.into());
    let sign = if total < 0 { "-" } else { "" };
    let (whole, fraction) = (
        total.unsigned_abs().div_euclid(1_000_000_000),
        total.unsigned_abs().rem_euclid(1_000_000_000),
    );
    let text = format!("{sign}{whole}.{fraction:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// PAX records, encoded.
#[derive(Clone, Debug, Default)]
pub struct Records(Vec<u8>);

impl Records {
    /// Adds a record.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        // A space, an equals sign, a newline, and the length's own digits.
        let rest = key.len().saturating_add(value.len()).saturating_add(3);
        let mut length = rest.saturating_add(1);
        while rest.saturating_add(length.to_string().len()) != length {
            length = length.saturating_add(1);
        }
        for part in [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"] {
            self.0.extend_from_slice(part);
        }
    }

    /// The records of a sparse file, whose body begins with its map (GNU tar's format 1.0).
    pub fn add_sparse(&mut self, path: &[u8], size: u64) {
        self.add(b"GNU.sparse.major", b"1");
        self.add(b"GNU.sparse.minor", b"0");
        self.add(b"GNU.sparse.name", path);
        self.add(b"GNU.sparse.realsize", size.to_string().as_bytes());
    }

    /// An xattr: as `SCHILY.xattr`, or where its name has an equals sign as `LIBARCHIVE.xattr`,
    /// which can hold one.
    pub fn add_xattr(&mut self, name: &[u8], value: &[u8]) {
        if name.contains(&b'=') {
            let escaped = name.iter().flat_map(|&byte| match byte {
                b'=' | b'%' | b' ' => format!("%{byte:02X}").into_bytes(),
                _ => vec![byte],
            });
            let key: Vec<u8> = b"LIBARCHIVE.xattr."
                .iter()
                .copied()
                .chain(escaped)
                .collect();
            self.add(&key, base64(value).as_bytes());
        } else {
            self.add(&[b"SCHILY.xattr.", name].concat(), value);
        }
    }
}

/// Base 64 without padding, as libarchive writes it.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for shift in [18, 12, 6, 0]
            .into_iter()
            .take(group.len().saturating_add(1))
        {
            let digit = usize::try_from(bits >> shift & 0x3f).unwrap_or(0);
            text.push(DIGITS.get(digit).copied().unwrap_or(b'A').into());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_decimal_fractions_also_before_1970() {
        assert_eq!(
            decimal_time(Timestamp {
                secs: 1,
                nanos: 500_000_000
            }),
            "1.5"
        );
        assert_eq!(decimal_time(Timestamp { secs: 10, nanos: 0 }), "10");
        assert_eq!(
            decimal_time(Timestamp {
                secs: -1,
                nanos: 250_000_000
            }),
            "-0.75"
        );
        assert_eq!(decimal_time(Timestamp { secs: 0, nanos: 1 }), "0.000000001");
    }

    #[test]
    fn a_record_counts_the_digits_of_its_own_length() {
        for length in [1, 90, 91, 92, 93, 985, 990, 995] {
            let mut records = Records::default();
            records.add(b"k", &vec![b'v'; length]);
            let text = String::from_utf8(records.0).unwrap();
            let (stated, _) = text.split_once(' ').unwrap();
            assert_eq!(stated.parse::<usize>().unwrap(), text.len());
        }
    }

    #[test]
    fn base64_has_no_padding() {
        assert_eq!(base64(b""), "");
        assert_eq!(base64(b"f"), "Zg");
        assert_eq!(base64(b"fo"), "Zm8");
        assert_eq!(base64(b"foobar"), "Zm9vYmFy");
    }
}
