//! The catalogue of edge cases: `docs/edge-cases.md` names each of these tests.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod builder;
mod gnu_tar;
mod hardlinks_and_replacement;
mod hostile;
mod implied_parents;
mod kernel;
mod stacks;
mod support;
mod tar_framing;
mod tar_names;
mod tar_numbers;
mod tar_sparse;
mod tar_xattrs;
mod whiteouts;
