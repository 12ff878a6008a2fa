//! Writing the contents of regular files into the image.

mod area;
mod assemble;
mod chunk_writer;
mod data_writer;
mod dedupe;
mod fragments;
mod packed;
mod pipeline;
mod share;

pub(crate) use area::{ContentArea, Finished, too_large};
pub use chunk_writer::ChunkWriter;
pub use data_writer::DataWriter;
