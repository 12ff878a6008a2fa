//! Images as others see them: the kernel, `fsck.erofs` and `erofs-reader`.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod chunks;
mod compressed;
mod contents;
mod determinism;
mod devices;
mod errors;
mod examples;
mod far;
mod fill;
mod golden;
mod kernel;
mod limits;
mod matrix;
mod model;
mod paths;
mod random;
mod reader;
mod round_trip;
mod side_by_side;
mod versions;
