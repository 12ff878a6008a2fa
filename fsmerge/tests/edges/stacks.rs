//! Random stacks of layers, and what they must look like merged: told by a simple model here, by
//! the kernel in `kernel.rs`.

use fsmerge::{DeviceNumber, Kind, LayerBuilder, Limits, Metadata, NodeId};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use testkit::TarBuilder;

/// What an entry of a random layer is.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Directory {
        opaque: bool,
    },
    /// A directory without an entry of its own: something in it has one.
    Implied {
        opaque: bool,
    },
    File,
    Symlink,
    Device,
    Fifo,
    Link(Vec<&'static str>),
    /// To a name of the layers below.
    LowerLink(Vec<&'static str>),
    Whiteout,
}

/// An entry of a random layer.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<&'static str>,
    pub(crate) step: Step,
    /// Makes its attributes and contents differ from those of others.
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
        2 => path().prop_map(Step::LowerLink),
        2 => Just(Step::Whiteout),
    ];
    (path(), step, 0..1000_u16).prop_map(|(path, step, mark)| Entry { path, step, mark })
}

/// Stacks of one to four layers.
pub(crate) fn stacks() -> impl Strategy<Value = Vec<Vec<Entry>>> {
    stacks_of(true)
}

/// Stacks of layers each of which stands for itself.
pub(crate) fn stacks_without_lower_links() -> impl Strategy<Value = Vec<Vec<Entry>>> {
    stacks_of(false)
}

fn stacks_of(lower_links: bool) -> impl Strategy<Value = Vec<Vec<Entry>>> {
    let layer = (vec(entry(), 0..12), vec(any::<(bool, bool)>(), 3));
    vec(layer, 1..=4).prop_map(move |layers| {
        let mut stack = Vec::new();
        for (mut entries, implied) in layers {
            entries.retain(|entry| lower_links || !matches!(entry.step, Step::LowerLink(_)));
            let below = model(&stack);
            stack.push(consistent(entries, &implied, &below));
        }
        stack
    })
}

/// Drops the entries that a layer made from a directory cannot have: two of one name, one below
/// what is no directory, links to nothing. Parents come first. Those that no entry describes are as
/// `implied` says: without an entry, and opaque.
fn consistent(entries: Vec<Entry>, implied: &[(bool, bool)], below: &View) -> Vec<Entry> {
    let mut kept: BTreeMap<Vec<&'static str>, Entry> = BTreeMap::new();
    for entry in entries {
        let parents: Vec<_> = (1..entry.path.len())
            .map(|len| entry.path[..len].to_vec())
            .collect();
        let fits = !kept.contains_key(&entry.path)
            && parents
                .iter()
                .all(|parent| kept.get(parent).is_none_or(Entry::is_directory))
            // What only whiteouts are in has no entry here, and may be anything below.
            && (entry.is_directory() || kept.keys().all(|path| !path.starts_with(&entry.path)));
        if !fits {
            continue;
        }
        if !matches!(entry.step, Step::Whiteout) {
            for (parent, &(implied, opaque)) in parents.into_iter().zip(implied) {
                let step = match implied {
                    true => Step::Implied { opaque },
                    false => Step::Directory { opaque: false },
                };
                let path = parent.clone();
                let mark = entry.mark;
                kept.entry(parent).or_insert(Entry { path, step, mark });
            }
        }
        kept.insert(entry.path.clone(), entry);
    }
    // A link's target is settled by name, first come first served.
    let own: Vec<_> = kept
        .values()
        .filter(|entry| entry.is_shareable())
        .map(|entry| entry.path.clone())
        .collect();
    // A name that the layer has itself, if only as a parent, is not that of the layers below.
    let is_own = |path: &str| {
        kept.values().any(|entry| {
            let (own, whiteout) = (entry.name(), matches!(entry.step, Step::Whiteout));
            is_below(&own, path)
                || !whiteout && (own == path || !entry.is_directory() && is_below(path, &own))
        })
    };
    let lower: Vec<_> = below
        .iter()
        .filter(|(path, origin)| !origin.directory && !is_own(path))
        .map(|(path, _)| path.split('/').map(known_name).collect::<Vec<_>>())
        .collect();
    let mut entries: Vec<Entry> = kept.into_values().collect();
    entries.retain_mut(|entry| {
        let (target, targets) = match &mut entry.step {
            Step::Link(target) => (target, &own),
            Step::LowerLink(target) => (target, &lower),
            _ => return true,
        };
        let found = targets.get(entry.mark as usize % targets.len().max(1));
        target.clone_from(found.unwrap_or(&entry.path));
        *target != entry.path
    });
    let described: Vec<_> = entries
        .iter()
        .filter(|entry| !matches!(entry.step, Step::Implied { .. } | Step::Whiteout))
        .map(|entry| entry.path.clone())
        .collect();
    entries.retain(|entry| {
        !matches!(entry.step, Step::Implied { .. })
            || described.iter().any(|path| path.starts_with(&entry.path))
    });
    entries
}

