//! The network: the loopback interface, and `eth0` with addresses and routes that the host gives.

mod connections;
mod netlink;
pub(crate) mod relay;

use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use blockbox_protocol::{Address, Network};
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;

use super::failure::{Failure, Step, Warnings};
pub(crate) use connections::close_outgoing;
use netlink::{Message, Socket, family};

/// The one interface.
const INTERFACE: &str = "eth0";

/// The loopback interface is the first of every network namespace.
const LOOPBACK: u32 = 1;

/// How long the interface may take to appear.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(5);

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;

const IFLA_ADDRESS: u16 = 1;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

const IFF_UP: u32 = 1;
/// Addresses of a network of two need no search for duplicates, which would take a second.
const IFA_F_NODAD: u8 = 0x02;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;

/// Brings the loopback interface up, and `eth0` when there is a network.
pub(crate) fn bring_up(network: Option<&Network>, warnings: &mut Warnings) -> Result<(), Failure> {
    let socket = Socket::route().step("opening a netlink socket");
    let socket = match socket {
        Ok(socket) => socket,
        Err(failure) if network.is_some() => return Err(failure),
        Err(failure) => {
            warnings.tolerate(Err(failure));
            return Ok(());
        }
    };
    let up = socket.request(&link(LOOPBACK, true));
    warnings.tolerate(up.step("bringing the loopback interface up"));
    match network {
        Some(network) => configure(&socket, wait_for_interface(&socket)?, network),
        None => Ok(()),
    }
}

/// Replaces the network before, if there was one, by another.
pub(crate) fn change(before: Option<&Network>, after: &Network) -> Result<(), Failure> {
    let socket = Socket::route().step("opening a netlink socket")?;
    let index = wait_for_interface(&socket)?;
    // Routes go with the interface, and its hardware address cannot change while it is up.
    let step = "taking eth0 down";
    socket.request(&link(index, false)).step(step)?;
    for address in before.iter().flat_map(|network| &network.addresses) {
        match socket.request(&address_message(RTM_DELADDR, index, *address)) {
            // IPv6 addresses are gone already.
            Ok(()) | Err(Errno::ADDRNOTAVAIL) => {}
            Err(errno) => return Err(errno).step(step),
        }
    }
    configure(&socket, index, after)
}

fn wait_for_interface(socket: &Socket) -> Result<u32, Failure> {
    let deadline = Instant::now() + DEVICE_TIMEOUT;
    loop {
        match name_to_index(socket.fd(), INTERFACE) {
            Ok(index) => return Ok(index),
            Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(5)),
            Err(errno) => return Err(errno).step(format!("looking for {INTERFACE}")),
        }
    }
}

fn configure(socket: &Socket, index: u32, network: &Network) -> Result<(), Failure> {
    if !network.hardware_address.is_empty() {
        let address = link_message(index, 0, 0).attribute(IFLA_ADDRESS, &network.hardware_address);
        let step = "setting the hardware address of eth0";
        socket.request(&address).step(step)?;
    }
    let mut up = link(index, true);
    if network.mtu > 0 {
        up = up.attribute(IFLA_MTU, &network.mtu.to_ne_bytes());
    }
    socket.request(&up).step("bringing eth0 up")?;
    for &address in &network.addresses {
        let step = format!("giving eth0 the address {}/{}", address.ip, address.prefix);
        socket
            .create(&address_message(RTM_NEWADDR, index, address))
            .step(step)?;
    }
    for &gateway in &network.gateways {
        let step = format!("making {gateway} the default router");
        socket.create(&default_route(index, gateway)).step(step)?;
    }
    Ok(())
}

/// Takes an interface up or down.
fn link(index: u32, up: bool) -> Message {
    link_message(index, if up { IFF_UP } else { 0 }, IFF_UP)
}

/// `struct ifinfomsg`.
fn link_message(index: u32, flags: u32, change: u32) -> Message {
    let mut body = vec![0; 4];
    for word in [index, flags, change] {
        body.extend_from_slice(&word.to_ne_bytes());
    }
    Message::new(RTM_NEWLINK, &body)
}

/// `struct ifaddrmsg`.
fn address_message(kind: u16, index: u32, address: Address) -> Message {
    let prefix = u8::try_from(address.prefix).unwrap_or(u8::MAX);
    let mut body = vec![family(address.ip), prefix, IFA_F_NODAD, 0];
    body.extend_from_slice(&index.to_ne_bytes());
    Message::new(kind, &body)
        .address(IFA_LOCAL, address.ip)
        .address(IFA_ADDRESS, address.ip)
}

/// `struct rtmsg`.
fn default_route(index: u32, gateway: IpAddr) -> Message {
    let fixed = [
        family(gateway),
        0,
        0,
        0,
        RT_TABLE_MAIN,
        RTPROT_BOOT,
        0,
        RTN_UNICAST,
        0,
        0,
        0,
        0,
    ];
    Message::new(RTM_NEWROUTE, &fixed)
        .address(RTA_GATEWAY, gateway)
        .attribute(RTA_OIF, &index.to_ne_bytes())
}
