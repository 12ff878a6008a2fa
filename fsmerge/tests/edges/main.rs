//! The catalogue of edge cases: `docs/edge-cases.md` names each of these tests.

mod gnu_tar;
mod hardlinks_and_replacement;
mod hostile;
mod kernel;
mod stacks;
mod support;
mod tar_framing;
mod whiteouts;
