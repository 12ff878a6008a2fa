//! Converts container images to disks, with the format libraries.
//!
//! The main path: [`pull`] fetches an image ([`ocipull`]), [`layer`] converts each layer's tar
//! ([`fsmerge`]) to an EROFS image ([`erofs_writer`]), and [`stack`] merges the layers' metadata
//! and describes the disk ([`vmdk`]). The result is an [`image`] in the store.
//!
//! Other modules: [`squash`] makes one self-contained image from layers of any kind, [`rebuild`]
//! makes an image again with other options, [`populate`] puts a tree into an ext4 image, [`disk`]
//! makes a flat disk of an image for other machines, [`export`] makes an archive of one, [`patch`]
//! changes an image's tree for one sandbox, and [`layer::write_index`] makes an image over a tar
//! that stays unchanged.

#![forbid(unsafe_code)]

pub mod commit;
mod damage;
pub mod disk;
mod error;
pub mod export;
pub mod files;
mod folder;
pub mod image;
pub mod layer;
pub mod load;
pub mod native;
mod parallel;
pub mod patch;
pub mod path;
pub mod populate;
pub mod progress;
pub mod pull;
pub mod reader;
pub mod rebuild;
pub mod repair;
pub mod save;
pub mod short_name;
pub mod squash;
pub mod stack;
pub mod verify;

pub use error::{CopyProblem, Error, Result};

/// Compiles the examples of the page about all libraries.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/libraries.md")]
struct Libraries;
