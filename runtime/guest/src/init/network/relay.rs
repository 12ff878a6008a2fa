//! Forwards connections from the host to servers that listen only on the loopback interface (see
//! [`blockbox_protocol::relay`]), in a process forked from init, so that its traffic does not delay
//! init.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use blockbox_protocol::Network;
use blockbox_protocol::relay::{CONNECTED, PORT_LEN, REFUSED};

use crate::failure::{Failure, Step, Warnings};
use crate::sys;

/// The most connections at a time; the host has fewer.
const MOST_CONNECTIONS: usize = 512;

/// How long the host may take to send the port number.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts the relay, if the host requests it.
pub(crate) fn start(network: Option<&Network>, warnings: &mut Warnings) {
    let Some(network) = network.filter(|network| network.relay_port > 0) else {
        return;
    };
    for address in &network.addresses {
        let socket = SocketAddr::new(address.ip, network.relay_port);
        warnings.tolerate(listen(socket));
    }
}

fn listen(address: SocketAddr) -> Result<(), Failure> {
    let listener = TcpListener::bind(address).step(format!("listening on {address}"))?;
    sys::fork(move || serve(&listener)).step("starting the relay")?;
    Ok(())
}

/// Serves connections while the guest runs.
fn serve(listener: &TcpListener) {
    let active = std::sync::Arc::new(());
    for connection in listener.incoming() {
        let Ok(connection) = connection else {
            // Descriptors or memory are exhausted: other connections will end.
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        if std::sync::Arc::strong_count(&active) > MOST_CONNECTIONS {
            continue;
        }
        let held = std::sync::Arc::clone(&active);
        // If the thread cannot be started, the connection is closed.
        let _ = thread::Builder::new()
            .stack_size(128 * 1024)
            .spawn(move || {
                // An error closes the connection.
                let _ = pass_on(connection);
                drop(held);
            });
    }
}

fn pass_on(mut host: TcpStream) -> io::Result<()> {
    host.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    let mut port = [0; PORT_LEN];
    host.read_exact(&mut port)?;
    host.set_read_timeout(None)?;
    host.set_nodelay(true)?;
    let Some(server) = connect(u16::from_be_bytes(port)) else {
        return host.write_all(&[REFUSED]);
    };
    server.set_nodelay(true)?;
    host.write_all(&[CONNECTED])?;
    let (from_host, to_server) = (host.try_clone()?, server.try_clone()?);
    let inward = thread::Builder::new()
        .stack_size(128 * 1024)
        .spawn(move || copy(from_host, to_server))?;
    copy(server, host);
    // Both directions must end before the connection is closed.
    let _ = inward.join();
    Ok(())
}

fn connect(port: u16) -> Option<TcpStream> {
    let loopback = [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::from(Ipv6Addr::LOCALHOST),
    ];
    loopback
        .into_iter()
        .find_map(|address| TcpStream::connect((address, port)).ok())
}

/// Copies one direction to its end, and shuts down the receiver's input.
fn copy(mut from: TcpStream, mut to: TcpStream) {
    let copied = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
    if copied.is_err() {
        // The sender's other direction is of no use either.
        let _ = from.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn relay() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || serve(&listener));
        address
    }

    fn ask(relay: SocketAddr, port: u16) -> (TcpStream, u8) {
        let mut connection = TcpStream::connect(relay).unwrap();
        connection.write_all(&port.to_be_bytes()).unwrap();
        let mut answer = [9];
        connection.read_exact(&mut answer).unwrap();
        (connection, answer[0])
    }

    #[test]
    fn a_connection_to_a_loopback_server_ends_one_direction_at_a_time() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let (mut connection, answer) = ask(relay(), port);
        assert_eq!(answer, CONNECTED);
        let (mut served, _) = server.accept().unwrap();
        let data = vec![7; 1 << 20];
        let sent = data.clone();
        let writer = thread::spawn(move || {
            connection.write_all(&sent).unwrap();
            connection.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            connection.read_to_string(&mut answer).unwrap();
            answer
        });
        let mut received = Vec::new();
        served.read_to_end(&mut received).unwrap();
        assert!(received == data);
        served.write_all(b"still open").unwrap();
        drop(served);
        assert_eq!(writer.join().unwrap(), "still open");
    }

    #[test]
    fn a_port_without_a_server_is_refused() {
        let unused = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = unused.local_addr().unwrap().port();
        drop(unused);
        assert_eq!(ask(relay(), port).1, REFUSED);
    }
}
