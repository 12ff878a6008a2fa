//! containers-registries.conf(5), version 2: mirrors, blocked and insecure registries, names
//! without a host.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::name::{self, DOCKER_HUB};
use crate::{Error, Reference, Registries};

/// The largest such file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// The requests that a mirror receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) enum PullFrom {
    #[default]
    #[serde(rename = "all")]
    All,
    #[serde(rename = "digest-only")]
    DigestOnly,
    #[serde(rename = "tag-only")]
    TagOnly,
}

/// All files together.
#[derive(Debug, Default)]
pub(super) struct Conf {
    /// Each with the file that has it.
    registries: Vec<(PathBuf, Registry)>,
    search: Vec<String>,
    aliases: Vec<(String, String)>,
    /// What knows credentials, where a file says so.
    pub(super) helpers: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    unqualified_search_registries: Option<Vec<String>>,
    credential_helpers: Option<Vec<String>>,
    registry: Vec<Registry>,
    aliases: std::collections::BTreeMap<String, String>,
    /// Version 1.
    registries: Option<toml::Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Registry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<MirrorEntry>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct MirrorEntry {
    location: String,
    insecure: bool,
    pull_from_mirror: Option<PullFrom>,
}

/// A server of a repository.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) host: String,
    pub(super) repository: String,
    pub(super) insecure: bool,
    pub(super) pull_from: PullFrom,
    /// Whether it is the registry itself.
    pub(super) primary: bool,
}

impl Conf {
    /// The files that `registries` names.
    pub(super) fn read(registries: &Registries) -> Result<Self, Error> {
        let files = match registries {
            Registries::None => Vec::new(),
            Registries::Files(files) => files.clone(),
            Registries::Default => default_files(),
        };
        let mut conf = Self::default();
        for path in files {
            conf.add(&path, &read_text(&path)?)?;
        }
        Ok(conf)
    }

    /// Adds the file `path` with the contents `text`: its entries for a prefix replace earlier
    /// ones.
    fn add(&mut self, path: &Path, text: &str) -> Result<(), Error> {
        let invalid = |problem: String| Error::RegistriesFile {
            path: path.to_owned(),
            problem,
        };
        let file = parse(text).map_err(|error| {
            let line = error.span().map(|span| {
                let before = text.get(..span.start).unwrap_or_default();
                format!("line {}: ", before.matches('\n').count() + 1)
            });
            invalid(format!("{}{}", line.unwrap_or_default(), error.message()))
        })?;
        if file.registries.is_some() {
            return Err(invalid(
                "it is in version 1 of the format, version 2 expected".to_owned(),
            ));
        }
        if let Some(search) = file.unqualified_search_registries {
            self.search = search;
        }
        if let Some(helpers) = file.credential_helpers {
            self.helpers = Some(helpers);
        }
        for (name, alias) in file.aliases {
            self.aliases.retain(|(known, _)| *known != name);
            if !alias.is_empty() {
                self.aliases.push((name, alias));
            }
        }
        for mut registry in file.registry {
            if registry.prefix.is_empty() {
                registry.prefix = registry.location.clone();
            }
            // As in references.
            registry.prefix = with_lower_host(&registry.prefix);
            if registry.prefix.is_empty() {
                return Err(invalid(
                    "a registry has neither a prefix nor a location".to_owned(),
                ));
            }
            if registry
                .mirror
                .iter()
                .any(|mirror| mirror.location.is_empty())
            {
                let prefix = &registry.prefix;
                return Err(invalid(format!("a mirror of {prefix} has no location")));
            }
            self.registries
                .retain(|(_, known)| known.prefix != registry.prefix);
            self.registries.push((path.to_owned(), registry));
        }
        Ok(())
    }

    #[cfg(fuzzing)]
    pub(super) fn fuzz(text: &str) -> Result<Self, Error> {
        let mut conf = Self::default();
        conf.add(Path::new("fuzz"), text)?;
        Ok(conf)
    }

