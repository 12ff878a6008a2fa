//! Connections of programs in a guest that last, or whose peer does not read, and HTTP/2.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;

use crate::common::guest::{Guest, until};
use crate::software::{PYTHON, Server};
use crate::{common, net, sh};

/// The module of the WebSocket's two sides.
pub(crate) const WEBSOCKETS: &str = "/usr/lib/python3/dist-packages/websockets";

/// The greatest size of the gateway's buffers for three connections, in bytes: the one whose peer
/// does not read, the WebSocket, and one that has just ended.
const BUFFERS: u64 = 3 * (512 << 10);

/// Sends messages back.
const ECHO: &str = "
import asyncio, sys, websockets
async def echo(socket):
    async for message in socket:
        await socket.send(message)
async def main():
    async with websockets.serve(echo, '127.0.0.1', int(sys.argv[1]), ping_interval=None):
        await asyncio.Future()
asyncio.run(main())
";

/// Is silent until there is a file `/go`.
const HOLD: &str = "
import asyncio, os, sys, websockets
async def main():
    url = 'ws://host.blockbox.internal:' + sys.argv[1]
    async with websockets.connect(url, ping_interval=None) as socket:
        for message in ['first', 'x' * 300000, 'last']:
            await socket.send(message)
            assert await socket.recv() == message
            while message != 'first' and not os.path.exists('/go'):
                await asyncio.sleep(0.1)
asyncio.run(main())
print('held')
";

/// Sends until nothing moves, and ends when its peer has read all.
const FILL: &str = "
import socket, sys
s = socket.create_connection(('host.blockbox.internal', int(sys.argv[1])))
s.settimeout(2)
count = 0
try:
    while count < 64 << 20:
        count += s.send(bytes(65536))
except TimeoutError:
    print(count, flush=True)
s.settimeout(None)
s.shutdown(socket.SHUT_WR)
print(s.recv(1))
";

/// Servers on the host's loopback.
pub(crate) struct Streams {
    http2: Server,
    echo: Server,
    silent: TcpListener,
}

impl Streams {
    /// Starts servers of the files in this folder, and others.
    pub(crate) fn start(folder: &Path) -> Option<Self> {
        let nghttpd = testkit::oracle("nghttpd")?;
        let http2 = ["--no-tls", "-a", "127.0.0.1", "-d", ".", "PORT"];
        Some(Self {
            http2: Server::start(nghttpd.get_program().to_str()?, &http2, folder),
            echo: Server::start(PYTHON, &["-c", ECHO, "PORT"], folder),
            silent: TcpListener::bind("127.0.0.1:0").unwrap(),
        })
    }

    /// Returns the ports of the servers.
    pub(crate) fn ports(&self) -> [u16; 3] {
        let silent = self.silent.local_addr().unwrap().port();
        [self.http2.port, self.echo.port, silent]
    }

    /// Checks each kind of connection from a running sandbox `box`; the folder has a file `large`
    /// of `size` bytes. A WebSocket is open all the time.
    pub(crate) fn check(&self, guest: &Guest, size: usize) {
        let [http2, echo, silent] = self.ports().map(|port| port.to_string());
        let hold = format!("exec {PYTHON} -c \"{HOLD}\" {echo} >/held 2>&1");
        guest
            .blockbox
            .ok(["exec", "-d", "box", "--", "sh", "-c", &hold]);

        let fetched = sh(
            guest,
            "box",
            &format!(
                "curl --http2-prior-knowledge -sSf -o /dev/null \
                 -w '%{{http_version}} %{{http_code}} %{{size_download}}' \
                 http://host.blockbox.internal:{http2}/large"
            ),
        );
        assert_eq!(fetched, format!("2 200 {size}"));

        let fill = ["exec", "box", "--", PYTHON, "-c", FILL, &silent];
        let mut filling = common::guest::start(&guest.blockbox, &fill);
        let mut output = BufReader::new(filling.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let sent: u64 = line.trim().parse().unwrap();
        // The kernels on both sides have buffers of some megabytes.
        assert!((1..32 << 20).contains(&sent), "{sent}");
        let held = net(guest, "box")["buffer_bytes"].as_u64().unwrap();
        assert!((1..=BUFFERS).contains(&held), "{held}");
        let (mut peer, _) = self.silent.accept().unwrap();
        let read = std::io::copy(&mut peer, &mut std::io::sink()).unwrap();
        assert_eq!(read, sent);
        drop(peer);
        line.clear();
        output.read_to_string(&mut line).unwrap();
        assert_eq!(line, "b''\n");
        assert!(filling.wait().unwrap().success());

        let said = || sh(guest, "box", "touch /go; cat /held");
        let held = until("the end of the WebSocket", || {
            Some(said()).filter(|said| !said.is_empty())
        });
        assert_eq!(held, "held\n");
    }
}
