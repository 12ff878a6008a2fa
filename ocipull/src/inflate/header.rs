//! The header of a gzip member (RFC 1952).

/// The length of the header that `bytes` begin with; `None` if it is cut off, or is one whose check
/// another decoder may as well make.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    let &[0x1f, 0x8b, 8, flags, ..] = bytes.first_chunk::<10>()? else {
        return None;
    };
    // 1 is a hint; 2 is a checksum of the header; the rest is reserved.
    if flags & !(EXTRA | NAME | COMMENT | 1) != 0 {
        return None;
    }
    let mut length = 10;
    if flags & EXTRA != 0 {
        let extra = u16::from_le_bytes(*bytes.get(length..)?.first_chunk()?);
        length += 2 + usize::from(extra);
    }
    for flag in [NAME, COMMENT] {
        if flags & flag != 0 {
            length += 1 + bytes.get(length..)?.iter().position(|&byte| byte == 0)?;
        }
    }
    (length <= bytes.len()).then_some(length)
}
