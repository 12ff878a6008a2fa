//! Writes compressed contents into the image.

use std::io::{self, Seek, Write};

use super::area::ContentArea;
use super::pipeline::Current;
use super::share::share_clusters;
use crate::compress::{
    Compressed, Compression, Cut, Cuts, Cutter, End, Extent, Piece, Place, Rest, Run, Tail,
};
use crate::error::Error;

impl<W: Write + Seek> ContentArea<W> {
    /// Submits a full batch, and writes the results that are due.
    pub(super) fn advance(&mut self) -> Result<(), Error> {
        let pipeline = self.pipeline();
        pipeline.submit(false)?;
        let depth = pipeline.pool.depth();
        self.collect(depth)
    }

    /// Waits until all submitted contents are in the image, except for fragments.
    fn drain(&mut self) -> Result<(), Error> {
        if self.has_pipeline() {
            self.pipeline().submit(true)?;
            self.collect(0)?;
        }
        Ok(())
    }

    /// As [`drain`](Self::drain), but an error is reported by the next call that can fail.
    pub(crate) fn drain_or_keep_error(&mut self) {
        if let Err(error) = self.drain() {
            self.pipeline().failed = Some(error);
        }
    }

    /// Writes results until at most `depth` are pending.
    fn collect(&mut self, depth: usize) -> Result<(), Error> {
        if let Some(error) = self.pipeline().failed.take() {
            return Err(error);
        }
        while self.pipeline().under_way.len() > depth {
            let Some(ticket) = self.pipeline().under_way.pop_front() else {
                break;
            };
            let Cuts { pieces, bytes } = ticket.wait()?;
            self.pipeline().spare.push(bytes);
            for (piece, cut) in pieces {
                self.assemble(&piece, cut)?;
            }
        }
        Ok(())
    }

    /// Writes a piece.
    fn assemble(&mut self, piece: &Piece, mut cut: Cut) -> Result<(), Error> {
        let start = self.data_end();
        let mut current = match self.pipeline().current.take() {
            Some(current) => current,
            None => Current::new(start),
        };
        if piece.end == End::Abandoned && !self.options.dedupe_extents {
            return Ok(());
        }
        if let End::File { index } = piece.end
            && piece.cutter.compression.is_some()
            && current.extents.is_empty()
            && !self.options.dedupe_extents
        {
            let size = self.contents.size(index as u64).unwrap_or_default();
            let dedupe = self.dedupe.as_ref();
            let (clusters, saved) =
                share_clusters(dedupe, &mut self.output, &self.options, &mut cut, size)?;
            current.clusters = clusters;
            self.deduplicated += saved;
        }
        if !cut.blocks.is_empty() {
            if current.written == 0 {
                // Fragments of the same file may have filled a cluster.
                current.start = start;
            }
            let at = current.start + current.written;
            // An abandoned writer may have moved the output's position.
            self.output.seek(at)?;
            self.check_end(at + cut.blocks.len() as u64)?;
            self.output.write(&cut.blocks)?;
            current.hash.update(&cut.blocks);
            current.written += cut.blocks.len() as u64;
        }
        let before = current.extents.len() as u32;
        let references = cut.references.iter();
        current
            .references
            .extend(references.map(|&(extent, number)| (before + extent, number)));
        current.extents.extend(cut.extents);
        match (piece.end, piece.cutter.compression) {
            (End::File { index }, compression) => {
                let place = self.end_file(current, cut.rest, compression, index)?;
                self.contents.set_place(index, place);
            }
            (End::Abandoned, _) => {
                // Other extents may refer to it already.
                let block = self.store_current(&current)?;
                self.locate(block, &current)?;
            }
            (_, Some(compression)) => {
                if let Rest::Fragment(bytes) = &cut.rest {
                    let at = self.append_fragment(&piece.cutter, compression, bytes, false)?;
                    current.fragment.get_or_insert(at);
                    current.packed += bytes.len() as u64;
                }
                self.pipeline().current = Some(current);
            }
            (_, None) => self.pipeline().current = Some(current),
        }
        Ok(())
    }

