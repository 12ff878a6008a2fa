//! Counts of reading a layer.

use crate::limits::Limits;
use crate::warning::{Warning, WarningKind};
use blockbox_tar::{Remark, RemarkKind};

/// Counts of one archive, and its warnings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Entries, extended headers not counted.
    pub entries: u64,
    /// Regular files whose contents went to the sink.
    pub files: u64,
    /// Bytes of those files, holes included.
    pub content_bytes: u64,
    /// Bytes of the archive up to and with its end-of-archive blocks.
    pub archive_bytes: u64,
    /// The first remarks, as many as [`Limits::warnings`](crate::Limits::warnings) says.
    pub warnings: Vec<Warning>,
    /// The total number of warnings.
    pub warning_count: u64,
}

impl Stats {
    /// Records something that the archive's reader skipped.
    pub(super) fn remark(&mut self, remark: Remark, limits: &Limits) {
        let kind = match remark.kind {
            RemarkKind::Volume { kind } => WarningKind::Volume { kind },
            RemarkKind::LoneZeroBlock => WarningKind::LoneZeroBlock,
        };
        self.warn(&remark.path, remark.offset, kind, limits);
    }

    /// Keeps a remark, or only counts it where there are too many.
    pub(crate) fn warn(&mut self, path: &[u8], offset: u64, kind: WarningKind, limits: &Limits) {
        self.warning_count += 1;
        if self.warnings.len() < limits.warnings {
            let path = path.to_vec();
            self.warnings.push(Warning {
                path: path.into(),
                offset,
                kind,
            });
        }
    }
}
