//! Patches as text: `VERB:PATH[=VALUE]`, and tables of a TOML file.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

use super::{Action, Patch};
use crate::error::{Error, Result};

/// Why a text is not a valid patch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The verb is unknown.
    #[error(
        "{0:?} is not a verb: use write, append, copy, extract, mkdir, symlink, rm, chmod or chown, as in write:PATH=TEXT"
    )]
    Verb(String),
    /// The verb needs a value.
    #[error("{verb} needs {needs}")]
    Missing {
        /// The verb.
        verb: &'static str,
        /// What it needs.
        needs: &'static str,
    },
    /// The verb has an argument that it does not support.
    #[error("{verb} does not take {extra}")]
    Extra {
        /// The verb.
        verb: &'static str,
        /// The argument.
        extra: &'static str,
    },
    /// The permission bits are not octal digits.
    #[error("{0:?} is not a mode: use octal digits, as 0644")]
    Mode(String),
    /// A table has no verb, or several.
    #[error("it has {0} verbs instead of one")]
    Verbs(usize),
}

impl FromStr for Patch {
    type Err = ParseError;

    /// Parses `VERB:PATH[=VALUE]`. Relative paths of the host are relative to the working
    /// directory.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (verb, rest) = text.split_once(':').unwrap_or((text, ""));
        let (path, value) = match rest.split_once('=') {
            Some((path, value)) => (path, Some(value)),
            None => (rest, None),
        };
        let needed = |verb, needs| value.ok_or(ParseError::Missing { verb, needs });
        let host = |verb, needs| -> Result<PathBuf, ParseError> {
            let given = Path::new(needed(verb, needs)?);
            Ok(std::path::absolute(given).unwrap_or_else(|_| given.to_owned()))
        };
        let action = match verb {
            "write" => Action::Write(needed("write", "PATH=TEXT")?.into()),
            "append" => Action::Append(needed("append", "PATH=TEXT")?.into()),
            "copy" => Action::Copy(host("copy", "PATH=FILE or PATH=FOLDER of this host")?),
            "extract" => Action::Extract(host("extract", "PATH=ARCHIVE of this host")?),
            "symlink" => Action::Symlink(needed("symlink", "PATH=TARGET")?.into()),
            "chmod" => Action::ChangeMode(mode(needed("chmod", "PATH=MODE")?)?),
            "chown" => Action::ChangeOwner(needed("chown", "PATH=USER[:GROUP]")?.into()),
            "mkdir" => Action::MakeDir,
            "rm" => Action::Remove,
            other => return Err(ParseError::Verb(other.to_owned())),
        };
        let mut patch = Patch::new(path, action);
        let verb = patch.action.verb();
        if path.is_empty() {
            let needs = "a path";
            return Err(ParseError::Missing { verb, needs });
        }
        match (&patch.action, value) {
            (Action::MakeDir, Some(text)) => patch.mode = Some(mode(text)?),
            (Action::Remove, Some(_)) => {
                let extra = "a value";
                return Err(ParseError::Extra { verb, extra });
            }
            _ => {}
        }
        Ok(patch)
    }
}

fn mode(text: &str) -> Result<u16, ParseError> {
    let octal = text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    u16::from_str_radix(text, 8)
        .ok()
        .filter(|mode| octal && *mode <= 0o7777)
        .ok_or_else(|| ParseError::Mode(text.to_owned()))
}

/// A file of patches.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patches {
    #[serde(default)]
    patch: Vec<Table>,
}

/// One patch: a verb with the path, and the arguments of the verb.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Table {
    write: Option<String>,
    append: Option<String>,
    copy: Option<String>,
    extract: Option<String>,
    mkdir: Option<String>,
    symlink: Option<String>,
    rm: Option<String>,
    chmod: Option<String>,
    chown: Option<String>,
    text: Option<String>,
    from: Option<PathBuf>,
    target: Option<String>,
    mode: Option<String>,
    owner: Option<String>,
}

/// Reads the patches of a TOML file, an array of tables called `patch`. Relative paths of the host
/// are relative to the file's folder.
///
/// # Errors
///
/// [`Error::PatchFile`] with the number of the table, counted from 1; [`Error::Io`].
pub fn read_file(path: &Path) -> Result<Vec<Patch>> {
    let mut text = String::new();
    let mut file = blockbox_files::open_input(path).map_err(Error::io(path))?;
    file.read_to_string(&mut text).map_err(Error::io(path))?;
    let failed = |reason: String| Error::PatchFile {
        path: path.to_owned(),
        reason,
    };
    let patches: Patches = toml::from_str(&text).map_err(|e| failed(e.to_string()))?;
    let folder = std::path::absolute(path).map_err(Error::io(path))?;
    let folder = folder.parent().unwrap_or(Path::new("/"));
    let tables = patches.patch.into_iter().zip(1..);
    tables
        .map(|(table, number)| {
            let patch = table.patch(folder);
            patch.map_err(|error| failed(format!("patch {number}: {error}")))
        })
        .collect()
}

