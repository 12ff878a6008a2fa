//! Parsing of `WWW-Authenticate` headers.

/// The longest header that is looked at, in bytes.
const MAX_HEADER: usize = 8 << 10;

/// One challenge of RFC 9110, section 11.3.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// The scheme, in lower case: `basic`, `bearer`.
    pub(crate) scheme: String,
    /// Parameters; their names in lower case.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The first parameter `name`, which is in lower case.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// The challenges in one header; what does not follow the grammar ends the list.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = match header.len() <= MAX_HEADER {
        true => skip(header),
        false => "",
    };
    while !rest.is_empty() {
        let (word, after) = token(rest);
        if word.is_empty() {
            break;
        }
        let value = after.trim_start_matches([' ', '\t']).strip_prefix('=');
        match (value, challenges.last_mut()) {
            (Some(value), Some(challenge)) => {
                let Some((value, after)) = parameter_value(value) else {
                    break;
                };
                challenge
                    .parameters
                    .push((word.to_ascii_lowercase(), value));
                rest = skip(after);
            }
            (Some(_), None) => break,
            (None, _) => {
                challenges.push(Challenge {
                    scheme: word.to_ascii_lowercase(),
                    parameters: Vec::new(),
                });
                rest = skip(without_token68(after));
            }
        }
    }
    challenges
}

/// `text` from the next byte that is neither a blank nor a comma.
fn skip(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', ','])
}

fn token(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    text.split_at(text.find(|c| !is_token(c)).unwrap_or(text.len()))
}

/// `text` after a scheme, without a token68 such as NTLM's, which has no meaning here.
fn without_token68(text: &str) -> &str {
    let rest = text.trim_start_matches([' ', '\t']);
    let is_token68 = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
    let (blob, after) = rest.split_at(rest.find(|c| !is_token68(c)).unwrap_or(rest.len()));
    let after = after.trim_start_matches([' ', '\t']);
    let ends = after.is_empty() || after.starts_with(',');
    match ends && !blob.trim_end_matches('=').contains('=') {
        true => after,
        false => text,
    }
}

/// A token or a quoted string, and what follows it.
fn parameter_value(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start_matches([' ', '\t']);
    let Some(quoted) = text.strip_prefix('"') else {
        // Some registries do not quote addresses.
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            _ => value.push(character),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schemes(header: &str) -> Vec<String> {
        let challenges = parse(header).into_iter();
        challenges.map(|challenge| challenge.scheme).collect()
    }

    #[test]
    fn a_token_service_is_named_by_realm_service_and_scope() {
        let header = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io", scope="repository:a/b:pull,push""#;
        let challenges = parse(header);
        assert_eq!(challenges.len(), 1);
        for (name, value) in [
            ("realm", "https://auth.docker.io/token"),
            ("service", "registry.docker.io"),
            ("scope", "repository:a/b:pull,push"),
        ] {
            assert_eq!(challenges[0].parameter(name), Some(value));
        }
        assert_eq!(challenges[0].parameter("error"), None);
    }

    #[test]
    fn several_challenges_in_one_header_are_parsed_separately() {
        assert_eq!(
            schemes(r#"Basic realm="a, b=c", BEARER Realm=https://x/y,scope="s""#),
            ["basic", "bearer"]
        );
        assert_eq!(
            schemes(r#"Negotiate, NTLM dGVzdA==, Basic realm="x""#),
            ["negotiate", "ntlm", "basic"]
        );
        assert_eq!(schemes("Basic"), ["basic"]);
    }

    #[test]
    fn quoted_pairs_are_unquoted() {
        let challenges = parse(r#"Basic realm="a\"b\\c" , charset="UTF-8""#);
        assert_eq!(challenges[0].parameter("realm"), Some(r#"a"b\c"#));
        assert_eq!(challenges[0].parameter("charset"), Some("UTF-8"));
    }

    #[test]
    fn damaged_headers_end_where_they_are_damaged() {
        for header in [
            "",
            ",,,",
            "=",
            "realm=x",
            "Bearer realm=\"",
            "Bearer realm=\"a\\",
            "\u{fffd}",
            "Bearer =",
            "(((",
        ] {
            let challenges = parse(header);
            assert!(
                challenges.iter().all(|c| c.parameters.is_empty()),
                "{header:?}: {challenges:?}"
            );
        }
        assert_eq!(parse(&"a ".repeat(9000)), []);
    }
}
