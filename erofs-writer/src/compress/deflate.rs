//! Raw DEFLATE streams.

use std::fmt;
use std::io;

use flate2::{Compress, FlushCompress, Status};

use super::codec::{Encode, Packed};
use super::fit::Fit;

/// log2 of the farthest match (`z_erofs_deflate_cfgs`' `windowbits`).
pub(crate) const WINDOW_BITS: u8 = 15;

pub(crate) struct Encoder {
    compress: Compress,
    fit: Fit,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl Encoder {
    pub(crate) fn new(level: u8) -> Self {
        Self {
            compress: Compress::new(flate2::Compression::new(level.into()), false),
            fit: Fit::new(if level > 6 { 8 } else { 6 }),
        }
    }
}

impl Encode for Encoder {
    fn reset(&mut self) {
        self.fit.reset();
    }

    fn pack(&mut self, input: &[u8], capacity: usize) -> io::Result<Packed> {
        let compress = &mut self.compress;
        self.fit.pack(input, capacity, |input, out| {
            // Stored blocks of any length have five bytes of header, and are the worst case. A stream that did not end must not be
            // begun anew: zlib-rs 0.6.8 does not reset all of it, and panics later.
            out.resize(input.len() + input.len() / 8 + 256, 0);
            compress.reset();
            let status = compress.compress(input, out, FlushCompress::Finish);
            match status.map_err(io::Error::other)? {
                Status::StreamEnd => out.truncate(compress.total_out() as usize),
                _ => return Err(io::Error::other("a DEFLATE stream longer than its bound")),
            }
            Ok(())
        })
    }
}
