//! Connections to the guest: from a published port to whichever of its addresses has the server.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use mio::net::TcpStream;
use smoltcp::socket::tcp::State;
use smoltcp::wire::IpEndpoint;
use socket2::SockRef;

use super::flow::{Far, Flow, Key, Stage};
use super::{Tcp, prepare};
use crate::shared::Shared;

/// Ports of the gateway from which it connects to the guest.
pub(super) const FIRST_PORT: u16 = 32_768;
/// The guest's kernel may not be up yet when somebody connects to a published port.
const CALL: Duration = Duration::from_secs(30);
/// A guest that has refused one address is up. Its server at the next one may have no room for another connection: long enough
/// for three more attempts (after 1, 3 and 7 seconds).
const RECALL: Duration = Duration::from_secs(9);

impl Tcp {
    /// Takes a connection that somebody made to a published port, and connects to the guest's port.
    pub(crate) fn accept(&mut self, stream: TcpStream, guest_port: u16, shared: &mut Shared) {
        if self.flows.len() >= shared.limits.tcp_flows {
            // Dropped with a reset, so that the peer does not take it for an answer.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            return;
        }
        prepare(&stream);
        // A server may listen on one family, or on the guest's loopback only: the guest's kernel lets the
        // gateway reach that where `route_localnet` is set for its interface.
        let addresses = &shared.addresses;
        let mut others: VecDeque<SocketAddr> = [
            IpAddr::V4(addresses.guest_v4),
            Ipv4Addr::LOCALHOST.into(),
            addresses.guest_v6.into(),
        ]
        .map(|address| (address, guest_port).into())
        .into();
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

    /// Two ends that no connection has.
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

    /// Begins to connect to the guest. Returns whether it could.
    fn call(&mut self, index: usize, shared: &mut Shared) -> bool {
        let Some(buffer) = self.grow(index, shared) else {
            return false;
        };
        let Some(flow) = self.flows.get_mut(index) else {
            return false;
        };
        let key = flow.key;
        let endpoint = |address: SocketAddr| IpEndpoint::new(address.ip().into(), address.port());
        let socket = flow.socket(buffer);
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

    /// Sees whether the guest has taken a call, and calls elsewhere where it refused. Returns whether the turn is over.
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
                self.call_next(index, shared);
                true
            }
            _ => {
                flow.stage = Stage::Open;
                flow.last = shared.now;
                false
            }
        }
    }

    /// Connects to the next address where a guest's server may listen, or resets the client where none is left.
    pub(super) fn call_next(&mut self, index: usize, shared: &mut Shared) {
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
