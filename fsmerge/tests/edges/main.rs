//! The catalogue of edge cases: `docs/edge-cases.md` names each of these tests.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod gnu_tar;
mod hardlinks_and_replacement;
mod hostile;
mod kernel;
mod stacks;
mod support;
mod tar_framing;
mod whiteouts;
