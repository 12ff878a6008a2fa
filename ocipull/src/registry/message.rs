//! The texts of a server's errors.

use serde::Deserialize;

/// How much of an error's text is read, in bytes.
pub(super) const MAX_ERROR: u64 = 64 << 10;

/// Returns the message in an error's body, in one line: the specification's JSON or plain text.
pub(super) fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Envelope {
        errors: Vec<Detail>,
    }
    #[derive(Deserialize)]
    struct Detail {
        code: String,
        #[serde(default)]
        message: String,
    }
    let text = match serde_json::from_slice::<Envelope>(body) {
        Ok(envelope) => {
            let one = |error: &Detail| match error.message.as_str() {
                "" => error.code.clone(),
                message => format!("{message} ({})", error.code),
            };
            envelope
                .errors
                .iter()
                .map(one)
                .collect::<Vec<_>>()
                .join("; ")
        }
        // HTML pages are not readable in a terminal.
        Err(_) => match String::from_utf8_lossy(body) {
            text if text.trim_start().starts_with('<') => String::new(),
            text => text.into_owned(),
        },
    };
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_displayed_in_one_line() {
        let json = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}},{"code":"DENIED"}]}"#;
        assert_eq!(message(json), "manifest unknown (MANIFEST_UNKNOWN); DENIED");
        assert_eq!(message(b" plain\n text\x1b[2J "), "plain text[2J");
        assert_eq!(message(b"<html>503</html>"), "");
        assert_eq!(message(&[b'x'; 9999]).len(), 300);
    }
}
