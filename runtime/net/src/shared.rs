//! State that all parts of the gateway share.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use mio::Registry;

use crate::config::{Addresses, Limits};
use crate::denial::{Denial, Denials};
use crate::dns::question::Question;
use crate::frame::Output;
use crate::link;
use crate::packet::{self, Packet, Unreachable};
use crate::policy::Policy;

/// The first of the gateway's own ports, from which it calls and sends to the guest.
pub(crate) const FIRST_PORT: u16 = 32_768;

/// State that all parts of the gateway share.
pub(crate) struct Shared {
    pub(crate) addresses: Addresses,
    pub(crate) limits: Limits,
    pub(crate) out: Output,
    pub(crate) policy: Policy,
    pub(crate) denials: Denials,
    pub(crate) registry: Registry,
    /// The time of this turn of the loop.
    pub(crate) now: Instant,
    /// Queries for the resolver in this turn.
    pub(crate) questions: Vec<Question>,
    started: Instant,
    packet_id: u32,
}

impl Shared {
    pub(crate) fn new(
        addresses: Addresses,
        limits: Limits,
        policy: Policy,
        registry: Registry,
    ) -> Self {
        let now = Instant::now();
        Self {
            addresses,
            limits,
            out: Output::new(addresses.guest_mac, addresses.gateway_mac),
            policy,
            denials: Denials::default(),
            registry,
            now,
            questions: Vec::new(),
            started: now,
            packet_id: 0,
        }
    }

    /// Returns the time of this turn in smoltcp's clock.
    pub(crate) fn stack_now(&self) -> smoltcp::time::Instant {
        let since = self.now.saturating_duration_since(self.started);
        smoltcp::time::Instant::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// Converts a time of smoltcp to the system's clock.
    pub(crate) fn system_time(&self, time: smoltcp::time::Instant) -> Instant {
        let micros = u64::try_from(time.total_micros()).unwrap_or(0);
        self.started + std::time::Duration::from_micros(micros)
    }

    /// Records a denial and reports it to the sender of the packet.
    pub(crate) fn deny(&mut self, denial: Denial, packet: &Packet<'_>) {
        self.denials.record(denial);
        self.unreachable(packet, Unreachable::Prohibited);
    }

    /// Reports to the sender of a packet that it cannot be delivered.
    pub(crate) fn unreachable(&mut self, packet: &Packet<'_>, why: Unreachable) {
        let from = link::reporter(&self.addresses, packet.destination);
        if let Some(bytes) = packet::unreachable(packet, from, why) {
            self.out.ip(&bytes);
        }
    }

    /// Sends a datagram to the guest.
    pub(crate) fn datagram(&mut self, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        let id = self.packet_id();
        for bytes in packet::datagram(from, to, data, id) {
            self.out.ip(&bytes);
        }
    }

    fn packet_id(&mut self) -> u32 {
        self.packet_id = self.packet_id.wrapping_add(1);
        self.packet_id
    }

    /// Returns the gateway's address of the same family.
    pub(crate) fn gateway_for(&self, address: IpAddr) -> IpAddr {
        link::reporter(&self.addresses, address)
    }
}

/// Returns a number that the guest cannot guess.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
