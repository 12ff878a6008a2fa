//! The 512-byte header: its fields, whichever of the formats (V7, ustar, GNU, star) it is in.

use crate::error::Problem;
use crate::source::Block;
use ::tar::Header;

/// Whether this is a block of zeros, as the end of an archive has.
pub(crate) fn is_zero(block: &Block) -> bool {
    block.iter().all(|&byte| byte == 0)
}

/// Whether the checksum is right: the sum of all bytes, its own field taken as spaces. Old writers
/// summed signed bytes.
pub(crate) fn checksum_holds(header: &Header) -> bool {
    let field = &header.as_old().cksum;
    let Ok(Some(stored)) = number(field, "chksum") else {
        return false;
    };
    let bytes = header.as_bytes();
    let sum = |value: fn(u8) -> i128| {
        let all: i128 = bytes.iter().map(|&byte| value(byte)).sum();
        let own: i128 = field.iter().map(|&byte| value(byte)).sum();
        all - own + i128::from(b' ') * field.len() as i128
    };
    stored == sum(|byte| byte.into()) || stored == sum(|byte| byte.cast_signed().into())
}

/// The bytes of a field up to its first NUL.
pub(crate) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&byte| byte == 0);
    &field[..end.unwrap_or(field.len())]
}

/// The name, with the prefix that ustar and star put before it.
pub(crate) fn name(header: &Header) -> Vec<u8> {
    let name = text(&header.as_old().name);
    let prefix = match header.as_ustar() {
        // star's variant ends in "tar\0" and has times after a prefix of 131 bytes.
        Some(ustar) if ustar.pad.ends_with(b"tar\0") => text(&ustar.prefix[..131]),
        Some(ustar) => text(&ustar.prefix),
        None => b"",
    };
    if prefix.is_empty() {
        name.to_vec()
    } else {
        [prefix, b"/", name].concat()
    }
}

/// The device numbers; 0:0 where the format has none.
pub(crate) fn device(header: &Header) -> Result<(u32, u32), Problem> {
    let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
        (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
        (_, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
        (None, None) => return Ok((0, 0)),
    };
    Ok((
        in_range(number(major, "devmajor")?, "devmajor")?,
        in_range(number(minor, "devminor")?, "devminor")?,
    ))
}

/// A number that must fit its type; 0 for an empty field.
pub(crate) fn in_range<T: TryFrom<i128>>(
    value: Option<i128>,
    field: &'static str,
) -> Result<T, Problem> {
    T::try_from(value.unwrap_or(0)).map_err(|_| Problem::Number { field })
}

/// A length in bytes.
pub(crate) fn size(value: Option<i128>) -> Result<u64, Problem> {
    match value.unwrap_or(0) {
        negative if negative < 0 => Err(Problem::NegativeSize),
        // Offsets into an archive are signed in every reader.
        size => i64::try_from(size)
            .map(i64::cast_unsigned)
            .map_err(|_| Problem::Number { field: "size" }),
    }
}

/// The value of a numeric field: octal digits between spaces and NULs, or GNU's base 256, a two's
/// complement number whose first bit is set. None where there are no digits.
pub(crate) fn number(field: &[u8], name: &'static str) -> Result<Option<i128>, Problem> {
    let bad = Problem::Number { field: name };
    if let Some(&first) = field.first()
        && first & 0x80 != 0
    {
        // Bit 6 is the sign, and the first of the bits that count.
        let sign: i128 = if first & 0x40 == 0 { 0 } else { -1 };
        let start = (sign << 6) | i128::from(first & 0x3f);
        // 12 bytes are 94 bits: an i128 holds them.
        let value = field[1..]
            .iter()
            .fold(start, |value, &byte| (value << 8) | i128::from(byte));
        return Ok(Some(value));
    }
    let padding = |byte: &u8| matches!(byte, b' ' | 0);
    let begin = field.iter().position(|byte| !padding(byte));
    let Some(begin) = begin else {
        return Ok(None);
    };
    let digits = &field[begin..];
    let end = digits.iter().position(padding).unwrap_or(digits.len());
    let mut value = 0_i128;
    for &digit in &digits[..end] {
        if !(b'0'..=b'7').contains(&digit) {
            return Err(bad);
        }
        value = value * 8 + i128::from(digit - b'0');
    }
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        let of = |field: &[u8]| number(field, "size");
        assert_eq!(of(b"0000644\0"), Ok(Some(0o644)));
        assert_eq!(of(b"   644 \0"), Ok(Some(0o644)));
        assert_eq!(of(b"77777777"), Ok(Some(0o77_777_777)));
        assert_eq!(of(b"644\0junk"), Ok(Some(0o644)));
        assert_eq!(of(b"\0\0\0\0\0\0\0\0"), Ok(None));
        assert_eq!(of(b"\x80\0\0\0\0\0\x01\0"), Ok(Some(256)));
        assert_eq!(of(b"\xff\xff\xff\xff\xff\xff\xff\xfe"), Ok(Some(-2)));
        assert_eq!(
            of(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"),
            Ok(Some(i64::MAX.into()))
        );
        assert_eq!(of(b"00x0644\0"), Err(Problem::Number { field: "size" }));
        assert_eq!(of(b"0000008\0"), Err(Problem::Number { field: "size" }));
        assert_eq!(of(b"-000001\0"), Err(Problem::Number { field: "size" }));
    }
}
