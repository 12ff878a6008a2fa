//! Merges layers made of any bytes: every two bytes are a step of a small language.
#![no_main]

use fsmerge::{
    BuilderNodeId, DataId, DeviceNumber, Kind, LayerBuilder, LayerTree, Limits, Merge, Metadata,
};
use libfuzzer_sys::fuzz_target;

const NAMES: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];
/// Symlink and link targets.
const TARGETS: [&[u8]; 8] = [
    b"a",
    b"b/a",
    b"/c",
    b"../a/b",
    b"a/./c/..",
    b"d/d/d",
    b"/",
    b"b",
];

/// Builds a layer; refused steps are left out.
fn layer(steps: &[u8]) -> LayerTree {
    let mut builder = LayerBuilder::new(&Limits::default());
    let mut directories = vec![builder.root()];
    let mut others: Vec<BuilderNodeId> = Vec::new();
    for step in steps.chunks_exact(2) {
        let name = NAMES[usize::from(step[0] & 3)];
        let parent = directories[usize::from(step[0] >> 2) % directories.len()];
        let choice = step[1] >> 4;
        let target = TARGETS[usize::from(choice & 7)];
        let directory = Kind::Directory {
            opaque: choice & 1 != 0,
            implied: choice & 2 != 0,
        };
        let kind = match step[1] & 15 {
            0..=4 => directory,
            5 | 6 => Kind::File {
                size: choice.into(),
                data: Some(DataId(choice.into())),
            },
            7 | 8 => Kind::Symlink(target),
            9 => Kind::CharDevice(DeviceNumber {
                major: 0,
                minor: choice.into(),
            }),
            10 | 11 => Kind::Whiteout,
            12 | 13 => Kind::LowerLink(target),
            _ => {
                if let Some(&node) = others.get(usize::from(choice) % others.len().max(1)) {
                    let _ = builder.link(parent, name, node);
                }
                continue;
            }
        };
        if let Ok(node) = builder.add(parent, name, Metadata::new(0), kind) {
            if kind.is_directory() {
                directories.push(node);
            } else {
                others.push(node);
            }
        }
    }
    builder.finish()
}

fuzz_target!(|bytes: &[u8]| {
    let mut merge = Merge::new(&Limits::default());
    let mut names = 0;
    for steps in bytes.split(|&byte| byte == 0xff).take(16) {
        let layer = layer(steps);
        names += layer.names();
        if merge.push(&layer).is_err() {
            return;
        }
    }
    let merged = merge.finish();
    let mut walked = 0;
    let mut links = vec![0_u32; merged.len()];
    for (path, id) in merged.walk() {
        walked += 1;
        links[id.index()] += 1;
        assert_eq!(merged.lookup(&path), Some(id));
        assert!(
            !matches!(
                merged.kind(id),
                Kind::Whiteout | Kind::LowerLink(_) | Kind::Directory { opaque: true, .. }
            ),
            "{}",
            path.escape_ascii()
        );
    }
    // A layer's names, and directories made on the way to what lower symlinks lead to.
    assert!(walked <= names * 4 + 1);
    for id in merged.nodes() {
        if merged.kind(id).is_directory() {
            assert_eq!(links[id.index()], 1);
        } else {
            assert_eq!(links[id.index()], merged.nlink(id));
        }
    }
});
