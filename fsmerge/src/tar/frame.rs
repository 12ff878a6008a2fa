//! Conversions of the types of `blockbox_tar`.

use crate::error::{Error, Problem};
use crate::limits::Limits;
use crate::timestamp::Timestamp;

impl Limits {
    /// The part of the limits that concerns headers.
    pub(super) fn framing(&self) -> blockbox_tar::Limits {
        blockbox_tar::Limits {
            entries: self.entries,
            extended_header_bytes: self.extended_header_bytes,
            file_bytes: self.file_bytes,
            sparse_ranges: self.sparse_ranges,
        }
    }
}

impl Timestamp {
    pub(super) fn of_framing(time: blockbox_tar::Timestamp) -> Self {
        let blockbox_tar::Timestamp { secs, nanos } = time;
        Self { secs, nanos }
    }
}

impl Error {
    pub(super) fn of_framing(error: blockbox_tar::Error) -> Self {
        use blockbox_tar::Error as E;
        match error {
            E::Io { offset, source } => Self::Io { offset, source },
            E::NotTar => Self::NotTar,
            E::OtherFormat { format } => Self::OtherFormat { format },
            E::Truncated { offset } => Self::Truncated { offset },
            E::Entry {
                path,
                offset,
                problem,
            } => Self::Entry {
                path,
                offset,
                problem: Problem::of_framing(problem),
            },
        }
    }
}

impl Problem {
    pub(super) fn of_framing(problem: blockbox_tar::Problem) -> Self {
        use blockbox_tar::Problem as P;
        match problem {
            P::Checksum => Self::Checksum,
            P::Number { field } => Self::Number { field },
            P::NegativeSize => Self::NegativeSize,
            P::Pax { at } => Self::Pax { at },
            P::PaxValue { key } => Self::PaxValue { key },
            P::SparseMap => Self::SparseMap,
            P::Limit { name, limit } => Self::Limit { name, limit },
        }
    }
}
