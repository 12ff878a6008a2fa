//! Templates for output (`--format`): the part of docker's syntax that scripts use.

use std::io::Write;
use std::str::FromStr;

use anyhow::bail;
use serde::Serialize;
use serde_json::Value;

use super::output::print_columns;

/// Fields of docker's templates that have another name here.
const DOCKER_FIELDS: &[(&str, &str)] = &[
    ("containerid", "id"),
    ("createdat", "created"),
    ("finishedat", "finished"),
    ("names", "name"),
    ("restartcount", "restarts"),
    ("startedat", "started"),
    ("state", "status"),
];

/// How a command prints its result.
#[derive(Clone, Debug)]
pub(super) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// With a template.
    Template(Template),
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "table" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            _ => text.parse().map(Self::Template),
        }
    }
}

/// Text with fields of a JSON document: `{{.Name}}`, `{{.State.Status}}`, `{{json .Labels}}`,
/// `{{json .}}`. After `table `, tabs separate columns with headings.
#[derive(Clone, Debug)]
pub(super) struct Template {
    parts: Vec<Part>,
    table: bool,
}

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    Field {
        path: Vec<String>,
        json: bool,
        heading: String,
    },
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let columns = text.strip_prefix("table ");
        let mut rest = columns.map_or(text, str::trim_start);
        while let Some((before, after)) = rest.split_once("{{") {
            parts.push(Part::Text(unescape(before)));
            let (action, after) = after
                .split_once("}}")
                .ok_or_else(|| format!("{text:?} has no end of a field"))?;
            let action = action.trim();
            let (json, path) = match action.strip_prefix("json ") {
                Some(path) => (true, path.trim()),
                None => (false, action),
            };
            let path = path
                .strip_prefix('.')
                .ok_or_else(|| format!("{action:?} is not a field: use {{{{.Name}}}}"))?;
            parts.push(Part::Field {
                path: path
                    .split('.')
                    .filter(|name| !name.is_empty())
                    .map(normal)
                    .collect(),
                json,
                heading: heading(path.rsplit('.').next().unwrap_or_default()),
            });
            rest = after;
        }
        if parts.is_empty() {
            return Err(format!("{text:?} is neither table, json nor a template"));
        }
        parts.push(Part::Text(unescape(rest)));
        let table = columns.is_some();
        Ok(Self { parts, table })
    }
}

impl Template {
    /// Returns the template's text with the fields of `value`. Case and underscores in field names
    /// do not matter.
    pub(super) fn render(&self, value: &Value) -> anyhow::Result<String> {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out += text,
                Part::Field { path, json, .. } => {
                    let mut found = value;
                    for name in path {
                        found = match member(found, name) {
                            Some(member) => member,
                            None => bail!("there is no field {name:?}: {}", fields(found)),
                        };
                    }
                    match found {
                        _ if *json => out += &found.to_string(),
                        Value::String(text) => out += text,
                        Value::Null => {}
                        other => out += &other.to_string(),
                    }
                }
            }
        }
        Ok(out)
    }

    /// Returns the headings of a table's columns, in the template's own text.
    fn headings(&self) -> String {
        let parts = self.parts.iter().map(|part| match part {
            Part::Text(text) => text.as_str(),
            Part::Field { heading, .. } => heading,
        });
        parts.collect()
    }
}

/// Returns the member of an object that a template calls `name`.
fn member<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let object = value.as_object()?;
    let find = |name: &str| {
        let same = |(key, _): &(&String, &Value)| *key == name || normal(key) == name;
        object.iter().find(same).map(|(_, member)| member)
    };
    find(name).or_else(|| {
        let (_, ours) = DOCKER_FIELDS.iter().find(|(theirs, _)| *theirs == name)?;
        find(ours)
    })
}

/// Returns what an error says of the fields there are.
fn fields(value: &Value) -> String {
    match value {
        Value::Object(object) => {
            let names: Vec<_> = object.keys().map(String::as_str).collect();
            format!("the fields are {}", names.join(", "))
        }
        Value::Null => "null has none".to_owned(),
        Value::Array(_) => "a list has none".to_owned(),
        Value::String(_) => "a string has none".to_owned(),
        Value::Number(_) | Value::Bool(_) => format!("{value} has none"),
    }
}

/// Prints each row with a template.
pub(super) fn print_each(template: &Template, rows: &[impl Serialize]) -> anyhow::Result<()> {
    let rows = rows
        .iter()
        .map(|row| template.render(&serde_json::to_value(row)?));
    let mut rows: Vec<String> = rows.collect::<anyhow::Result<_>>()?;
    if template.table {
        rows.insert(0, template.headings());
        let cells = rows.iter().map(|row| row.split('\t').collect::<Vec<_>>());
        return print_columns(&cells.collect::<Vec<_>>());
    }
    let mut out = std::io::stdout().lock();
    for row in rows {
        writeln!(out, "{row}")?;
    }
    Ok(())
}

/// Returns the heading of a field: `ExitCode` and `exit_code` are `EXIT CODE`.
fn heading(name: &str) -> String {
    let mut out = String::new();
    let mut lower = false;
    for c in name.chars() {
        if c == '_' || (lower && c.is_uppercase()) {
            out.push(' ');
        }
        lower = c.is_lowercase();
        out.extend(c.to_uppercase().filter(|c| *c != '_'));
    }
    out
}

/// Returns a field's name without case and underscores.
fn normal(name: &str) -> String {
    name.chars()
        .filter(|c| *c != '_')
        .flat_map(char::to_lowercase)
        .collect()
}

fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_found_by_the_names_that_docker_gives_them() {
        let row = json!({"name": "a", "status": "running", "created": "now"});
        let template = "{{.Names}} {{.State}} {{.CreatedAt}}".parse::<Template>();
        assert_eq!(template.unwrap().render(&row).unwrap(), "a running now");
        let inspected = json!({"state": {"status": "exited"}});
        let template = "{{.State.Status}}".parse::<Template>();
        assert_eq!(template.unwrap().render(&inspected).unwrap(), "exited");
    }

    #[test]
    fn fields_are_found_whatever_their_case() {
        let value = json!({"exit_code": 3, "name": "a", "labels": {"x": "y"}, "error": null});
        for (template, text) in [
            ("{{.Name}}\\t{{ .ExitCode }}", "a\t3"),
            ("{{json .Labels}}", "{\"x\":\"y\"}"),
            ("{{.labels.x}}{{.Error}}!", "y!"),
        ] {
            let rendered = template.parse::<Template>().unwrap().render(&value);
            assert_eq!(rendered.unwrap(), text, "{template}");
        }
        let missing = "{{.Nothing}}".parse::<Template>().unwrap().render(&value);
        assert_eq!(
            missing.unwrap_err().to_string(),
            "there is no field \"nothing\": the fields are error, exit_code, labels, name"
        );
        let deeper = "{{.Name.First}}".parse::<Template>().unwrap();
        assert_eq!(
            deeper.render(&value).unwrap_err().to_string(),
            "there is no field \"first\": a string has none"
        );
        let table = "table {{.Name}}\\t{{.ExitCode}} {{.exit_code}}";
        let table = table.parse::<Template>().unwrap();
        assert!(table.table);
        assert_eq!(table.headings(), "NAME\tEXIT CODE EXIT CODE");
        assert_eq!(table.render(&value).unwrap(), "a\t3 3");
        for wrong in ["names", "table names", "{{.Name", "{{Name}}", ""] {
            assert!(wrong.parse::<Template>().is_err(), "{wrong}");
        }
    }
}
