//! The path of an entry, and whether its name makes it a whiteout.

use crate::error::Problem;
use crate::limits::Limits;
use crate::path;

/// OCI image-spec, layer.md, "Whiteouts".
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Files that old AUFS storage drivers left at the root of a branch.
const BOOKKEEPING: [&[u8]; 3] = [b".wh..wh.plnk", b".wh..wh.aufs", b".wh..wh.orph"];

pub(super) fn is_bookkeeping(name: &[u8]) -> bool {
    BOOKKEEPING.contains(&name)
}

/// The parsed path of an entry.
#[derive(Debug)]
pub(super) struct Place<'a> {
    /// The directories on the way.
    pub(super) parents: Vec<&'a [u8]>,
    pub(super) role: Role<'a>,
}

/// What an entry is by its name alone; its type does not matter for the last three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role<'a> {
    Root,
    Entry(&'a [u8]),
    Whiteout(&'a [u8]),
    Opaque,
    Bookkeeping,
}

impl<'a> Place<'a> {
    pub(super) fn of(path: &'a [u8], limits: &Limits) -> Result<Self, Problem> {
        let mut parents = path::components(path, limits)?;
        let role = match parents.pop() {
            None => Role::Root,
            Some(OPAQUE) => Role::Opaque,
            Some(name) if is_bookkeeping(name) => Role::Bookkeeping,
            Some(name) => match name.strip_prefix(WHITEOUT) {
                Some(b"" | b"." | b"..") => return Err(Problem::BareWhiteout),
                Some(hidden) => Role::Whiteout(hidden),
                None => Role::Entry(name),
            },
        };
        Ok(Self { parents, role })
    }

    /// Whether the entry is a node of the tree, not only a mark.
    pub(super) fn is_entry(&self) -> bool {
        matches!(self.role, Role::Entry(_))
    }

    /// The normalised path of an entry.
    pub(super) fn path(&self) -> Vec<u8> {
        let mut names = self.parents.clone();
        if let Role::Entry(name) = self.role {
            names.push(name);
        }
        path::joined(&names)
    }
}
