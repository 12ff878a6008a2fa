//! Connections to the guest, from a published port to the guest's address that the server listens
//! on.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use mio::net::TcpStream;
use smoltcp::socket::tcp::State;
use smoltcp::wire::IpEndpoint;
use socket2::SockRef;

use super::flow::{Far, Flow, Key, Stage};
use super::{Tcp, prepare};
use crate::shared::{FIRST_PORT, Shared};

/// How long to wait for an address that has had a server, or for the first address: the guest's
/// kernel may not be up yet, or a server's queue of connections may be full. Linux drops
/// connections when the queue is full, and this allows the retransmissions after 1, 3, 7, 15 and 31
/// seconds.
const CALL: Duration = Duration::from_secs(60);
/// How long to wait for other addresses that have not had a server: they may belong to a protocol
/// that the guest's kernel does not support.
const RECALL: Duration = Duration::from_secs(9);

impl Tcp {
    /// Handles a connection to a published port, and connects to the guest's port.
    pub(crate) fn accept(&mut self, stream: TcpStream, guest_port: u16, shared: &mut Shared) {
        if self.flows.len() >= shared.limits.tcp_flows {
            // Closed with a reset, so that the peer does not mistake it for an answer.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            return;
        }
        prepare(&stream);
        // A server may listen on one address family, or only on the guest's loopback, which the
        // gateway can reach if `route_localnet` is set for the guest's interface.
        let addresses = &shared.addresses;
        let mut others: VecDeque<SocketAddr> = [
            IpAddr::V4(addresses.guest_v4),
            Ipv4Addr::LOCALHOST.into(),
            addresses.guest_v6.into(),
        ]
        .map(|address| (address, guest_port).into())
        .into();
        if let Some(server) = self.servers.get(&guest_port) {
            // The address that has had a server comes first, so that no other must refuse before.
            others.retain(|address| address.ip() != *server);
            others.push_front((*server, guest_port).into());
        }
        let Some(guest) = others.pop_front() else {
            return;
        };
        let Some(key) = self.free_key(guest, shared) else {
            return;
        };
        let until = shared.now + CALL;
        let stage = Stage::Calling { others, until };
        let index = self.insert(key, stage, Far::Host(stream), shared.now);
        if let Some(flow) = self.flows.get_mut(index) {
            flow.inbound = true;
        }
        if self.register(index, shared).is_err() || !self.call(index, shared) {
            self.remove(index, shared);
        }
    }

    /// Returns a pair of ends that no connection uses.
    fn free_key(&mut self, guest: SocketAddr, shared: &Shared) -> Option<Key> {
        let from = shared.gateway_for(guest.ip());
        for _ in FIRST_PORT..u16::MAX {
            self.port = self.port.checked_add(1).unwrap_or(FIRST_PORT);
            let key = Key {
                guest,
                far: (from, self.port).into(),
            };
            if !self.by_key.contains_key(&key) {
                return Some(key);
            }
        }
        None
    }

    /// Starts to connect to the guest. Returns whether that was possible.
    fn call(&mut self, index: usize, shared: &mut Shared) -> bool {
        let Some(buffer) = self.grow(index, shared) else {
            return false;
        };
        let Some(flow) = self.flows.get_mut(index) else {
            return false;
        };
        let key = flow.key;
        let endpoint = |address: SocketAddr| IpEndpoint::new(address.ip().into(), address.port());
        let socket = flow.socket(buffer, &mut self.spare);
        let called = socket
            .connect(
                self.stack.interface().context(),
                endpoint(key.guest),
                endpoint(key.far),
            )
            .is_ok();
        self.wake(index);
        called
    }

    /// Checks whether the guest has accepted a call, and tries the next address if it refused.
    /// Returns whether the turn is over.
    pub(super) fn answered(&mut self, index: usize, shared: &mut Shared) -> bool {
        let Some(flow) = self.flows.get_mut(index) else {
            return true;
        };
        let state = flow.state();
        if !matches!(flow.stage, Stage::Calling { .. }) {
            return false;
        }
        match state {
            Some(State::SynSent) => false,
            Some(State::Closed) => {
                let guest = flow.key.guest;
                if self.servers.get(&guest.port()) == Some(&guest.ip()) {
                    self.servers.remove(&guest.port());
                }
                self.call_next(index, shared);
                true
            }
            _ => {
                self.servers
                    .insert(flow.key.guest.port(), flow.key.guest.ip());
                flow.stage = Stage::Open;
                flow.last = shared.now;
                false
            }
        }
    }

    /// Handles that an address has not answered in time.
    pub(super) fn unanswered(&mut self, index: usize, shared: &mut Shared) {
        let Some(flow) = self.flows.get_mut(index) else {
            return;
        };
        let (guest, last) = (flow.key.guest, flow.last + CALL);
        let served = self.servers.get(&guest.port()) == Some(&guest.ip());
        match &mut flow.stage {
            // It has accepted other connections since: its server is busy.
            Stage::Calling { until, .. } if served && last > shared.now => {
                *until = last;
                self.wake(index);
            }
            _ => self.call_next(index, shared),
        }
    }

    /// Connects to the next address where a guest's server may listen, or resets the client if
    /// there is none left.
    fn call_next(&mut self, index: usize, shared: &mut Shared) {
        let Some(Flow {
            stage: Stage::Calling { others, until },
            ..
        }) = self.flows.get_mut(index)
        else {
            return;
        };
        *until = shared.now + RECALL;
        let next = others.pop_front();
        let next = next.and_then(|guest| self.free_key(guest, shared));
        if let (Some(key), Some(flow)) = (next, self.flows.get_mut(index)) {
            self.by_key.remove(&flow.key);
            flow.key = key;
            self.by_key.insert(key, index);
            if self.call(index, shared) {
                return;
            }
        }
        if let Some(flow) = self.flows.get(index) {
            flow.reset_far();
        }
        self.remove(index, shared);
    }
}