impl Table {
    fn patch(self, folder: &Path) -> Result<Patch, ParseError> {
        let verbs = [
            ("write", &self.write),
            ("append", &self.append),
            ("copy", &self.copy),
            ("extract", &self.extract),
            ("mkdir", &self.mkdir),
            ("symlink", &self.symlink),
            ("rm", &self.rm),
            ("chmod", &self.chmod),
            ("chown", &self.chown),
        ];
        let given: Vec<_> = verbs
            .into_iter()
            .filter_map(|(verb, path)| Some((verb, path.as_ref()?.as_bytes())))
            .collect();
        let &[(verb, path)] = &*given else {
            return Err(ParseError::Verbs(given.len()));
        };
        let missing = |needs| ParseError::Missing { verb, needs };
        let text = || -> Result<Vec<u8>, ParseError> {
            let text = self.text.as_ref().ok_or(missing("text"))?;
            Ok(text.clone().into_bytes())
        };
        let from = || -> Result<PathBuf, ParseError> {
            let from = self.from.as_ref().ok_or(missing("from"))?;
            Ok(folder.join(from))
        };
        let mode = self.mode.as_deref().map(mode).transpose()?;
        let action = match verb {
            // The contents may be in a file.
            "write" if self.from.is_some() => Action::Copy(from()?),
            "write" => Action::Write(text()?),
            "append" => Action::Append(text()?),
            "copy" => Action::Copy(from()?),
            "extract" => Action::Extract(from()?),
            "mkdir" => Action::MakeDir,
            "symlink" => {
                let target = self.target.clone().ok_or(missing("target"))?;
                Action::Symlink(target.into_bytes())
            }
            "rm" => Action::Remove,
            "chmod" => Action::ChangeMode(mode.ok_or(missing("mode"))?),
            _ => Action::ChangeOwner(self.owner.clone().ok_or(missing("owner"))?),
        };
        let takes = |keys: &[&str]| {
            let extras = [
                ("text", self.text.is_some()),
                ("from", self.from.is_some()),
                ("target", self.target.is_some()),
                ("mode", self.mode.is_some()),
                ("owner", self.owner.is_some()),
            ];
            extras
                .into_iter()
                .find(|(key, given)| *given && !keys.contains(key))
                .map(|(extra, _)| ParseError::Extra { verb, extra })
        };
        let extra = match action {
            Action::Write(_) | Action::Append(_) => takes(&["text", "mode", "owner"]),
            Action::Copy(_) => takes(&["from", "mode", "owner"]),
            Action::Extract(_) => takes(&["from", "owner"]),
            Action::MakeDir => takes(&["mode", "owner"]),
            Action::Symlink(_) => takes(&["target", "owner"]),
            Action::Remove => takes(&[]),
            Action::ChangeMode(_) => takes(&["mode"]),
            Action::ChangeOwner(_) => takes(&["owner"]),
        };
        if let Some(extra) = extra {
            return Err(extra);
        }
        let mut patch = Patch::new(path, action);
        (patch.mode, patch.owner) = (mode, self.owner);
        Ok(patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_is_read_with_its_value() {
        let parse = |text: &str| text.parse::<Patch>().unwrap();
        assert_eq!(parse("write:/a=b=c\n"), Patch::write("/a", "b=c\n"));
        assert_eq!(parse("append:/a="), Patch::append("/a", ""));
        assert_eq!(parse("copy:/a=/b"), Patch::copy("/a", "/b"));
        assert_eq!(parse("extract:/a=/b.tar"), Patch::extract("/a", "/b.tar"));
        assert_eq!(parse("mkdir:/a"), Patch::make_dir("/a"));
        assert_eq!(parse("mkdir:/a=1777"), Patch::make_dir("/a").mode(0o1777));
        assert_eq!(parse("symlink:/a=../b"), Patch::symlink("/a", "../b"));
        assert_eq!(parse("rm:/a"), Patch::remove("/a"));
        let chmod = Patch::new("/a", Action::ChangeMode(0o600));
        assert_eq!(parse("chmod:/a=0600"), chmod);
        let chown = Patch::new("/a", Action::ChangeOwner("app:staff".into()));
        assert_eq!(parse("chown:/a=app:staff"), chown);
    }

    #[test]
    fn a_text_that_is_not_a_patch_is_refused_with_what_is_missing() {
        let refused = |text: &str| text.parse::<Patch>().unwrap_err().to_string();
        assert!(refused("wirte:/a=b").contains("\"wirte\" is not a verb"));
        assert!(refused("write:/a").contains("PATH=TEXT"));
        assert!(refused("write:=b").contains("a path"));
        assert!(refused("chmod:/a=rwx").contains("\"rwx\""));
        assert!(refused("chmod:/a=+7").contains("\"+7\""));
        assert!(refused("rm:/a=b").contains("does not take"));
        assert!(refused("").contains("not a verb"));
    }

    #[test]
    fn a_file_of_patches_is_read_in_order_and_relative_to_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.toml");
        std::fs::write(
            &path,
            "[[patch]]\nwrite = '/a'\ntext = 'x'\nmode = '600'\nowner = 'app'\n\
             [[patch]]\ncopy = '/b'\nfrom = 'sub/b'\n[[patch]]\nrm = '/c'\n",
        )
        .unwrap();
        assert_eq!(
            read_file(&path).unwrap(),
            [
                Patch::write("/a", "x").mode(0o600).owner("app"),
                Patch::copy("/b", folder.path().join("sub/b")),
                Patch::remove("/c"),
            ]
        );
        for (text, wanted) in [
            ("[[patch]]\ntext = 'x'\n", "patch 1: it has 0 verbs"),
            (
                "[[patch]]\nrm = '/a'\n[[patch]]\nrm = '/a'\ntext = ''\n",
                "patch 2",
            ),
            ("[[patch]]\nrm = '/a'\nmkdir = '/b'\n", "2 verbs"),
            ("[[patch]]\nremove = '/a'\n", "remove"),
            ("patch = 1", "p.toml"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = read_file(&path).unwrap_err().to_string();
            assert!(
                error.contains(wanted) && error.contains("p.toml"),
                "{error}"
            );
        }
    }
}
