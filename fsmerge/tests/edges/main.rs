//! The catalogue of edge cases: `docs/edge-cases.md` names each of these tests.

mod hardlinks_and_replacement;
mod support;
mod tar_framing;
mod whiteouts;