    /// Returns the place of contents whose last piece was written, except for its `rest`.
    fn end_file(
        &mut self,
        current: Current,
        rest: Rest,
        compression: Option<Compression>,
        index: usize,
    ) -> Result<Place, Error> {
        let block = self.store_current(&current)?;
        let runs = self.locate(block, &current)?;
        let Current {
            mut extents,
            references,
            fragment,
            packed,
            ..
        } = current;
        let plain = references.is_empty() && extents.iter().all(|extent| extent.plain);
        let tail = match rest {
            Rest::None if plain => return Ok(Place::Flat { block }),
            Rest::None => Tail::Cluster,
            Rest::Inline { bytes, extent } if plain && extent.plain => {
                let size = self.contents.size(index as u64).unwrap_or_default();
                let index = self.keep_tail(block, &bytes, size);
                return Ok(Place::Tail { index });
            }
            Rest::Inline { bytes, extent } => {
                extents.push(extent);
                Tail::Inline {
                    kept: self.keep(&bytes),
                    length: bytes.len() as u16,
                }
            }
            Rest::Fragment(bytes) => {
                let Some(compression) = compression else {
                    return Err(io::Error::other("a fragment that was not compressed").into());
                };
                let cutter = Cutter::new(Some(compression), &self.options);
                let once = fragment.is_none();
                let at = self.append_fragment(&cutter, compression, &bytes, once)?;
                extents.push(Extent {
                    length: (packed + bytes.len() as u64).min(u32::MAX.into()) as u32,
                    blocks: 0,
                    plain: false,
                    partial: false,
                });
                Tail::Fragment {
                    offset: fragment.unwrap_or(at),
                }
            }
        };
        let Some(compression) = compression else {
            return Ok(Place::Flat { block });
        };
        let block_size = self.options.block_size;
        let contents = Compressed {
            size: self.contents.size(index as u64).unwrap_or_default(),
            algorithm: compression.algorithm,
            big: compression.is_big(block_size),
            extents,
            runs,
            tail,
        };
        Ok(self.contents.record(&contents, compression, block_size))
    }

    /// Ends a file's blocks, and returns the first one.
    fn store_current(&mut self, current: &Current) -> Result<u64, Error> {
        match current.written {
            0 => Ok(0),
            written => self.end_contents(current.start, written, current.hash.digest128(), true),
        }
    }

    /// Sets the addresses of extents, of which those with own blocks begin at `block`, and records
    /// them for later references.
    fn locate(&mut self, mut block: u64, current: &Current) -> Result<Vec<Run>, Error> {
        self.check_indexed(block, &current.extents)?;
        let noted = self.options.dedupe_extents;
        let mut runs: Vec<Run> = Vec::new();
        let mut references = current.references.iter().peekable();
        let mut shared = current.clusters.shared.iter().peekable();
        let mut own = current.clusters.own.iter().peekable();
        let mut follows = None;
        for (first, extent) in (0..).zip(&current.extents) {
            let begins = if let Some(&(_, number)) = references.next_if(|(of, _)| *of == first) {
                let blocks = &self.pipeline().blocks;
                blocks.get(number as usize).copied().map(u64::from)
            } else if let Some(&(_, block)) = shared.next_if(|(of, _)| *of == first) {
                Some(block)
            } else {
                if noted {
                    self.pipeline().blocks.push(block as u32);
                }
                if let Some(cluster) = own.next_if(|cluster| cluster.extent == first)
                    && let Some(dedupe) = &mut self.dedupe
                {
                    dedupe.add(cluster.digest, cluster.size, block);
                }
                block += u64::from(extent.blocks);
                Some(block - u64::from(extent.blocks))
            };
            let begins = begins.ok_or_else(|| io::Error::other("an extent that nobody wrote"))?;
            if follows != Some(begins) {
                runs.push(Run {
                    first,
                    block: begins,
                });
            }
            follows = Some(begins + u64::from(extent.blocks));
        }
        Ok(runs)
    }

    /// Writes pending contents and releases the memory that they needed. Returns the index of the
    /// packed inode's contents.
    pub(crate) fn end(&mut self) -> Result<Option<usize>, Error> {
        let packed = self.end_pipeline()?;
        self.release();
        Ok(packed)
    }

    /// Writes pending contents. Returns the index of the packed inode's contents.
    fn end_pipeline(&mut self) -> Result<Option<usize>, Error> {
        self.drain()?;
        if !self.has_pipeline() {
            return Ok(None);
        }
        let packed = self.pipeline().packed.take();
        packed.map(|packed| self.end_packed(packed)).transpose()
    }
}