    /// The servers of `HOST/REPOSITORY` in the order of requests; the last one is the registry
    /// itself.
    pub(super) fn sites(&self, host: &str, repository: &str) -> Result<Vec<Site>, Error> {
        let name = format!("{host}/{repository}");
        let matching = self.registries.iter().filter_map(|entry| {
            let rest = rest_after(&entry.1.prefix, host, &name)?;
            Some((entry.1.prefix.len(), rest, entry))
        });
        let Some((_, rest, (path, registry))) = matching.max_by_key(|(length, ..)| *length) else {
            return Ok(vec![Site {
                host: host.to_owned(),
                repository: repository.to_owned(),
                insecure: false,
                pull_from: PullFrom::All,
                primary: true,
            }]);
        };
        if registry.blocked {
            return Err(Error::Blocked {
                name,
                path: path.clone(),
            });
        }
        let site = |location: &str, insecure, pull_from, primary| {
            let renamed = match location {
                "" => name.clone(),
                location => format!("{location}{rest}"),
            };
            let invalid = || Error::RegistriesFile {
                path: path.clone(),
                problem: format!("{renamed:?} is not the name of a repository"),
            };
            let (host, repository) = renamed.split_once('/').ok_or_else(invalid)?;
            let host = host.to_ascii_lowercase();
            if !name::is_host(&host) || !name::is_repository(repository) {
                return Err(invalid());
            }
            Ok(Site {
                host,
                repository: repository.to_owned(),
                insecure,
                pull_from,
                primary,
            })
        };
        let mirrors = registry.mirror.iter().map(|mirror| {
            let pull_from = match registry.mirror_by_digest_only {
                true => PullFrom::DigestOnly,
                false => mirror.pull_from_mirror.unwrap_or_default(),
            };
            site(&mirror.location, mirror.insecure, pull_from, false)
        });
        let own = site(&registry.location, registry.insecure, PullFrom::All, true);
        mirrors.chain([own]).collect()
    }

    /// The full names that `name`, which has no host, may mean, in the order to try. Without a list
    /// of registries to search, it is Docker Hub's.
    pub(super) fn candidates(&self, name: &str) -> Vec<String> {
        let end = name.find([':', '@']).unwrap_or(name.len());
        let (bare, suffix) = name.split_at(end);
        if let Some((_, alias)) = self.aliases.iter().find(|(known, _)| known == bare) {
            return vec![format!("{alias}{suffix}")];
        }
        if self.search.is_empty() {
            return vec![format!("{DOCKER_HUB}/{name}")];
        }
        let hosts = self.search.iter();
        hosts.map(|host| format!("{host}/{name}")).collect()
    }
}

impl Reference {
    /// The images that `text` may mean, in the order to try. There is one but for names without a
    /// host, where `registries` has a list of registries to search
    /// (`unqualified-search-registries`) and no alias for the name.
    ///
    /// ```
    /// use ocipull::{Reference, Registries};
    ///
    /// let candidates = Reference::candidates("debian", &Registries::None)?;
    /// assert_eq!(candidates, ["docker.io/library/debian".parse()?]);
    /// # Ok::<(), ocipull::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of parsing `text`, and of the files that `registries` names.
    pub fn candidates(text: &str, registries: &Registries) -> Result<Vec<Self>, Error> {
        let parsed: Self = text.parse()?;
        let name = text.strip_prefix("docker://").unwrap_or(text);
        let host = name.split_once('/').map_or("", |(host, _)| host);
        if !matches!(parsed, Self::Registry { .. }) || name::is_hostlike(host) {
            return Ok(vec![parsed]);
        }
        let names = Conf::read(registries)?.candidates(name).into_iter();
        names.map(|name| name.parse()).collect()
    }
}

/// Parses a file. Podman takes keys in any case, and what is blocked there must be so here.
fn parse(text: &str) -> Result<File, toml::de::Error> {
    let mut table: toml::Table = toml::from_str(text)?;
    match lower_keys(&mut table) {
        true => File::deserialize(table),
        // Errors of this have their line.
        false => toml::from_str(text),
    }
}