fn known_name(name: &str) -> &'static str {
    NAMES.into_iter().find(|known| *known == name).unwrap()
}

fn is_below(name: &str, folder: &str) -> bool {
    name.strip_prefix(folder)
        .is_some_and(|rest| rest.starts_with('/'))
}

impl Entry {
    pub(crate) fn is_directory(&self) -> bool {
        matches!(self.step, Step::Directory { .. } | Step::Implied { .. })
    }

    /// Whether it hides what the layers below have in it.
    pub(crate) fn is_opaque(&self) -> bool {
        matches!(
            self.step,
            Step::Directory { opaque: true } | Step::Implied { opaque: true }
        )
    }

    /// Whether a link of the same layer may point to it.
    fn is_shareable(&self) -> bool {
        matches!(
            self.step,
            Step::File | Step::Symlink | Step::Device | Step::Fifo
        )
    }

    pub(crate) fn mode(&self) -> u32 {
        match self.step {
            // As Linux gives every symlink.
            Step::Symlink => 0o777,
            Step::Implied { .. } => 0o755,
            _ => 0o700 + u32::from(self.mark % 0o100),
        }
    }

    pub(crate) fn uid(&self) -> u32 {
        match self.step {
            Step::Implied { .. } => 0,
            _ => self.mark.into(),
        }
    }

    pub(crate) fn gid(&self) -> u32 {
        match self.step {
            Step::Implied { .. } => 0,
            _ => 1,
        }
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

/// A layer's tar. Marks go before or after everything else.
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
                _ if entry.is_opaque() => {
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
        tar = tar.mode(entry.mode()).owner(entry.uid(), entry.gid());
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
            Step::Link(target) | Step::LowerLink(target) => {
                tar.link(entry.name(), target.join("/"))
            }
            Step::Whiteout | Step::Implied { .. } => tar,
        };
    }
    if !marks_first {
        tar = marked(tar);
    }
    tar.finish()
}

/// What the model knows of a node: which layer and which entry of it made it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Origin {
    layer: usize,
    entry: String,
    directory: bool,
}

type View = BTreeMap<String, Origin>;

