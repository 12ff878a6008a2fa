//! The network: the loopback interface, and `eth0` with the host's addresses and routes.

mod connections;
mod hardware;
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

/// The only interface besides the loopback interface.
const INTERFACE: &str = "eth0";

/// The index of the loopback interface, which is the first in every network namespace.
const LOOPBACK: u32 = 1;

const SET_HARDWARE: &str = "setting the hardware address of eth0";

/// How long to wait for the interface.
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
/// On a link of two there are no duplicate addresses, whose detection would take a second.
const IFA_F_NODAD: u8 = 0x02;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;

/// Brings up the loopback interface, and `eth0` if there is a network.
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

/// Replaces the previous network, if there was one. An interface whose addresses and routes stay
/// the same is not taken down, which can take long: the copies of a sandbox are on separate links,
/// and differ only in the hardware address.
pub(crate) fn change(before: Option<&Network>, after: &Network) -> Result<(), Failure> {
    let same_link = before.is_some_and(|before| same_link(before, after));
    if same_link && before.is_some_and(|before| same_hardware(before, after)) {
        return Ok(());
    }
    let socket = Socket::route().step("opening a netlink socket")?;
    let index = wait_for_interface(&socket)?;
    if same_link {
        match hardware::change(&socket, index, &after.hardware_address) {
            // A driver may not change it while the interface is up.
            Err(Errno::BUSY) => {}
            changed => return changed.step(SET_HARDWARE),
        }
    }
    // Routes are removed with the interface, and its hardware address cannot change while it is up.
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

/// Returns whether two networks differ only in names and in the hardware address.
fn same_link(one: &Network, other: &Network) -> bool {
    one.addresses == other.addresses && one.gateways == other.gateways && one.mtu == other.mtu
}

/// Returns whether an interface of `one` has the hardware address of `other`, as far as is known.
fn same_hardware(one: &Network, other: &Network) -> bool {
    other.hardware_address.is_empty() || one.hardware_address == other.hardware_address
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
        socket.request(&address).step(SET_HARDWARE)?;
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

/// Returns a message that brings an interface up or down.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::io::{ErrorKind, Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::process::Command;
    use std::sync::mpsc::{Sender, channel};

    use rustix::thread::UnshareFlags;

    use super::*;

    /// Runs the test `name`, which is otherwise ignored, in its own network namespace with an
    /// interface `eth0`.
    fn in_namespace(name: &str) {
        let Some(mut unshare) = testkit::oracle("unshare") else {
            return;
        };
        if testkit::oracle("ip").is_none() || !rustix::process::geteuid().is_root() {
            testkit::skip("network namespaces need ip and root");
            return;
        }
        let script =
            "ip link add eth0 type veth peer name other && ip link set other up && exec \"$@\"";
        let own = std::env::current_exe().unwrap();
        let test = format!("network::tests::{name}");
        let output = unshare
            .args(["--net", "sh", "-c", script, "sh"])
            .arg(own)
            .args(["--exact", &test, "--ignored", "--nocapture"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(text.contains("1 passed"), "{text}");
    }

    fn network(last: u8) -> Network {
        let mut network = Network::default();
        network.addresses = vec![
            Address {
                ip: [192, 0, 2, last].into(),
                prefix: 24,
            },
            Address {
                ip: [0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)].into(),
                prefix: 64,
            },
        ];
        network.gateways = vec![[192, 0, 2, 1].into(), [0xfd00, 0, 0, 0, 0, 0, 0, 1].into()];
        network.mtu = 1400;
        network.hardware_address = vec![2, 0, 0, 0, 0, last];
        network
    }

    fn ip(args: &[&str]) -> String {
        let output = Command::new("ip").args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn the_interface_has_the_addresses_and_routes_of_its_network_and_then_of_another() {
        in_namespace("configure_and_change");
    }

    #[test]
    #[ignore = "changes the network; run by the test above in a namespace"]
    fn configure_and_change() {
        let mut warnings = Warnings::default();
        let (first, second) = (network(2), network(3));
        bring_up(Some(&first), &mut warnings).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(warnings.take(), Vec::<String>::new());
        for (network, last) in [(&first, 2), (&second, 3)] {
            if last == 3 {
                change(Some(&first), network).unwrap_or_else(|failure| panic!("{failure}"));
            }
            let addresses = ip(&["-o", "addr", "show", "dev", "eth0"]);
            assert!(
                addresses.contains(&format!("inet 192.0.2.{last}/24")),
                "{addresses}"
            );
            assert!(
                addresses.contains(&format!("inet6 fd00::{last}/64")),
                "{addresses}"
            );
            assert_eq!(addresses.matches("192.0.2.").count(), 1, "{addresses}");
            let link = ip(&["-o", "link", "show", "dev", "eth0"]);
            assert!(link.contains("mtu 1400") && link.contains("UP"), "{link}");
            assert!(link.contains(&format!("02:00:00:00:00:0{last}")), "{link}");
            assert!(ip(&["route"]).contains("default via 192.0.2.1 dev eth0"));
            assert!(ip(&["-6", "route"]).contains("default via fd00::1 dev eth0"));
        }
        assert!(ip(&["-o", "link", "show", "dev", "lo"]).contains("UP"));
        // A separate hardware address removes no route, and is not read from another address.
        ip(&["route", "add", "198.51.100.0/24", "dev", "eth0"]);
        let mut clone = second.clone();
        clone.hardware_address = vec![2, 0, 0, 0, 1, 9];
        change(Some(&second), &clone).unwrap_or_else(|failure| panic!("{failure}"));
        let shown = ip(&["addr", "show", "dev", "eth0"]);
        assert!(shown.contains("02:00:00:00:01:09"), "{shown}");
        assert!(shown.contains("fe80::ff:fe00:109/64"), "{shown}");
        assert_eq!(shown.matches("fe80::").count(), 1, "{shown}");
        assert!(shown.contains("192.0.2.3/24") && shown.contains("fd00::3/64"));
        for family in ["-4", "-6"] {
            assert!(ip(&[family, "route"]).contains("default via"), "{family}");
        }
        assert!(ip(&["route"]).contains("198.51.100.0/24"));
        // New host names leave the interface up, because its routes would be removed with it.
        let mut renamed = clone.clone();
        renamed.search = vec!["example.org".to_owned()];
        change(Some(&clone), &renamed).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(ip(&["route"]).contains("198.51.100.0/24"));
    }

    #[test]
    fn connections_out_of_the_guest_are_closed_and_those_within_are_kept() {
        in_namespace("close_connections");
    }

    /// Accepts a connection to each address in a namespace with the other end of the link, and
    /// forgets them without a word to the client, as the host of a copied guest does. The namespace
    /// stays until what that returned is dropped.
    fn forgetful_peer(addresses: [SocketAddr; 2]) -> impl FnOnce() -> Sender<()> {
        let (sender, receiver) = channel();
        let (end, ended) = channel::<()>();
        let up = || {
            for args in [
                "link set other up",
                "addr replace 192.0.2.1/24 dev other",
                "addr replace fd00::1/64 dev other nodad",
            ] {
                ip(&args.split(' ').collect::<Vec<_>>());
            }
            // The kernel adds the route to a new IPv6 address later, and drops packets to the
            // address until then.
            let deadline = Instant::now() + DEVICE_TIMEOUT;
            while !ip(&["-6", "route", "show", "table", "local"]).contains("fd00::1 ") {
                assert!(Instant::now() < deadline, "the other end has no address");
                sleep(Duration::from_millis(5));
            }
        };
        std::thread::spawn(move || {
            #[expect(unsafe_code, reason = "no safe function changes the namespace")]
            // SAFETY: No file descriptors are unshared.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            let thread = rustix::thread::gettid().as_raw_nonzero().get();
            sender.send(thread).unwrap();
            ended.recv().unwrap();
            up();
            let listeners = addresses.map(|address| TcpListener::bind(address).unwrap());
            sender.send(thread).unwrap();
            let accepted = listeners.map(|listener| listener.accept().unwrap().0);
            ended.recv().unwrap();
            // Without an address of its own it sends no reset.
            ip(&["addr", "flush", "dev", "other"]);
            for stream in accepted {
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
            }
            up();
            sender.send(thread).unwrap();
            // The link goes with the namespace, and that with the last thread.
            let _ = ended.recv();
        });
        let thread = receiver.recv().unwrap();
        ip(&["link", "set", "other", "netns", &thread.to_string()]);
        end.send(()).unwrap();
        receiver.recv().unwrap();
        move || {
            end.send(()).unwrap();
            receiver.recv().unwrap();
            end
        }
    }

    #[test]
    #[ignore = "changes the network; run by the test above in a namespace"]
    fn close_connections() {
        let peers: [SocketAddr; 2] = ["192.0.2.1:80", "[fd00::1]:80"].map(|at| at.parse().unwrap());
        let forget = forgetful_peer(peers);
        bring_up(Some(&network(2)), &mut Warnings::default())
            .unwrap_or_else(|failure| panic!("{failure}"));
        let outside = peers.map(|peer| TcpStream::connect(peer).unwrap());
        let within = ["127.0.0.1:0", "[::1]:0", "192.0.2.2:0"].map(|address| {
            let listener = TcpListener::bind(address).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (client, listener.accept().unwrap().0)
        });
        let _peer = forget();
        assert_eq!(close_outgoing().unwrap(), 2);
        for mut client in outside {
            // Otherwise it would wait for ever.
            client.set_read_timeout(Some(DEVICE_TIMEOUT)).unwrap();
            let error = client.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        }
        for (mut client, mut server) in within {
            client.write_all(b"x").unwrap();
            assert_eq!(server.read(&mut [0]).unwrap(), 1);
        }
    }
}