/// Puts the keys of a table, and of the tables of registries and mirrors in it, in lower case.
/// Returns whether any was not.
fn lower_keys(table: &mut toml::Table) -> bool {
    let mut changed = false;
    for (key, mut value) in std::mem::take(table) {
        let lower = key.to_ascii_lowercase();
        if matches!(lower.as_str(), "registry" | "mirror") {
            let entries = value.as_array_mut().into_iter().flatten();
            for entry in entries.filter_map(toml::Value::as_table_mut) {
                changed |= lower_keys(entry);
            }
        }
        changed |= lower != key;
        table.insert(lower, value);
    }
    changed
}

/// `name` with its host in lower case.
fn with_lower_host(name: &str) -> String {
    match name.split_once('/') {
        Some((host, rest)) => format!("{}/{rest}", host.to_ascii_lowercase()),
        None => name.to_ascii_lowercase(),
    }
}

/// The rest of `name` after `prefix`; `None` if it does not begin with it. `*.example.com` is a
/// prefix of all hosts below.
fn rest_after<'a>(prefix: &str, host: &str, name: &'a str) -> Option<&'a str> {
    if let Some(domain) = prefix.strip_prefix('*') {
        let below = domain.starts_with('.') && host.ends_with(domain);
        return below.then(|| &name[host.len()..]);
    }
    let rest = name.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

fn read_text(path: &Path) -> Result<String, Error> {
    use std::io::Read as _;
    let io = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let file = blockbox_files::open_regular(path).map_err(io)?;
    file.take(MAX_FILE).read_to_string(&mut text).map_err(io)?;
    Ok(text)
}

