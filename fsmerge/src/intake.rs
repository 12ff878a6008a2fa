//! Filters the extended attributes of a source.

use crate::acl::{self, Unpacked};
use crate::error::Problem;
use crate::limits::Limits;
use crate::metadata::Xattrs;
use crate::overlay;
use crate::warning::WarningKind;
use std::collections::HashSet;

/// The longest name of an extended attribute (`XATTR_NAME_MAX`).
const XATTR_NAME_MAX: usize = 255;

/// Filters extended attributes, within the limits. Equal sets are kept once.
pub(crate) struct Intake {
    sets: HashSet<Xattrs>,
    bytes: u64,
    limits: Limits,
}

impl Intake {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            sets: HashSet::new(),
            bytes: 0,
            limits: *limits,
        }
    }

    /// Returns the attributes of an inode of the mode `mode`; `warn` gets those that are dropped.
    pub(crate) fn take(
        &mut self,
        xattrs: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
        mode: u16,
        mut warn: impl FnMut(WarningKind),
    ) -> Result<Xattrs, Problem> {
        let mut kept = Vec::new();
        for (name, mut value) in xattrs {
            if !is_known(&name) {
                warn(WarningKind::UnknownXattr { name: name.into() });
                continue;
            }
            if acl::is_acl(&name) {
                match acl::unpacked(&name, value, mode) {
                    Unpacked::Acl(acl) => value = acl,
                    Unpacked::None => continue,
                    Unpacked::Malformed => {
                        warn(WarningKind::MalformedAcl { name: name.into() });
                        continue;
                    }
                }
            }
            let name = overlay::escaped(&name);
            if name.len() > XATTR_NAME_MAX {
                return Err(Problem::NameTooLong { bytes: name.len() });
            }
            if value.len() > self.limits.xattr_value_bytes {
                return Err(Problem::Limit {
                    name: "xattr_value_bytes",
                    limit: self.limits.xattr_value_bytes as u64,
                });
            }
            self.bytes += (name.len() + value.len()) as u64;
            if self.bytes > self.limits.xattr_bytes {
                return Err(Problem::Limit {
                    name: "xattr_bytes",
                    limit: self.limits.xattr_bytes,
                });
            }
            kept.push((name, value));
        }
        let set: Xattrs = kept.into_iter().collect();
        if set.is_empty() {
            return Ok(set);
        }
        if let Some(known) = self.sets.get(&set) {
            return Ok(known.clone());
        }
        self.sets.insert(set.clone());
        Ok(set)
    }
}

/// Whether Linux has a namespace for the attribute (`include/uapi/linux/xattr.h`).
fn is_known(name: &[u8]) -> bool {
    let in_namespace = |prefix: &[u8]| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && !rest.contains(&0))
    };
    in_namespace(b"user.")
        || in_namespace(b"trusted.")
        || in_namespace(b"security.")
        || acl::is_acl(name)
}
