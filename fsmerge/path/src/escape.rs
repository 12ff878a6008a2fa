//! Bytes as text.

use core::fmt::{self, Write};

/// Bytes that are shown as escaped text: see [`BytePath`](crate::BytePath).
pub(crate) struct Escaped<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(self.0, false, f)
    }
}

impl fmt::Debug for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        write(self.0, true, f)?;
        f.write_char('"')
    }
}

fn write(bytes: &[u8], quoted: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\\' => f.write_str("\\\\")?,
                '"' if quoted => f.write_str("\\\"")?,
                _ if is_shown(char) => f.write_char(char)?,
                _ => hex(char.encode_utf8(&mut [0; 4]).as_bytes(), f)?,
            }
        }
        hex(chunk.invalid(), f)?;
    }
    Ok(())
}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))
}

/// Returns whether a character is written as it is: it is neither a control character nor one that
/// only changes how others are shown (Unicode's category Cf, line separators, tags).
fn is_shown(char: char) -> bool {
    !char.is_control()
        && !matches!(char,
            '\u{ad}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::ToString;

    use super::Escaped;

    #[test]
    fn printable_text_is_shown_as_it_is() {
        for text in [
            "usr/bin",
            "données/café",
            "日本語",
            "it's \"quoted\"",
            "e\u{301}",
            "",
        ] {
            assert_eq!(Escaped(text.as_bytes()).to_string(), text);
        }
    }

    #[test]
    fn bytes_that_are_not_printable_text_are_shown_in_hex() {
        for (bytes, shown) in [
            (&b"a\nb"[..], r"a\x0ab"),
            (b"\x1b[2J\x7f\0", r"\x1b[2J\x7f\x00"),
            (b"ok\xff\xc3", r"ok\xff\xc3"),
            // U+009B, a control sequence introducer in UTF-8, and U+202E, which reverses text.
            (b"\xc2\x9b", r"\xc2\x9b"),
            ("a\u{202e}b".as_bytes(), r"a\xe2\x80\xaeb"),
            (b"\xe2\x80", r"\xe2\x80"),
        ] {
            assert_eq!(Escaped(bytes).to_string(), shown);
            assert_eq!(format!("{:?}", Escaped(bytes)), format!("\"{shown}\""));
        }
    }

    #[test]
    fn different_bytes_are_shown_differently() {
        assert_eq!(Escaped(br"\x0a").to_string(), r"\\x0a");
        assert_eq!(Escaped(b"\n").to_string(), r"\x0a");
        assert_eq!(format!("{:?}", Escaped(b"a\"b")), r#""a\"b""#);
    }
}
