//! Dockerfile instructions that change an image's configuration.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::path;

/// Applies instructions in order. Returns the first one that is unknown or malformed.
pub(super) fn all<'a>(config: &mut Value, instructions: &'a [String]) -> Result<(), &'a str> {
    let mut command_given = false;
    for text in instructions {
        let name = change(config, text, command_given).ok_or(text.as_str())?;
        command_given |= name == "CMD";
    }
    Ok(())
}

/// Applies an instruction and returns its name. `command_given` says whether a CMD came before.
fn change(config: &mut Value, text: &str, command_given: bool) -> Option<String> {
    let (name, rest) = text.trim().split_once(char::is_whitespace)?;
    let (name, rest) = (name.to_ascii_uppercase(), rest.trim());
    if !config.is_object() {
        *config = json!({});
    }
    let environment = environment(config);
    let one = || words(rest, &environment).map(|words| words.join(" "));
    match name.as_str() {
        "CMD" => config["Cmd"] = command(config, rest),
        "ENTRYPOINT" => {
            config["Entrypoint"] = command(config, rest);
            // The image's CMD was made for its own entry point.
            if !command_given {
                config["Cmd"] = Value::Null;
            }
        }
        "USER" => config["User"] = json!(one()?),
        "WORKDIR" => {
            let folder = config["WorkingDir"].as_str().unwrap_or_default();
            config["WorkingDir"] = json!(path::join(folder, &one()?));
        }
        "STOPSIGNAL" => config["StopSignal"] = json!(one()?),
        "ENV" => {
            for (key, value) in pairs(rest, &environment)? {
                set_variable(config, &key, &value)?;
            }
        }
        "LABEL" => {
            for (key, value) in pairs(rest, &environment)? {
                object(config, "Labels")?.insert(key, json!(value));
            }
        }
        "EXPOSE" => {
            for port in words(rest, &environment)? {
                let port = match port.contains('/') {
                    true => port,
                    false => format!("{port}/tcp"),
                };
                object(config, "ExposedPorts")?.insert(port, json!({}));
            }
        }
        "VOLUME" => {
            let paths = match serde_json::from_str::<Vec<String>>(rest) {
                Ok(paths) => paths,
                Err(_) => words(rest, &environment)?,
            };
            for path in paths {
                object(config, "Volumes")?.insert(path, json!({}));
            }
        }
        _ => return None,
    }
    Some(name)
}

/// Returns the words of a JSON list, or a command line for the image's shell.
fn command(config: &Value, text: &str) -> Value {
    if let Ok(words) = serde_json::from_str::<Vec<String>>(text) {
        return json!(words);
    }
    let shell = config["Shell"].as_array().cloned();
    let mut words = shell.unwrap_or_else(|| vec![json!("/bin/sh"), json!("-c")]);
    words.push(json!(text));
    json!(words)
}

/// Returns the object `name`, created if missing; `None` if it is not an object.
fn object<'a>(config: &'a mut Value, name: &str) -> Option<&'a mut Map<String, Value>> {
    let member = &mut config[name];
    if member.is_null() {
        *member = json!({});
    }
    member.as_object_mut()
}