/// The files that exist, in the order they are read.
fn default_files() -> Vec<PathBuf> {
    let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let user = folder("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| folder("HOME").map(|home| PathBuf::from(home).join(".config")));
    let user = user.map(|dir| dir.join("containers"));
    let system = PathBuf::from("/etc/containers");
    let cache = folder("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| folder("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let mut files = Vec::new();
    if let Some(named) = folder("CONTAINERS_REGISTRIES_CONF") {
        return vec![PathBuf::from(named)];
    }
    let folders: Vec<_> = user.into_iter().chain([system]).collect();
    let main = folders.iter().map(|dir| dir.join("registries.conf"));
    files.extend(main.filter(|path| path.is_file()).take(1));
    // The system's before the user's, which replace them.
    for dir in folders.iter().rev() {
        let Ok(entries) = dir.join("registries.conf.d").read_dir() else {
            continue;
        };
        let mut parts: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        parts.retain(|path| path.extension().is_some_and(|e| e == "conf") && path.is_file());
        parts.sort();
        files.extend(parts);
    }
    // What podman has asked its user.
    let chosen = cache.map(|dir| dir.join("containers/short-name-aliases.conf"));
    files.extend(chosen.filter(|path| path.is_file()));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(text: &str) -> Conf {
        let mut conf = Conf::default();
        conf.add(Path::new("test.conf"), text).unwrap();
        conf
    }

    fn places(conf: &Conf, host: &str, repository: &str) -> Vec<String> {
        let sites = conf.sites(host, repository).unwrap().into_iter();
        sites
            .map(|site| format!("{}/{}", site.host, site.repository))
            .collect()
    }

    #[test]
    fn the_longest_prefix_decides() {
        let conf = conf(
            r#"
            [[registry]]
            prefix = "x.y/a"
            location = "z/b"
            [[registry.mirror]]
            location = "m:5000/c"
            insecure = true
            pull-from-mirror = "digest-only"
            [[registry]]
            location = "x.y"
            insecure = true
            [[registry]]
            prefix = "*.w"
            location = "v/all"
            "#,
        );
        assert_eq!(places(&conf, "x.y", "a/d"), ["m:5000/c/d", "z/b/d"]);
        assert_eq!(places(&conf, "x.y", "a"), ["m:5000/c", "z/b"]);
        assert_eq!(places(&conf, "x.y", "ab"), ["x.y/ab"]);
        assert_eq!(places(&conf, "x.y.z", "a"), ["x.y.z/a"]);
        assert_eq!(places(&conf, "u.w", "a"), ["v/all/a"]);
        let sites = conf.sites("x.y", "a").unwrap();
        assert_eq!(
            (sites[0].insecure, sites[0].pull_from, sites[0].primary),
            (true, PullFrom::DigestOnly, false)
        );
        assert_eq!((sites[1].insecure, sites[1].primary), (false, true));
        assert!(conf.sites("x.y", "ab").unwrap()[0].insecure);
    }

    #[test]
    fn blocked_registries_are_named_with_the_file_that_blocks_them() {
        let conf = conf("[[registry]]\nprefix = 'x.y/secret'\nblocked = true\n");
        let error = conf.sites("x.y", "secret/a").unwrap_err();
        assert_eq!(error.to_string(), "x.y/secret/a is blocked by test.conf");
        assert!(conf.sites("x.y", "secrets").is_ok());
    }

    #[test]
    fn blocked_registries_are_refused_in_every_spelling_of_their_host() {
        for text in [
            "[[registry]]\nLocation = 'x.y'\nBlocked = true\n",
            "[[Registry]]\nprefix = 'X.Y'\nblocked = true\n",
            "[[registry]]\nPREFIX = '*.Y'\nlocation = 'z'\nBLOCKED = true\n",
        ] {
            let error = conf(text).sites("x.y", "a").unwrap_err();
            assert!(matches!(error, Error::Blocked { .. }), "{text}");
        }
        let conf = conf("[[registry]]\nlocation='x.y'\n[[Registry.Mirror]]\nLocation='m/A'\n");
        assert_eq!(conf.sites("x.y", "a").unwrap().len(), 1);
    }

    #[test]
    fn later_files_replace_prefixes_of_earlier_ones() {
        let mut conf = conf(
            "unqualified-search-registries = ['a.b']\n[[registry]]\nlocation = 'x.y'\nblocked = true\n",
        );
        conf.add(Path::new("b"), "[[registry]]\nlocation = 'x.y'\n")
            .unwrap();
        assert_eq!(places(&conf, "x.y", "a"), ["x.y/a"]);
        assert_eq!(conf.candidates("app:1"), ["a.b/app:1"]);
    }

    #[test]
    fn short_names_are_looked_for_where_the_file_says() {
        let file = conf(
            "unqualified-search-registries = ['a.b', 'c.d']\n[aliases]\ndebian = 'docker.io/library/debian'\n",
        );
        assert_eq!(file.candidates("app"), ["a.b/app", "c.d/app"]);
        assert_eq!(
            file.candidates("debian:12"),
            ["docker.io/library/debian:12"]
        );
        assert_eq!(Conf::default().candidates("app@d"), ["docker.io/app@d"]);
    }

    #[test]
    fn names_with_a_host_are_not_looked_for_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registries.conf");
        std::fs::write(&path, "unqualified-search-registries = ['a.b', 'c.d:5000']").unwrap();
        let files = Registries::Files(vec![path]);
        let names = |text: &str| {
            let found = Reference::candidates(text, &files).unwrap().into_iter();
            found
                .map(|reference| reference.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names("team/app:1"),
            ["a.b/team/app:1", "c.d:5000/team/app:1"]
        );
        assert_eq!(names("localhost/app"), ["localhost/app:latest"]);
        assert_eq!(names("oci:app"), ["oci:app"]);
    }

    #[test]
    fn errors_in_a_file_are_reported_with_their_line() {
        let problem = |text: &str| match Conf::default().add(Path::new("f"), text) {
            Err(Error::RegistriesFile { problem, .. }) => problem,
            other => panic!("{other:?}"),
        };
        assert!(problem("\n\n[[registry]\n").starts_with("line 3: "));
        assert!(problem("[registries.search]\nregistries = []\n").contains("version 1"));
        assert!(problem("[[registry]]\n").contains("neither"));
        assert!(
            problem("[[registry]]\nlocation='x'\n[[registry.mirror]]\n").contains("no location")
        );
        let conf = conf("[[registry]]\nprefix='x.y'\nlocation='not a host'\n");
        assert!(conf.sites("x.y", "a").is_err());
    }
}
