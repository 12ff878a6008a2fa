//! The image being written: its geometry, its free space and its output.

use std::io::{Read, Seek, Write};
use std::ops::Range;
use std::sync::Arc;

use crate::checksum::Checksum;
use crate::chunk::Chunk;
use crate::extents::Map;
use crate::geometry::Geometry;
use crate::node::Body;
use crate::output::Output;
use crate::space::Space;
use crate::{Error, Options, Progress};

#[derive(Debug)]
pub(crate) struct Image<W> {
    pub(crate) geometry: Arc<Geometry>,
    pub(crate) space: Space,
    pub(crate) out: Output<W>,
    /// Where the checksums of everything but the superblock start (`s_checksum_seed`).
    pub(crate) seed: Checksum,
    chunk: Chunk,
    progress: Option<Progress>,
    /// Bytes of files' contents that were written.
    written: u64,
}

impl<W: Write + Seek> Image<W> {
    pub(crate) fn new(out: W, options: &Options) -> Result<Self, Error> {
        let geometry = Geometry::plan(options)?;
        Ok(Self {
            space: Space::new(geometry.first_block..geometry.blocks, geometry.reserved()),
            geometry: Arc::new(geometry),
            out: Output::new(out),
            seed: Checksum::START.add(&options.effective_uuid()),
            chunk: Chunk::default(),
            progress: options.progress.clone(),
            written: 0,
        })
    }

    /// An existing image that is to be changed. No space can be allocated in it.
    pub(crate) fn over(out: W, geometry: Geometry, seed: Checksum) -> Self {
        Self {
            geometry: Arc::new(geometry),
            space: Space::new(0..0, Vec::new()),
            out: Output::new(out),
            seed,
            chunk: Chunk::default(),
            progress: None,
            written: 0,
        }
    }

    pub(crate) fn block_size(&self) -> usize {
        self.geometry.block_size as usize
    }

    /// Writes at the start of a block.
    pub(crate) fn write_block(&mut self, block: u64, bytes: &[u8]) -> Result<(), Error> {
        let offset = block * u64::from(self.geometry.block_size);
        self.out.write_at(offset, bytes)
    }

    /// Takes one block and marks it in use.
    pub(crate) fn allocate(&mut self) -> Result<u64, Error> {
        let block = self.space.take(1, 1, None)?;
        self.space.commit();
        Ok(block.start)
    }

    /// Takes `count` blocks, in a row where possible, after those of `map`, and maps them from
    /// `logical` on.
    pub(crate) fn extend(
        &mut self,
        map: &mut Map,
        logical: u64,
        count: u64,
        ideal: u64,
    ) -> Result<Vec<Range<u64>>, Error> {
        let mut runs = Vec::new();
        let mut done = 0;
        while done < count {
            let ideal = ideal.max(count) - done;
            let run = self.space.take(count - done, ideal, map.end())?;
            map.push((logical + done) as u32, run.clone());
            done += run.end - run.start;
            runs.push(run);
        }
        Ok(runs)
    }

    /// Writes the extent tree of inode `ino` and marks all blocks taken for it in use.
    pub(crate) fn map(&mut self, ino: u32, map: &Map, size: u64) -> Result<Body, Error> {
        let tree = map.tree(self.geometry.block_size, self.seed.inode(ino), || {
            self.space.take(1, 1, None).map(|block| block.start)
        })?;
        for (block, bytes) in &tree.nodes {
            self.write_block(*block, bytes)?;
        }
        self.space.commit();
        let nodes = tree.nodes.iter().map(|&(block, _)| block..block + 1);
        let used = map.physical().chain(nodes).collect();
        Ok(Body::extents(tree.root, size, used))
    }

    /// Writes `bytes` as the whole contents of inode `ino`.
    pub(crate) fn store(&mut self, ino: u32, bytes: &[u8]) -> Result<Body, Error> {
        let mut map = Map::default();
        let count = (bytes.len() as u64).div_ceil(self.geometry.block_size.into());
        let mut rest = bytes;
        for run in self.extend(&mut map, 0, count, count)? {
            rest = self.write_run(run, rest)?;
        }
        self.map(ino, &map, bytes.len() as u64)
    }

