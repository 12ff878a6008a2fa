//! Checks that modules of the libraries, and of some crates of the runtime, do not import each
//! other in circles.
//!
//! An approximate reading of the sources is enough: `use` statements, and paths that begin with
//! `crate`, `self`, `super` or an imported or own module. A re-export counts as an import from
//! where the item is defined.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::shell;

/// The sources of the libraries whose modules are layered.
const LAYERED: [&str; 16] = [
    "runtime/archive/src",
    "runtime/convert/src",
    "runtime/net/src",
    "runtime/protocol/src",
    "runtime/sandbox/src",
    "runtime/store/src",
    "runtime/vmm/src",
    "erofs-reader/src",
    "erofs-writer/src",
    "ext4-writer/src",
    "fsmerge/src",
    "fsmerge/path/src",
    "fsmerge/tar/src",
    "ocipull/files/src",
    "ocipull/src",
    "vmdk/src",
];

/// A module path; the crate's root is empty.
type Module = Vec<String>;

/// The sources of a crate by module, without tests and comments.
struct Sources(BTreeMap<Module, String>);

impl Sources {
    fn read(root: &Path) -> Self {
        let mut sources = Self(BTreeMap::new());
        sources.read_folder(root, &mut Vec::new());
        sources
    }

    fn read_folder(&mut self, folder: &Path, module: &mut Module) {
        for entry in fs::read_dir(folder).expect("a folder of sources") {
            let path = entry.expect("a file").path();
            let name = path.file_stem().and_then(|name| name.to_str());
            let name = name.expect("a name in ASCII").to_owned();
            if path.is_dir() {
                module.push(name);
                self.read_folder(&path, module);
                module.pop();
            } else if name != "tests" {
                let mut of_file = module.clone();
                if !["lib", "mod"].contains(&&*name) {
                    of_file.push(name);
                }
                let text = fs::read_to_string(&path).expect("a source");
                self.0.insert(of_file, without_tests(&text));
            }
        }
    }

    /// Returns the modules that each module imports.
    fn graph(&self) -> BTreeMap<&Module, BTreeSet<Module>> {
        let needs = |needing: &Module, text: &str| {
            let (uses, rest) = split_uses(text);
            let private = uses.iter().filter(|(public, _)| !public);
            let mut paths: Vec<String> = private.flat_map(|(_, tree)| expanded(tree)).collect();
            let imported: BTreeMap<String, String> = uses
                .iter()
                .flat_map(|(_, tree)| expanded(tree))
                .filter_map(|path| Some((path.rsplit("::").next()?.to_owned(), path)))
                .collect();
            paths.extend(paths_in(&rest).into_iter().map(|path| {
                let (first, inner) = path.split_once("::").unwrap_or((&path, ""));
                match imported.get(first) {
                    // A path by an imported module names what is in there.
                    Some(module) if self.resolve(needing, module).is_some() => {
                        format!("{module}::{inner}")
                    }
                    _ => path,
                }
            }));
            let found = paths.iter().filter_map(|path| self.resolve(needing, path));
            found.filter(|found| found != needing).collect()
        };
        let modules = self.0.iter().filter(|(module, _)| !module.is_empty());
        modules
            .map(|(module, text)| (module, needs(module, text)))
            .collect()
    }

    /// Returns the module that defines what `path` names in `module`, if it belongs to the crate
    /// and is not its root.
    fn resolve(&self, module: &Module, path: &str) -> Option<Module> {
        let mut names = path
            .split("::")
            .map(|name| name.trim().to_owned())
            .peekable();
        let mut at = match names.peek()?.as_str() {
            "crate" => {
                names.next();
                Module::new()
            }
            "self" => {
                names.next();
                module.clone()
            }
            "super" => module.clone(),
            child => {
                let at = [&module[..], &[child.to_owned()]].concat();
                self.0.get(&at)?;
                module.clone()
            }
        };
        while names.next_if(|name| name == "super").is_some() {
            at.pop()?;
        }
        while let Some(name) = names.peek() {
            let inner = [&at[..], std::slice::from_ref(name)].concat();
            if !self.0.contains_key(&inner) {
                break;
            }
            at = inner;
            names.next();
        }
        if let Some(name) = names.next()
            && let Some(from) = self.re_export(&at, &name)
        {
            return self.resolve(&at, &from);
        }
        (!at.is_empty()).then_some(at)
    }

    /// Returns the path that `module` re-exports `name` from.
    fn re_export(&self, module: &Module, name: &str) -> Option<String> {
        let (uses, _) = split_uses(self.0.get(module)?);
        let public = uses.iter().filter(|(public, _)| *public);
        let mut paths = public.flat_map(|(_, tree)| expanded(tree));
        paths.find(|path| path.rsplit("::").next() == Some(name))
    }
}

/// Removes the tests at the end of a source, and comments.
fn without_tests(text: &str) -> String {
    let tests = ["", "pub(super) ", "pub(crate) "];
    let tests = tests.map(|public| format!("#[cfg(test)]\n{public}mod tests"));
    let tests = tests.iter().find_map(|begin| text.find(begin));
    let tests = tests.or_else(|| text.find("#[cfg(all(test"));
    let code = text[..tests.unwrap_or(text.len())].lines();
    let code = code.map(|line| line.split("//").next().unwrap_or_default());
    code.collect::<Vec<_>>().join("\n")
}