/// The simplest way to merge: apply one layer after the other on a map, as unpacking does.
fn model(layers: &[Vec<Entry>]) -> View {
    let mut view = View::new();
    for (layer, entries) in layers.iter().enumerate() {
        let before = view.clone();
        // Whiteouts act first.
        for entry in entries {
            let path = entry.name();
            match entry.step {
                Step::Whiteout => view.retain(|name, _| *name != path && !is_below(name, &path)),
                _ if entry.is_opaque() => {
                    view.retain(|name, _| !is_below(name, &path));
                }
                _ => {}
            }
        }
        for entry in entries {
            let path = entry.name();
            let own = |entry: String, directory| Origin {
                layer,
                entry,
                directory,
            };
            let origin = match &entry.step {
                Step::Whiteout => continue,
                // Even where the layer takes the target away.
                Step::LowerLink(target) => before[&target.join("/")].clone(),
                Step::Link(target) => own(target.join("/"), false),
                _ => own(path.clone(), entry.is_directory()),
            };
            let was = view.get(&path).is_some_and(|known| known.directory);
            if was && matches!(entry.step, Step::Implied { .. }) {
                continue;
            }
            if !(origin.directory && was) {
                view.retain(|name, _| *name != path && !is_below(name, &path));
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
            .map(|(path, _)| path.to_string())
            .collect();
        prop_assert_eq!(&names, &in_walk_order(model.keys()));
        let mut nodes: BTreeMap<&Origin, Vec<NodeId>> = BTreeMap::new();
        for (path, Origin { layer, entry: name, .. }) in &model {
            let id = merged.lookup(path.as_bytes()).unwrap();
            let entry = layers[*layer].iter().find(|entry| entry.name() == *name).unwrap();
            // Nobody describes what is implied.
            let described = !matches!(entry.step, Step::Implied { .. });
            prop_assert_eq!(merged.layer(id), described.then_some(*layer as u16));
            let attributes = merged.metadata(id);
            prop_assert_eq!(u32::from(attributes.mode), entry.mode());
            prop_assert_eq!((attributes.uid, attributes.gid), (entry.uid(), entry.gid()));
            let matches = match (merged.kind(id), &entry.step) {
                (Kind::Directory { opaque: false, implied: false }, Step::Directory { .. }) => {
                    attributes.xattrs.get(b"trusted.mark") == Some(entry.mark.to_string().as_bytes())
                }
                (Kind::Directory { opaque: false, implied: true }, Step::Implied { .. }) => {
                    attributes.xattrs.iter().len() == 0
                }
                (kind @ Kind::File { .. }, Step::File) => {
                    store.get(kind) == entry.contents().into_bytes()
                        && merged.data_layer(id) == Some(*layer as u16)
                }
                (Kind::Symlink(target), Step::Symlink) => target == entry.target().as_bytes(),
                (Kind::CharDevice(DeviceNumber { major: 1, minor }), Step::Device) => minor == u32::from(entry.mark),
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
            builder.set_root(Metadata::implied_directory(), false, true);
            let mut ids = vec![None; read.len()];
            ids[0] = Some(builder.root());
            for directory in read.nodes() {
                let parent = ids[directory.index()];
                for (name, child) in read.children(directory) {
                    match ids[child.index()] {
                        Some(known) => builder.link(parent.unwrap(), name, known).unwrap(),
                        None => {
                            let (attributes, kind) = (read.metadata(child).clone(), read.kind(child));
                            let id = builder.add(parent.unwrap(), name, attributes, kind).unwrap();
                            ids[child.index()] = Some(id);
                        }
                    }
                }
            }
            let built = builder.finish();
            let nodes = |layer: &fsmerge::LayerTree| -> Vec<String> {
                layer.walk().map(|(path, id)| node(layer, path, id)).collect()
            };
            prop_assert_eq!(nodes(&read), nodes(&built));
        }
    }

    #[test]
    fn overlay_marks_survive_a_round_trip_through_an_image(entries in stacks()) {
        for entries in entries {
            let layer = crate::support::layer(&tar(&entries, true));
            for id in layer.nodes() {
                let (attributes, kind) = fsmerge::overlay::encode(layer.metadata(id), layer.kind(id));
                let (back, kind) = fsmerge::overlay::decode(&attributes, kind).unwrap();
                prop_assert_eq!(kind, layer.kind(id));
                prop_assert_eq!(&back, layer.metadata(id));
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
fn node(layer: &fsmerge::LayerTree, path: fsmerge::BytePath, id: NodeId) -> String {
    let kind = match layer.kind(id) {
        Kind::File { size, .. } => format!("file of {size}"),
        kind => format!("{kind:?}"),
    };
    format!(
        "{path} {id:?} {} {kind} {:?}",
        layer.nlink(id),
        layer.metadata(id)
    )
}
