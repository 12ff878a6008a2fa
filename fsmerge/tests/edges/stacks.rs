//! Random stacks of layers, and what they must look like merged: told by a simple model here, by the kernel in
//! `kernel.rs`.

use fsmerge::{Attributes, Kind, LayerBuilder, Limits, NodeId};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use testkit::TarBuilder;

/// What an entry of a random layer is.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Directory { opaque: bool },
    File,
    Symlink,
    Device,
    Fifo,
    Link(Vec<&'static str>),
    Whiteout,
}

/// An entry of a random layer.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<&'static str>,
    pub(crate) step: Step,
    /// Tells its attributes and contents from those of others.
    pub(crate) mark: u16,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn path() -> impl Strategy<Value = Vec<&'static str>> {
    vec(prop::sample::select(&NAMES[..]), 1..=3)
}

fn entry() -> impl Strategy<Value = Entry> {
    let step = prop_oneof![
        3 => any::<bool>().prop_map(|opaque| Step::Directory { opaque }),
        3 => Just(Step::File),
        1 => Just(Step::Symlink),
        1 => Just(Step::Device),
        1 => Just(Step::Fifo),
        2 => path().prop_map(Step::Link),
        2 => Just(Step::Whiteout),
    ];
    (path(), step, 0..1000_u16).prop_map(|(path, step, mark)| Entry { path, step, mark })
}

/// Stacks of one to four layers.
pub(crate) fn stacks() -> impl Strategy<Value = Vec<Vec<Entry>>> {
    vec(vec(entry(), 0..12), 1..=4).prop_map(|layers| layers.into_iter().map(consistent).collect())
}

/// Drops the entries that a layer made from a directory cannot have: two of one name, one below what is no directory.
/// Parents come first, and every parent has an entry.
fn consistent(entries: Vec<Entry>) -> Vec<Entry> {
    let mut kept: BTreeMap<Vec<&'static str>, Entry> = BTreeMap::new();
    for entry in entries {
        let parents: Vec<_> = (1..entry.path.len())
            .map(|len| entry.path[..len].to_vec())
            .collect();
        let fits = !kept.contains_key(&entry.path)
            && parents.iter().all(|parent| {
                kept.get(parent)
                    .is_none_or(|known| matches!(known.step, Step::Directory { .. }))
            });
        if !fits {
            continue;
        }
        for parent in parents {
            let implied = Entry {
                path: parent.clone(),
                step: Step::Directory { opaque: false },
                mark: entry.mark,
            };
            kept.entry(parent).or_insert(implied);
        }
        kept.insert(entry.path.clone(), entry);
    }
    // A link needs a target of its own layer: what is linked to is settled by name, first come first served.
    let files: Vec<_> = kept
        .values()
        .filter(|entry| {
            matches!(
                entry.step,
                Step::File | Step::Symlink | Step::Device | Step::Fifo
            )
        })
        .map(|entry| entry.path.clone())
        .collect();
    let mut entries: Vec<Entry> = kept.into_values().collect();
    entries.retain_mut(|entry| match &mut entry.step {
        Step::Link(target) => match files.get(entry.mark as usize % files.len().max(1)) {
            Some(file) => {
                target.clone_from(file);
                true
            }
            None => false,
        },
        _ => true,
    });
    entries
}

impl Entry {
    pub(crate) fn mode(&self) -> u32 {
        match self.step {
            // As Linux gives every symlink.
            Step::Symlink => 0o777,
            _ => 0o700 + u32::from(self.mark % 0o100),
        }
    }

    pub(crate) fn uid(&self) -> u32 {
        self.mark.into()
    }

    pub(crate) fn contents(&self) -> String {
        format!("contents {}", self.mark)
    }

    pub(crate) fn target(&self) -> String {
        format!("target {}", self.mark)
    }

    /// The path as text.
    pub(crate) fn name(&self) -> String {
        self.path.join("/")
    }
}

