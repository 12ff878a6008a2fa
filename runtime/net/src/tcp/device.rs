//! smoltcp's view of the link: one packet in, frames out.

use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr};

use crate::config::Addresses;
use crate::frame::{MTU, Output};
use crate::shared;

struct Link<'a> {
    packet: Option<&'a [u8]>,
    out: &'a mut Output,
    /// Queue a frame even where the queue has no room: a reset, or the last acknowledgement.
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
        capabilities.max_transmission_unit = MTU;
        // Nothing changes bytes on a socket between two processes; the guest's kernel checks ours.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

/// The TCP stack. Each connection has a set of sockets of its own, so that a segment costs the same
/// however many there are.
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
            // There is room for two: what does not fit would show in every test.
            let _ = own.push(IpCidr::new(
                addresses.gateway_v4.into(),
                addresses.prefix_v4,
            ));
            let _ = own.push(IpCidr::new(
                addresses.gateway_v6.into(),
                addresses.prefix_v6,
            ));
        });
        // Each connection's far end is an address of the interface.
        interface.set_any_ip(true);
        Self(interface)
    }

    /// Gives a packet to the sockets; an answer is queued at once.
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

    /// Queues what the sockets have to send, as far as there is room. Returns whether that was all.
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
        // A socket sends one segment a turn.
        while self.0.poll_egress(now, &mut link, sockets) == PollResult::SocketStateChanged {
            if urgent {
                return true;
            }
        }
        link.out.has_room()
    }

    /// When the sockets want to send next.
    pub(super) fn next(&mut self, now: Instant, sockets: &SocketSet<'_>) -> Option<Instant> {
        self.0.poll_at(now, sockets)
    }

    pub(super) fn interface(&mut self) -> &mut Interface {
        &mut self.0
    }
}