/// Returns the trees of all `use` statements, with whether they are re-exports, and the rest of the
/// source.
fn split_uses(text: &str) -> (Vec<(bool, String)>, String) {
    let (mut uses, mut rest) = (Vec::new(), String::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let trimmed = line.trim_start();
        let public = trimmed.starts_with("pub");
        let tree = match trimmed.split_once("use ") {
            Some(("", tree)) => tree,
            Some((before, tree)) if public && !before.contains(char::is_whitespace) => tree,
            Some((before, tree)) if public && before.trim_end().starts_with("pub") => tree,
            _ => {
                rest.push_str(line);
                rest.push('\n');
                continue;
            }
        };
        let mut tree = tree.to_owned();
        while !tree.contains(';') {
            tree.push_str(lines.next().expect("a statement ends"));
        }
        uses.push((
            public,
            tree.split(';').next().unwrap_or_default().to_owned(),
        ));
    }
    (uses, rest)
}

/// Returns all paths of a tree such as `crate::{a, b::{self, c as d}}`.
fn expanded(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((prefix, inner)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        return vec![path.trim_end_matches("::self").to_owned()];
    };
    let inner = inner.strip_suffix('}').expect("braces are closed");
    let (mut depth, mut start, mut paths) = (0, 0, Vec::new());
    for (at, byte) in inner.bytes().chain([b',']).enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                let part = inner[start..at].trim();
                if !part.is_empty() {
                    paths.extend(expanded(&format!("{}{part}", prefix.trim())));
                }
                start = at + 1;
            }
            _ => {}
        }
    }
    paths
}

/// Returns paths in code.
fn paths_in(code: &str) -> Vec<String> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let words = code.split(|c| !is_path(c));
    let words = words.map(|word| word.trim_matches(':'));
    words
        .filter(|word| word.contains("::"))
        .map(str::to_owned)
        .collect()
}

/// Removes modules that import no others, and those that no others import, until there are none.
/// Only circles, and modules between them, are left.
fn circles(mut graph: BTreeMap<&Module, BTreeSet<Module>>) -> Vec<String> {
    loop {
        let needed_by_any: BTreeSet<Module> = graph.values().flatten().cloned().collect();
        let left: BTreeSet<Module> = graph.keys().map(|module| (*module).clone()).collect();
        let before = graph.len();
        graph.retain(|module, needed| {
            needed.retain(|other| left.contains(other));
            !needed.is_empty() && needed_by_any.contains(*module)
        });
        if graph.len() == before {
            break;
        }
    }
    let line = |(module, needed): (&&Module, &BTreeSet<Module>)| {
        let needed: Vec<String> = needed.iter().map(|other| other.join("::")).collect();
        format!("{} needs {}", module.join("::"), needed.join(", "))
    };
    graph.iter().map(line).collect()
}

#[test]
fn modules_of_the_libraries_do_not_import_each_other_in_circles() {
    let (mut modules, mut imports) = (0, 0);
    for root in LAYERED {
        let sources = Sources::read(&shell::repository().join(root));
        let graph = sources.graph();
        modules += graph.len();
        imports += graph.values().map(BTreeSet::len).sum::<usize>();
        let circles = circles(graph);
        assert!(circles.is_empty(), "{root}:\n{}", circles.join("\n"));
    }
    assert!(imports > modules, "imports were not understood");
}

#[test]
fn circles_through_re_exports_and_imported_modules_are_found() {
    let module = |name: &str| name.split("::").map(str::to_owned).collect::<Module>();
    let sources = Sources(BTreeMap::from([
        (Module::new(), "pub use a::A;".to_owned()),
        (module("a"), "use super::b::inner::{self, B};".to_owned()),
        (module("b"), "pub(crate) use inner::B;".to_owned()),
        (module("b::inner"), "fn f() { crate::c::f() }".to_owned()),
        (module("c"), "use crate::{A};".to_owned()),
        (module("d"), "use crate::A;\nuse crate::b::B;".to_owned()),
        (
            module("e"),
            "use crate::b;\nfn f() { b::inner::f(); g::h() }".to_owned(),
        ),
        (module("e::g"), "fn h() { super::f() }".to_owned()),
    ]));
    let graph = sources.graph();
    assert_eq!(
        graph[&module("d")],
        BTreeSet::from(["a", "b::inner"].map(module))
    );
    assert_eq!(
        graph[&module("e")],
        BTreeSet::from(["b", "b::inner", "e::g"].map(module))
    );
    let found = circles(graph);
    let through_a_module = "e needs b::inner, e::g".to_owned();
    assert!(found.contains(&through_a_module), "{found:?}");
    assert!(found.contains(&"a needs b::inner".to_owned()), "{found:?}");
    assert!(found.contains(&"b::inner needs c".to_owned()), "{found:?}");
    assert!(found.contains(&"c needs a".to_owned()), "{found:?}");
}
