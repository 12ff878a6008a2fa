//! The configuration of a committed image: the command, environment, user, working directory, stop
//! signal and labels that the sandbox was made with replace those of its image, as with docker.

use blockbox_store::Spec;
use blockbox_store::spec::Bytes;
use serde_json::{Value, json};

/// Applies the options of the sandbox of `spec` to the image configuration `config`.
pub(super) fn apply(config: &mut Value, spec: &Spec) {
    if !config.is_object() {
        *config = json!({});
    }
    for (key, value) in &spec.labels {
        if !config["Labels"].is_object() {
            config["Labels"] = json!({});
        }
        config["Labels"][key] = json!(value);
    }
    // The sandbox was never started, and no command was requested.
    let Some(process) = &spec.process else {
        return;
    };
    apply_command(config, &texts(&process.args));
    let mut set = |key: &str, value: &str, default: &str| {
        let before = config[key].as_str().unwrap_or_default();
        if value != before && !(before.is_empty() && value == default) {
            config[key] = json!(value);
        }
    };
    set("User", &process.user, "");
    set("WorkingDir", &text(&process.cwd), "/");
    if let Some(signal) = process.stop_signal {
        let before = number(config["StopSignal"].as_str());
        if before != Some(signal.number()) {
            config["StopSignal"] = json!(signal.to_string());
        }
    }
    let env = texts(&process.env);
    if env != strings(&config["Env"]) {
        config["Env"] = json!(env);
    }
}

/// Returns the number of a signal by its name.
fn number(text: Option<&str>) -> Option<u32> {
    let signal: blockbox_store::spec::Signal = text?.parse().ok()?;
    Some(signal.number())
}

/// Keeps the image's entry point if the command begins with it.
fn apply_command(config: &mut Value, args: &[String]) {
    let mut entrypoint = strings(&config["Entrypoint"]);
    // Builders write an empty string instead of an empty list.
    if entrypoint == [""] {
        entrypoint.clear();
    }
    if [entrypoint.clone(), strings(&config["Cmd"])].concat() == args {
        return;
    }
    let (entrypoint, command) = match args.strip_prefix(&entrypoint[..]) {
        Some(command) => (entrypoint, command),
        None => args
            .split_first()
            .map_or_else(Default::default, |(program, rest)| {
                (vec![program.clone()], rest)
            }),
    };
    config["Entrypoint"] = match entrypoint.is_empty() {
        true => Value::Null,
        false => json!(entrypoint),
    };
    config["Cmd"] = json!(command);
}

/// Returns the strings of a list in a configuration.
fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let texts = list.iter().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

fn texts(list: &[Bytes]) -> Vec<String> {
    list.iter().map(text).collect()
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(&bytes.0).into_owned()
}

#[cfg(test)]
mod tests {
    use blockbox_store::spec::{ImageSource, Process};

    use super::*;

    fn spec(args: &[&str]) -> Spec {
        let mut spec = Spec::new("box".to_owned(), ImageSource::new("i", String::new()));
        let mut process = Process::default();
        process.args = args
            .iter()
            .map(|arg| arg.as_bytes().to_vec().into())
            .collect();
        process.cwd = b"/".to_vec().into();
        spec.process = Some(process);
        spec
    }

    #[test]
    fn a_sandbox_without_options_changes_nothing() {
        let image = json!({"Entrypoint": ["/e"], "Cmd": ["a"], "Env": ["A=1"], "User": "bob"});
        let mut spec = spec(&["/e", "a"]);
        let process = spec.process.as_mut().unwrap();
        process.user = "bob".to_owned();
        process.env = vec![b"A=1".to_vec().into()];
        let mut config = image.clone();
        apply(&mut config, &spec);
        assert_eq!(config["Entrypoint"], image["Entrypoint"]);
        assert_eq!(config["Cmd"], image["Cmd"]);
        for key in ["WorkingDir", "StopSignal", "Labels"] {
            assert!(config[key].is_null(), "{key}");
        }
        assert_eq!(config["User"], "bob");
        assert_eq!(config["Env"], image["Env"]);
    }

    #[test]
    fn the_options_of_a_sandbox_become_its_images_configuration() {
        let mut config = json!({"Entrypoint": ["/e"], "Cmd": ["a"], "Labels": {"x": "1"}});
        let mut spec = spec(&["/e", "b", "c"]);
        spec.labels.insert("y".to_owned(), "2".to_owned());
        let process = spec.process.as_mut().unwrap();
        process.user = "bob".to_owned();
        process.cwd = b"/w".to_vec().into();
        process.env = vec![b"A=1".to_vec().into()];
        process.stop_signal = Some("INT".parse().unwrap());
        apply(&mut config, &spec);
        assert_eq!(config["Entrypoint"], json!(["/e"]));
        assert_eq!(config["Cmd"], json!(["b", "c"]));
        assert_eq!(config["User"], "bob");
        assert_eq!(config["WorkingDir"], "/w");
        assert_eq!(config["Env"], json!(["A=1"]));
        assert_eq!(config["StopSignal"], "SIGINT");
        assert_eq!(config["Labels"], json!({"x": "1", "y": "2"}));

        let mut config = json!({"Entrypoint": ["/e"], "Cmd": ["a"]});
        apply(&mut config, &self::spec(&["/bin/sh", "-c", "echo"]));
        assert_eq!(config["Entrypoint"], json!(["/bin/sh"]));
        assert_eq!(config["Cmd"], json!(["-c", "echo"]));

        let mut config = json!({"Entrypoint": [""], "Cmd": ["a"]});
        apply(&mut config, &self::spec(&["a"]));
        assert_eq!(config["Entrypoint"], json!([""]));

        let mut config = json!({"Cmd": ["a"]});
        apply(&mut config, &self::spec(&["b"]));
        assert!(config["Entrypoint"].is_null());
        assert_eq!(config["Cmd"], json!(["b"]));
    }
}
