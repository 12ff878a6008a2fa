//! smoltcp's device for the link: receives one packet, sends frames.

use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr};

use crate::config::Addresses;
use crate::frame::{LARGEST, Output};
use crate::shared;

struct Link<'a> {
    packet: Option<&'a [u8]>,
    out: &'a mut Output,
    /// Whether to queue a frame even if the queue is full: a reset, or the last acknowledgement.
    urgent: bool,
}

struct Received<'a>(&'a [u8]);

struct Sending<'a>(&'a mut Output);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, emit: F) -> R {
        self.0.packet(length, emit)
    }
}

impl Device for Link<'_> {
    type RxToken<'b>
        = Received<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Sending<'b>
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, Sending<'_>)> {
        let packet = self.packet.take()?;
        Some((Received(packet), Sending(self.out)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        (self.urgent || self.out.has_room()).then_some(Sending(self.out))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = LARGEST;
        // Bytes cannot change on a socket between two processes; the guest's kernel checks our
        // checksums.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

/// The TCP stack. Each connection has its own set of sockets, so that the cost of a segment does
/// not depend on the number of connections.
pub(super) struct Stack(Interface);

impl Stack {
    pub(super) fn new(addresses: &Addresses, out: &mut Output) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = shared::random();
        let mut link = Link {
            packet: None,
            out,
            urgent: false,
        };
        let mut interface = Interface::new(config, &mut link, Instant::ZERO);
        interface.update_ip_addrs(|own| {
            // There is space for two addresses; a missing one would fail every test.
            let _ = own.push(IpCidr::new(
                addresses.gateway_v4.into(),
                addresses.prefix_v4,
            ));
            let _ = own.push(IpCidr::new(
                addresses.gateway_v6.into(),
                addresses.prefix_v6,
            ));
        });
        // Every far end is an address of the interface.
        interface.set_any_ip(true);
        Self(interface)
    }

    /// Passes a packet to the sockets; an answer is queued at once.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        packet: &[u8],
        sockets: &mut SocketSet<'_>,
        out: &mut Output,
    ) {
        let mut link = Link {
            packet: Some(packet),
            out,
            urgent: false,
        };
        let _: PollIngressSingleResult = self.0.poll_ingress_single(now, &mut link, sockets);
    }

    /// Queues segments of the sockets as far as there is space. Returns whether that was all.
    pub(super) fn send(
        &mut self,
        now: Instant,
        sockets: &mut SocketSet<'_>,
        out: &mut Output,
        urgent: bool,
    ) -> bool {
        let mut link = Link {
            packet: None,
            out,
            urgent,
        };
        // A socket sends one segment per turn.
        while self.0.poll_egress(now, &mut link, sockets) == PollResult::SocketStateChanged {
            if urgent {
                return true;
            }
        }
        link.out.has_room()
    }

    /// Returns when the sockets must send next.
    pub(super) fn next(&mut self, now: Instant, sockets: &SocketSet<'_>) -> Option<Instant> {
        self.0.poll_at(now, sockets)
    }

    pub(super) fn interface(&mut self) -> &mut Interface {
        &mut self.0
    }
}