/// Returns the configuration's variables.
fn environment(config: &Value) -> HashMap<String, String> {
    let all = config["Env"].as_array().into_iter().flatten();
    let pairs = all.filter_map(|one| one.as_str()?.split_once('='));
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn set_variable(config: &mut Value, key: &str, value: &str) -> Option<()> {
    if !config["Env"].is_array() {
        config["Env"] = json!([]);
    }
    let all = config["Env"].as_array_mut()?;
    let prefix = format!("{key}=");
    let text = json!(format!("{key}={value}"));
    let set = |one: &&mut Value| one.as_str().is_some_and(|t| t.starts_with(&prefix));
    match all.iter_mut().find(set) {
        Some(one) => *one = text,
        None => all.push(text),
    }
    Some(())
}

/// Parses `KEY=VALUE KEY=VALUE…`, or the old form `KEY VALUE`, whose value is the rest of the line.
fn pairs(text: &str, environment: &HashMap<String, String>) -> Option<Vec<(String, String)>> {
    let first = text.split(char::is_whitespace).next()?;
    if !first.contains('=') {
        let (key, value) = text.split_once(char::is_whitespace)?;
        let value = unquoted(value.trim_start(), environment, false)?;
        return Some(vec![(key.to_owned(), value.concat())]);
    }
    let pairs = words(text, environment)?.into_iter().map(|word| {
        let (key, value) = word.split_once('=')?;
        (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
    });
    pairs.collect()
}

/// Returns the words of a line, at least one.
fn words(text: &str, environment: &HashMap<String, String>) -> Option<Vec<String>> {
    unquoted(text, environment, true).filter(|words| !words.is_empty())
}

/// Removes quotation marks and backslashes as a shell does, and expands variables; `None` if a
/// quotation mark is not closed. With `split`, white space ends a word.
fn unquoted(text: &str, environment: &HashMap<String, String>, split: bool) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if quote.is_none() && split && c.is_whitespace() {
            words.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_default();
        match (quote, c) {
            (Some(mark), c) if c == mark => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (Some('\''), c) => word.push(c),
            (Some(_), '\\') => match rest.next()? {
                escaped @ ('"' | '\\' | '$') => word.push(escaped),
                other => word.extend(['\\', other]),
            },
            (None, '\\') => word.push(rest.next()?),
            (_, '$') => {
                let (name, after) = variable(rest.as_str())?;
                match name {
                    "" => word.push('$'),
                    name => word.push_str(environment.get(name).map_or("", String::as_str)),
                }
                rest = after.chars();
            }
            (_, c) => word.push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

/// Splits the text after a dollar sign into the variable's name, with braces or without, and the
/// rest.
fn variable(text: &str) -> Option<(&str, &str)> {
    let is_part = |c: char| c == '_' || c.is_ascii_alphanumeric();
    if let Some(text) = text.strip_prefix('{') {
        let (name, after) = text.split_once('}')?;
        let plain = !name.is_empty() && name.chars().all(is_part);
        return plain.then_some((name, after));
    }
    Some(text.split_at(text.find(|c| !is_part(c)).unwrap_or(text.len())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn changed(mut config: Value, texts: &[&str]) -> Value {
        let texts: Vec<_> = texts.iter().map(|&text| text.to_owned()).collect();
        all(&mut config, &texts).unwrap();
        config
    }

    #[test]
    fn instructions_change_the_configuration_as_in_a_dockerfile() {
        let config = json!({ "Env": ["PATH=/bin", "A=1"], "Cmd": ["old"] });
        let config = changed(
            config,
            &[
                "CMD [\"a\", \"b c\"]",
                "entrypoint run it",
                "ENV A=2",
                "ENV NEW some text",
                "LABEL key=\"a value\"",
                "EXPOSE 80 53/udp",
                "VOLUME /data /more",
                "USER app",
                "WORKDIR /srv",
                "STOPSIGNAL SIGQUIT",
            ],
        );
        assert_eq!(
            config,
            json!({
                "Env": ["PATH=/bin", "A=2", "NEW=some text"], "Cmd": ["a", "b c"],
                "Entrypoint": ["/bin/sh", "-c", "run it"], "Labels": {"key": "a value"},
                "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Volumes": {"/data": {}, "/more": {}},
                "User": "app", "WorkingDir": "/srv", "StopSignal": "SIGQUIT",
            })
        );
    }

    #[test]
    fn one_instruction_sets_several_variables_and_labels() {
        let config = changed(
            json!({ "Env": ["PATH=/bin"] }),
            &[
                "ENV A=1 B=2 C=\"x y\" D='$A' E=a\\ b PATH=$PATH:/x",
                "ENV F=${A}0 G=\\$A",
                "LABEL a=b c=\"d e\" empty=",
            ],
        );
        let env = [
            "PATH=/bin:/x",
            "A=1",
            "B=2",
            "C=x y",
            "D=$A",
            "E=a b",
            "F=10",
            "G=$A",
        ];
        assert_eq!(config["Env"], json!(env));
        assert_eq!(
            config["Labels"],
            json!({ "a": "b", "c": "d e", "empty": "" })
        );
    }

    #[test]
    fn an_entry_point_clears_the_command_of_the_image_alone() {
        let config = || json!({ "Entrypoint": ["old"], "Cmd": ["old"] });
        let entry = "ENTRYPOINT [\"new\"]";
        let of = |texts: &[&str]| changed(config(), texts)["Cmd"].clone();
        assert_eq!(of(&[entry]), Value::Null);
        assert_eq!(of(&["CMD [\"x\"]", entry]), json!(["x"]));
        assert_eq!(of(&[entry, "CMD [\"x\"]"]), json!(["x"]));
        let shell = json!({ "Shell": ["/bin/ash", "-ec"] });
        let shell = changed(shell, &["CMD run"]);
        assert_eq!(shell["Cmd"], json!(["/bin/ash", "-ec", "run"]));
    }

    #[test]
    fn a_relative_working_directory_is_relative_to_the_previous_one() {
        let of =
            |texts: &[&str]| changed(json!({ "WorkingDir": "/srv" }), texts)["WorkingDir"].clone();
        assert_eq!(of(&["WORKDIR app"]), "/srv/app");
        assert_eq!(of(&["WORKDIR a/./b", "WORKDIR ../c/"]), "/srv/a/c");
        assert_eq!(of(&["WORKDIR /x"]), "/x");
        assert_eq!(of(&["WORKDIR ../../.."]), "/");
        let none = changed(json!({}), &["WORKDIR app"]);
        assert_eq!(none["WorkingDir"], "/app");
    }

    #[test]
    fn malformed_instructions_are_rejected() {
        for wrong in [
            "RUN true",
            "CMD",
            "ENV",
            "ENV A",
            "ENV A=1 B",
            "ENV =1",
            "ENV A=\"open",
            "ENV A=${B",
            "LABEL a='open",
            "LABEL a=1 \\",
        ] {
            let texts = [wrong.to_owned()];
            assert_eq!(all(&mut json!({}), &texts), Err(wrong), "{wrong}");
        }
        // Configurations of the wrong types cause no panic.
        let labels = ["LABEL a=b".to_owned()];
        assert!(all(&mut json!({ "Labels": "x" }), &labels).is_err());
        assert!(all(&mut json!("x"), &labels).is_ok());
    }
}
