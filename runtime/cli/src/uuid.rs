//! UUIDs on the command line.

/// Parses 32 hexadecimal digits, with hyphens or without.
pub(super) fn uuid(text: &str) -> Result<[u8; 16], String> {
    let digits = text.replace('-', "");
    u128::from_str_radix(&digits, 16)
        .ok()
        .filter(|_| digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .map(u128::to_be_bytes)
        .ok_or_else(|| "not 32 hexadecimal digits".to_owned())
}

/// Formats a UUID with hyphens.
pub(super) fn shown(uuid: &[u8; 16]) -> String {
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_uuid_is_parsed_back_and_other_text_is_rejected() {
        let text = "01234567-89ab-cdef-0123-456789abcdef";
        assert_eq!(uuid(text).map(|uuid| shown(&uuid)).as_deref(), Ok(text));
        for wrong in ["", "0123", "+1234567-89ab-cdef-0123-456789abcdef"] {
            assert!(uuid(wrong).is_err(), "{wrong}");
        }
    }
}