/// A layer's tar. Marks go before or behind everything else.
pub(crate) fn tar(entries: &[Entry], marks_first: bool) -> Vec<u8> {
    let marked = |mut tar: TarBuilder| {
        for entry in entries {
            let (parents, last) = entry.path.split_at(entry.path.len() - 1);
            match entry.step {
                Step::Whiteout => {
                    tar = tar.file(
                        [parents, &[&format!(".wh.{}", last[0])]].concat().join("/"),
                        "",
                    );
                }
                Step::Directory { opaque: true } => {
                    tar = tar.file(entry.name() + "/.wh..wh..opq", "");
                }
                _ => {}
            }
        }
        tar
    };
    let mut tar = TarBuilder::new();
    if marks_first {
        tar = marked(tar);
    }
    for entry in entries {
        tar = tar.mode(entry.mode()).owner(entry.uid(), 1);
        tar = match &entry.step {
            Step::Directory { .. } => tar
                .xattr("trusted.mark", entry.mark.to_string())
                .dir(entry.name() + "/"),
            Step::File => tar
                .xattr("user.mark", entry.mark.to_string())
                .file(entry.name(), entry.contents()),
            Step::Symlink => tar.symlink(entry.name(), entry.target()),
            Step::Device => tar.device(entry.name(), b'3', 1, entry.mark.into()),
            Step::Fifo => tar.entry(entry.name(), b'6', "", ""),
            Step::Link(target) => tar.link(entry.name(), target.join("/")),
            Step::Whiteout => tar,
        };
    }
    if !marks_first {
        tar = marked(tar);
    }
    tar.finish()
}

/// What the model knows of a node: which layer and which entry of it made it.
type Origin = (usize, String);

