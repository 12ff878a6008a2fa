//! Reassembles fragments of the guest's packets in bounded memory.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::packet::{self, Packet};

/// The most incomplete packets.
const PACKETS: usize = 16;
/// The most fragments of one packet.
const PIECES: usize = 64;
/// RFC 8200 allows a packet 60 s; on a link without losses less is enough.
const PATIENCE: Duration = Duration::from_secs(15);
/// The longest payload in bytes.
const LONGEST: usize = 65_535;

#[derive(PartialEq, Eq)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    id: u32,
}

struct Partial {
    key: Key,
    since: Instant,
    /// Fragments by their offset, without overlaps.
    pieces: Vec<(usize, Vec<u8>)>,
    /// The payload's length, once the last fragment has arrived.
    total: Option<usize>,
}

/// Packets of which some fragments are missing.
#[derive(Default)]
pub(crate) struct Reassembly {
    partial: VecDeque<Partial>,
}

impl Reassembly {
    /// Adds a fragment. Returns the complete packet if it was the last missing one.
    ///
    /// An overlap drops the packet, as RFC 5722 requires; the oldest packet is dropped for a new
    /// one.
    pub(crate) fn add(&mut self, packet: &Packet<'_>, now: Instant) -> Option<Vec<u8>> {
        let piece = packet.fragment?;
        let end = piece.offset.checked_add(packet.payload.len())?;
        let whole_blocks = packet.payload.len().is_multiple_of(8);
        if end > LONGEST || packet.payload.is_empty() || (piece.more && !whole_blocks) {
            return None;
        }
        self.partial
            .retain(|partial| now.saturating_duration_since(partial.since) < PATIENCE);
        let key = Key {
            source: packet.source,
            destination: packet.destination,
            protocol: packet.protocol,
            id: piece.id,
        };
        let index = match self.partial.iter().position(|partial| partial.key == key) {
            Some(index) => index,
            None => {
                if self.partial.len() >= PACKETS {
                    self.partial.pop_front();
                }
                self.partial.push_back(Partial {
                    key,
                    since: now,
                    pieces: Vec::new(),
                    total: None,
                });
                self.partial.len() - 1
            }
        };
        let partial = self.partial.get_mut(index)?;
        if !partial.add(piece.offset, end, piece.more, packet.payload) {
            self.partial.remove(index);
            return None;
        }
        let payload = partial.payload()?;
        let key = self.partial.remove(index)?.key;
        packet::ip(key.source, key.destination, key.protocol, &payload)
    }
}

impl Partial {
    /// Adds a fragment. Returns `false` if it contradicts an earlier one.
    fn add(&mut self, offset: usize, end: usize, more: bool, bytes: &[u8]) -> bool {
        let place = self.pieces.partition_point(|(start, _)| *start < offset);
        if let Some((start, same)) = self.pieces.get(place) {
            if *start == offset && same == bytes {
                return true;
            }
            if *start < end {
                return false;
            }
        }
        let overlaps = place
            .checked_sub(1)
            .and_then(|before| self.pieces.get(before))
            .is_some_and(|(start, bytes)| start + bytes.len() > offset);
        let beyond = self.total.is_some_and(|total| end > total || !more);
        let short = !more
            && self
                .pieces
                .last()
                .is_some_and(|(start, bytes)| start + bytes.len() > end);
        if overlaps || beyond || short || self.pieces.len() >= PIECES {
            return false;
        }
        if !more {
            self.total = Some(end);
        }
        self.pieces.insert(place, (offset, bytes.to_vec()));
        true
    }

    /// Returns the payload if no fragment is missing.
    fn payload(&self) -> Option<Vec<u8>> {
        let total = self.total?;
        let here: usize = self.pieces.iter().map(|(_, bytes)| bytes.len()).sum();
        (here == total).then(|| {
            self.pieces
                .iter()
                .flat_map(|(_, bytes)| bytes)
                .copied()
                .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packets(v6: bool, data: &[u8], id: u32) -> Vec<Vec<u8>> {
        let (from, to) = if v6 {
            ("[fd00::2]:1", "[2606::1]:2")
        } else {
            ("10.0.0.2:1", "1.1.1.1:2")
        };
        packet::datagram(from.parse().unwrap(), to.parse().unwrap(), data, id)
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_make_the_packet(length in 1473usize..20_000, seed: u64, v6: bool) {
            let data: Vec<u8> = (0..length).map(|n| (n as u64 ^ seed) as u8).collect();
            let mut pieces = packets(v6, &data, 7);
            prop_assert!(pieces.len() > 1);
            let turn = seed as usize % pieces.len();
            pieces.rotate_left(turn);
            if seed % 2 == 0 {
                pieces.reverse();
            }
            let mut reassembly = Reassembly::default();
            let now = Instant::now();
            let (last, before) = pieces.split_last().unwrap();
            for piece in before {
                prop_assert!(piece.len() <= 1500);
                let piece = Packet::parse(piece).unwrap();
                prop_assert!(reassembly.add(&piece, now).is_none());
                // A repeated fragment has no effect.
                prop_assert!(reassembly.add(&piece, now).is_none());
            }
            let whole = reassembly.add(&Packet::parse(last).unwrap(), now).unwrap();
            let whole = Packet::parse(&whole).unwrap();
            prop_assert_eq!(packet::udp_data(&whole), Some(&data[..]));
            prop_assert!(reassembly.partial.is_empty());
        }
    }

    #[test]
    fn endless_fragments_use_bounded_memory() {
        let mut reassembly = Reassembly::default();
        let now = Instant::now();
        for id in 0..1000 {
            let first = &packets(false, &[0; 60_000], id)[0];
            assert!(
                reassembly
                    .add(&Packet::parse(first).unwrap(), now)
                    .is_none()
            );
        }
        assert_eq!(reassembly.partial.len(), PACKETS);
        let later = now + PATIENCE;
        let first = &packets(false, &[0; 3000], 5000)[0];
        reassembly.add(&Packet::parse(first).unwrap(), later);
        assert_eq!(reassembly.partial.len(), 1);
    }

    #[test]
    fn overlapping_pieces_drop_the_packet() {
        let mut reassembly = Reassembly::default();
        let now = Instant::now();
        let pieces = packets(false, &[1; 4000], 1);
        let others = packets(false, &[2; 4000], 1);
        reassembly.add(&Packet::parse(&pieces[0]).unwrap(), now);
        reassembly.add(&Packet::parse(&others[0]).unwrap(), now);
        assert!(reassembly.partial.is_empty());
    }
}