    /// Fills a run of blocks from the front of `bytes`, and the rest of the last block with zeros,
    /// because an incomplete file may have been there. Returns the rest of `bytes`.
    fn write_run<'a>(&mut self, run: Range<u64>, bytes: &'a [u8]) -> Result<&'a [u8], Error> {
        let len = (run.end - run.start) as usize * self.block_size();
        let (head, rest) = bytes.split_at(len.min(bytes.len()));
        self.write_block(run.start, head)?;
        let end = run.start * u64::from(self.geometry.block_size) + head.len() as u64;
        self.out.write_at(end, &[0; 4096][..len - head.len()])?;
        Ok(rest)
    }

    /// Streams a file of inode `ino` to the image, or puts it into the inode where it fits in
    /// `room` bytes.
    pub(crate) fn write_file(
        &mut self,
        ino: u32,
        mut file: Contents<'_, impl Read>,
        room: usize,
    ) -> Result<Body, Error> {
        let mut head = Vec::new();
        match file.size {
            None if room > 0 => {
                (&mut file.data)
                    .take(room as u64 + 1)
                    .read_to_end(&mut head)
                    .map_err(|e| file.failed(e))?;
            }
            Some(size) if size <= room as u64 => {
                head.resize(size as usize, 0);
                for range in file.ranges {
                    let to = &mut head[range.start as usize..range.end as usize];
                    file.data.read_exact(to).map_err(|source| Error::Contents {
                        name: file.name.into(),
                        source,
                    })?;
                }
            }
            _ => return self.stream(ino, file),
        }
        if (1..=room).contains(&head.len()) {
            return Ok(Body::contents(&head));
        }
        let contents = Contents {
            data: head.chain(file.data),
            name: file.name,
            ranges: file.ranges,
            size: file.size,
            expected: file.expected,
        };
        self.stream(ino, contents)
    }

    /// Streams a file of inode `ino` to the image.
    fn stream(&mut self, ino: u32, file: Contents<'_, impl Read>) -> Result<Body, Error> {
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.reset();
        let body = self.stream_through(&mut chunk, ino, file);
        self.chunk = chunk;
        body
    }

    fn stream_through(
        &mut self,
        chunk: &mut Chunk,
        ino: u32,
        mut file: Contents<'_, impl Read>,
    ) -> Result<Body, Error> {
        let block_size = u64::from(self.geometry.block_size);
        let mut map = Map::default();
        let mut size = 0;
        for range in file.ranges {
            let start = range.start / block_size * block_size;
            if start >= chunk.end().next_multiple_of(block_size) {
                self.put(&mut map, chunk, &file)?;
                chunk.at = start;
            }
            chunk.fill_up_to(range.start);
            loop {
                let left = range.end - chunk.end();
                let read = chunk
                    .read(&mut file.data, left)
                    .map_err(|e| file.failed(e))?;
                size = chunk.end();
                if size == range.end || read == 0 {
                    break;
                }
                if chunk.is_full() {
                    self.put(&mut map, chunk, &file)?;
                }
            }
            if size < range.end && file.size.is_some() {
                return Err(file.failed(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
        self.put(&mut map, chunk, &file)?;
        self.map(ino, &map, file.size.unwrap_or(size))
    }

    /// Writes the chunk and continues after it.
    fn put(
        &mut self,
        map: &mut Map,
        chunk: &mut Chunk,
        file: &Contents<'_, impl Read>,
    ) -> Result<(), Error> {
        let block_size = u64::from(self.geometry.block_size);
        let bytes = chunk.bytes();
        let count = (bytes.len() as u64).div_ceil(block_size);
        let logical = chunk.at / block_size;
        if logical + count > u64::from(u32::MAX) {
            return Err(Error::FileSize {
                name: file.name.into(),
                size: chunk.end(),
            });
        }
        let ideal = file.expected.saturating_sub(chunk.at).div_ceil(block_size);
        let mut rest = bytes;
        for run in self.extend(map, logical, count, ideal)? {
            rest = self.write_run(run, rest)?;
        }
        self.written += bytes.len() as u64;
        if let Some(progress) = &self.progress {
            progress.report(self.written);
        }
        chunk.at = chunk.end();
        chunk.len = 0;
        Ok(())
    }
}

/// A file's contents, to be streamed.
#[derive(Debug)]
pub(crate) struct Contents<'a, R> {
    pub(crate) name: &'a [u8],
    /// The data of all ranges, one after the other.
    pub(crate) data: R,
    /// Where the data lies: ascending, disjoint. One range to the end of the numbers where the size
    /// is not known.
    pub(crate) ranges: &'a [Range<u64>],
    /// The file's size, where it does not follow from the data.
    pub(crate) size: Option<u64>,
    /// An estimate of the file's size.
    pub(crate) expected: u64,
}

impl<R> Contents<'_, R> {
    fn failed(&self, source: std::io::Error) -> Error {
        Error::Contents {
            name: self.name.into(),
            source,
        }
    }
}