/// The simplest way to merge: apply one layer after the other on a map, as unpacking does.
fn model(layers: &[Vec<Entry>]) -> BTreeMap<String, Origin> {
    let mut view: BTreeMap<String, Origin> = BTreeMap::new();
    let mut directories = std::collections::BTreeSet::new();
    let below = |path: &str, name: &String| name.starts_with(&format!("{path}/"));
    for (number, entries) in layers.iter().enumerate() {
        // Whiteouts act first.
        for entry in entries {
            let path = entry.name();
            match entry.step {
                Step::Whiteout => view.retain(|name, _| *name != path && !below(&path, name)),
                Step::Directory { opaque: true } => view.retain(|name, _| !below(&path, name)),
                _ => {}
            }
        }
        for entry in entries {
            let path = entry.name();
            let origin = match &entry.step {
                Step::Whiteout => continue,
                Step::Link(target) => (number, target.join("/")),
                _ => (number, path.clone()),
            };
            let directory = matches!(entry.step, Step::Directory { .. });
            let was = view
                .get(&path)
                .is_some_and(|known| directories.contains(known));
            if !(directory && was) {
                view.retain(|name, _| *name != path && !below(&path, name));
            }
            if directory {
                directories.insert(origin.clone());
            }
            view.insert(path, origin);
        }
    }
    view
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_stacks_merge_as_the_model_says(layers in stacks(), marks_first: bool) {
        let store = crate::support::Store::default();
        let trees: Vec<_> = layers
            .iter()
            .map(|entries| store.read(&tar(entries, marks_first)).unwrap().0)
            .collect();
        let merged = crate::support::try_merge(&trees).unwrap();
        let model = model(&layers);
        let names: Vec<String> = merged
            .walk()
            .skip(1)
            .map(|(path, _)| String::from_utf8(path).unwrap())
            .collect();
        prop_assert_eq!(&names, &in_walk_order(model.keys()));
        let mut nodes: BTreeMap<&Origin, Vec<NodeId>> = BTreeMap::new();
        for (path, (layer, name)) in &model {
            let id = merged.find(path.as_bytes()).unwrap();
            let entry = layers[*layer].iter().find(|entry| entry.name() == *name).unwrap();
            prop_assert_eq!(merged.layer(id), Some(*layer as u16));
            let attributes = merged.attributes(id);
            prop_assert_eq!(u32::from(attributes.mode), entry.mode());
            prop_assert_eq!(attributes.uid, entry.uid());
            let matches = match (merged.kind(id), &entry.step) {
                (Kind::Directory { opaque: false, implied: false }, Step::Directory { .. }) => {
                    attributes.xattrs.get(b"trusted.mark") == Some(entry.mark.to_string().as_bytes())
                }
                (kind @ Kind::File { .. }, Step::File) => {
                    store.get(kind) == entry.contents().into_bytes()
                        && merged.data_layer(id) == Some(*layer as u16)
                }
                (Kind::Symlink(target), Step::Symlink) => target == entry.target().as_bytes(),
                (Kind::CharDevice { major: 1, minor }, Step::Device) => minor == u32::from(entry.mark),
                (Kind::Fifo, Step::Fifo) => true,
                _ => false,
            };
            prop_assert!(matches, "{}: {:?} {:?}", path, merged.kind(id), entry);
            nodes.entry(&model[path]).or_default().push(id);
        }
        for ids in nodes.values() {
            prop_assert!(ids.iter().all(|id| *id == ids[0]));
            if !merged.kind(ids[0]).is_directory() {
                prop_assert_eq!(merged.nlink(ids[0]) as usize, ids.len());
            }
        }
    }

    #[test]
    fn shuffled_entries_give_the_same_layer(
        (entries, shuffled) in stacks()
            .prop_map(|mut layers| layers.pop().unwrap())
            .prop_flat_map(|entries| (Just(entries.clone()), Just(entries).prop_shuffle())),
        marks_first: bool,
    ) {
        prop_assert_eq!(dump(&tar(&entries, true)), dump(&tar(&shuffled, marks_first)));
    }

    #[test]
    fn a_layer_built_by_hand_equals_the_one_read(entries in stacks()) {
        for entries in entries {
            let read = crate::support::layer(&tar(&entries, true));
            let mut builder = LayerBuilder::new(&Limits::default());
            builder.set_root(Attributes::implied_directory(), false, true);
            let mut ids = vec![None; read.len()];
            ids[0] = Some(builder.root());
            for directory in read.nodes() {
                let parent = ids[directory.index()];
                for (name, child) in read.children(directory) {
                    match ids[child.index()] {
                        Some(known) => builder.link(parent.unwrap(), name, known).unwrap(),
                        None => {
                            let (attributes, kind) = (read.attributes(child).clone(), read.kind(child));
                            let id = builder.add(parent.unwrap(), name, attributes, kind).unwrap();
                            ids[child.index()] = Some(id);
                        }
                    }
                }
            }
            let built = builder.finish();
            let nodes = |layer: &fsmerge::Layer| -> Vec<String> {
                layer.walk().map(|(path, id)| node(layer, path, id)).collect()
            };
            prop_assert_eq!(nodes(&read), nodes(&built));
        }
    }

    #[test]
    fn marks_survive_an_image(entries in stacks()) {
        for entries in entries {
            let layer = crate::support::layer(&tar(&entries, true));
            for id in layer.nodes() {
                let (attributes, kind) = fsmerge::overlay::encode(layer.attributes(id), layer.kind(id));
                let (back, kind) = fsmerge::overlay::decode(&attributes, kind).unwrap();
                prop_assert_eq!(kind, layer.kind(id));
                prop_assert_eq!(&back, layer.attributes(id));
            }
        }
    }
}

/// Preorder, siblings in byte order: `a/b` before `a-`.
fn in_walk_order<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut names: Vec<String> = names.cloned().collect();
    names.sort_by(|a, b| a.split('/').cmp(b.split('/')));
    names
}

fn dump(tar: &[u8]) -> Vec<String> {
    let layer = crate::support::layer(tar);
    layer
        .walk()
        .map(|(path, id)| node(&layer, path, id))
        .collect()
}

/// One name with all that belongs to it, but for where its contents are.
fn node(layer: &fsmerge::Layer, path: Vec<u8>, id: NodeId) -> String {
    let kind = match layer.kind(id) {
        Kind::File { size, .. } => format!("file of {size}"),
        kind => format!("{kind:?}"),
    };
    format!(
        "{} {id:?} {} {kind} {:?}",
        path.escape_ascii(),
        layer.nlink(id),
        layer.attributes(id)
    )
}
