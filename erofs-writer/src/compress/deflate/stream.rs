//! Streams of limited length, with a new block where the statistics change.

use super::block::{Bits, Counts, Plan, Sequence};
use crate::compress::encode::Packed;

/// The number of sequences between decisions on ending the block.
const STEP: usize = 4096;
/// The most sequences of a block, which bounds the memory.
const LONGEST: usize = 1 << 16;

/// A stream: the written blocks, and the block that is being filled.
///
/// The size of the block is exact when its code is made. From then on it is estimated with that
/// code, which gives too large a size. So a new code is made only when the stream seems to be full,
/// and then usually everything fits.
#[derive(Debug)]
pub(super) struct Stream {
    bits: Bits,
    /// The bits that are left for the block.
    room: usize,
    sequences: Vec<Sequence>,
    counts: Counts,
    /// The start of the block, and the number of its bytes.
    start: usize,
    bytes: usize,
    /// The code of the block or of its first part.
    plan: Plan,
    /// The number of sequences when the code was made.
    planned: usize,
    /// The estimated size of the block.
    cost: usize,
    step: Step,
}

/// The state of the block at the last decision on ending it.
#[derive(Debug)]
struct Step {
    sequences: usize,
    bytes: usize,
    counts: Counts,
    plan: Plan,
}

impl Step {
    fn none() -> Self {
        Self {
            sequences: 0,
            bytes: 0,
            counts: Counts::default(),
            plan: Plan::empty(),
        }
    }
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            bits: Bits::default(),
            room: 0,
            sequences: Vec::new(),
            counts: Counts::default(),
            start: 0,
            bytes: 0,
            plan: Plan::empty(),
            planned: 0,
            cost: 0,
            step: Step::none(),
        }
    }
}

impl Stream {
    /// Begins a stream of so many bytes at most.
    pub(super) fn begin(&mut self, capacity: usize) {
        self.bits.clear();
        self.sequences.clear();
        self.counts = Counts::default();
        (self.start, self.bytes) = (0, 0);
        self.room = 8 * capacity;
        self.plan = Plan::empty();
        self.planned = 0;
        self.cost = self.plan.bits;
        self.step = Step::none();
    }

    /// Adds the next sequences of `input`. Returns false if the stream is full.
    #[inline]
    pub(super) fn push(&mut self, input: &[u8], sequence: Sequence) -> bool {
        self.sequences.push(sequence);
        self.counts.add(sequence);
        self.bytes += sequence.bytes();
        self.cost += self.plan.cost(sequence);
        if self.cost > self.room && !self.replan() {
            return false;
        }
        self.sequences.len() - self.step.sequences < STEP || self.split(input)
    }

    /// Makes a code for the whole block, and returns whether there is room for more.
    fn replan(&mut self) -> bool {
        let before = self.planned;
        self.plan = self.planned_for(&self.counts, self.bytes);
        self.planned = self.sequences.len();
        self.cost = self.plan.bits;
        // The fewer sequences were added since, the smaller the gain.
        self.cost <= self.room && self.planned - before > 2 + self.planned / 1024
    }

    /// Decoders skip zeros before a stream, so that it cannot begin with a stored block of several.
    fn planned_for(&self, counts: &Counts, bytes: usize) -> Plan {
        let first = self.bits.len() == 0;
        Plan::new(counts, (!first).then_some(bytes))
    }

    /// Ends the block at the last decision if the sequences since then are shorter in a block of
    /// their own.
    fn split(&mut self, input: &[u8]) -> bool {
        let together = self.planned_for(&self.counts, self.bytes);
        if self.step.sequences > 0 {
            let since = self.counts.since(&self.step.counts);
            let bytes = self.bytes - self.step.bytes;
            let apart = Plan::new(&since, Some(bytes));
            let both = self.step.plan.bits + apart.bits;
            // Then the last part fits too, however much of the rest does.
            if both <= self.room && (both < together.bits || self.sequences.len() > LONGEST) {
                let before = self.bits.len();
                let all = &input[self.start..][..self.step.bytes];
                let sequences = &self.sequences[..self.step.sequences];
                self.step.plan.write(sequences, all, false, &mut self.bits);
                self.room = self.room.saturating_sub(self.bits.len() - before);
                self.sequences.drain(..self.step.sequences);
                self.start += self.step.bytes;
                self.bytes = bytes;
                self.counts = since;
                return self.step(apart);
            }
        }
        self.step(together)
    }

    fn step(&mut self, plan: Plan) -> bool {
        self.planned = self.sequences.len();
        self.cost = plan.bits;
        self.step = Step {
            sequences: self.sequences.len(),
            bytes: self.bytes,
            counts: self.counts.clone(),
            plan: plan.clone(),
        };
        self.plan = plan;
        self.cost <= self.room
    }

    /// Writes as much of the last block as fits.
    pub(super) fn end(&mut self, input: &[u8]) -> Packed {
        loop {
            while self.cost > self.room
                && let Some(sequence) = self.sequences.pop()
            {
                self.counts.remove(sequence);
                self.bytes -= sequence.bytes();
                self.cost = self.cost.saturating_sub(self.plan.cost(sequence));
            }
            if self.planned == self.sequences.len() {
                break;
            }
            self.planned = self.sequences.len();
            self.plan = Plan::new(&self.counts, Some(self.bytes));
            self.cost = self.plan.bits;
            if self.cost <= self.room || self.sequences.is_empty() {
                break;
            }
        }
        let rest = &input[self.start..];
        let stored = rest.len().min(self.bits.storable(self.room));
        if stored > self.bytes {
            self.bytes = stored;
            self.plan = Plan::stored();
        } else if self.cost > self.room {
            return Packed::default();
        }
        let bytes = &rest[..self.bytes];
        self.plan
            .write(&self.sequences, bytes, true, &mut self.bits);
        Packed {
            consumed: self.start + self.bytes,
            bytes: self.bits.finish().to_vec(),
        }
    }
}
