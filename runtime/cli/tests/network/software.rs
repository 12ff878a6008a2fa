//! Widely used programs in a guest, with servers on the host's loopback.

use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::common::guest::{Guest, LONG, until};
use crate::common::programs::Programs;
use crate::streams::{Streams, WEBSOCKETS};
use crate::{sh, start, text};

/// A server that ends with the test.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
}

impl Server {
    /// Starts a program that listens on a free port of the loopback, which replaces `PORT` in its
    /// arguments.
    pub(crate) fn start(program: &str, arguments: &[&str], folder: &Path) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let arguments = arguments
            .iter()
            .map(|a| a.replace("PORT", &port.to_string()));
        let child = Command::new(program)
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until(program, || TcpStream::connect(("127.0.0.1", port)).ok());
        Self { child, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) const PYTHON: &str = "/usr/bin/python3.11";

/// Makes a Debian archive with one package, and an index with one Python package.
fn publish(folder: &Path) {
    let write = |path: &str, text: &str| {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write(
        "package/DEBIAN/control",
        "Package: greeting\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: greets\n",
    );
    write("package/usr/share/greeting", "installed by apt\n");
    let built = Command::new("dpkg-deb")
        .args([
            "--root-owner-group",
            "-Zgzip",
            "-b",
            "package",
            "greeting.deb",
        ])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(built.status.success(), "{built:?}");
    let deb = std::fs::read(folder.join("greeting.deb")).unwrap();
    let digest: String = {
        use sha2::{Digest, Sha256};
        Sha256::digest(&deb)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    };
    write(
        "Packages",
        &format!(
            "Package: greeting\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@example.org>\n\
             Description: greets\nFilename: ./greeting.deb\nSize: {}\nSHA256: {digest}\n\n",
            deb.len()
        ),
    );
    write(
        "wheel.py",
        "import zipfile\n\
         z = zipfile.ZipFile('simple/greeting/greeting-1.0-py3-none-any.whl', 'w')\n\
         z.writestr('greeting.py', 'TEXT = \"installed by pip\"\\n')\n\
         d = 'greeting-1.0.dist-info/'\n\
         z.writestr(d + 'METADATA', 'Metadata-Version: 2.1\\nName: greeting\\nVersion: 1.0\\n')\n\
         z.writestr(d + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: a\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\
         z.writestr(d + 'RECORD', 'greeting.py,,\\n' + d + 'METADATA,,\\n' + d + 'WHEEL,,\\n' + d + 'RECORD,,\\n')\n\
         z.close()\n",
    );
    write("simple/greeting/.keep", "");
    let made = Command::new(PYTHON)
        .arg("wheel.py")
        .current_dir(folder)
        .status();
    assert!(made.unwrap().success());
}

#[test]
fn curl_apt_get_pip_iperf3_and_websockets_work_in_a_sandbox() {
    let programs = || {
        Programs::default()
            .program("curl")?
            .program("iperf3")?
            .program(PYTHON)?
            .folder("/usr/lib/python3.11")?
            .folder("/usr/lib/python3/dist-packages/pip")?
            .folder(WEBSOCKETS)?
            .folder("/usr/share/dpkg")?
            .program("apt-get")?
            .program("dpkg")?
            .program("dpkg-deb")?
            .program("dpkg-split")?
            .program("tar")?
            .program("rm")?
            .program("diff")?
            .program("/sbin/ldconfig")?
            .program("/sbin/start-stop-daemon")?
            .program("/usr/lib/apt/methods/http")?
            .program("/usr/lib/apt/methods/store")?
            .program("/usr/lib/apt/methods/copy")?
            .program("/usr/lib/apt/solvers/dump")
    };
    let Some(programs) = programs() else { return };
    let (Some(openssl), Some(iperf)) = (testkit::oracle("openssl"), testkit::oracle("iperf3"))
    else {
        return;
    };
    let tar = programs
        .tar()
        .mode(0o755)
        .dir("var/lib/dpkg/updates")
        .dir("var/lib/dpkg/info")
        .dir("var/lib/apt/lists/partial")
        .dir("var/cache/apt/archives/partial")
        .dir("etc/apt/apt.conf.d")
        .dir("etc/apt/preferences.d")
        .dir("var/log/apt")
        .mode(0o644)
        .file("var/lib/dpkg/status", "")
        .file("etc/nsswitch.conf", "hosts: files dns\n");
    let config = json!({ "Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] });
    let Some(guest) = Guest::with_tars(config, vec![tar.finish()]) else {
        return;
    };

    let folder = tempfile::tempdir().unwrap();
    publish(folder.path());
    std::fs::write(folder.path().join("large"), vec![7; 3 << 20]).unwrap();
    let key = Command::new(openssl.get_program())
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args(["-keyout", "key", "-out", "certificate", "-days", "2"])
        .args([
            "-subj",
            "/CN=tls.example",
            "-addext",
            "subjectAltName=DNS:tls.example",
        ])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(key.status.success(), "{key:?}");
    let program = |command: &Command| command.get_program().to_str().unwrap().to_owned();
    let http = [
        "-m",
        "http.server",
        "--protocol",
        "HTTP/1.1",
        "--bind",
        "127.0.0.1",
        "PORT",
    ];
    let web = Server::start(PYTHON, &http, folder.path());
    let tls = [
        "s_server",
        "-accept",
        "127.0.0.1:PORT",
        "-key",
        "key",
        "-cert",
        "certificate",
        "-WWW",
    ];
    let tls = Server::start(&program(&openssl), &tls, folder.path());
    let speed = Server::start(
        &program(&iperf),
        &["-s", "-B", "127.0.0.1", "-p", "PORT"],
        folder.path(),
    );

    let Some(streams) = Streams::start(folder.path()) else {
        return;
    };
    let echo = UdpSocket::bind("127.0.0.1:0").unwrap();
    let [http2, socket, silent] = streams.ports();
    let ports = [
        web.port,
        tls.port,
        speed.port,
        echo.local_addr().unwrap().port(),
        http2,
        socket,
        silent,
    ]
    .map(|port| port.to_string());
    let mut options: Vec<_> = ports
        .iter()
        .flat_map(|port| ["--host-port", port])
        .collect();
    options.extend(["--add-host", "tls.example:host-gateway", "-p", "0:7/udp"]);
    text(&start(&guest, "box", &options, &[]));
    let web = format!("http://host.blockbox.internal:{}", ports[0]);

    let got = sh(
        &guest,
        "box",
        &format!("curl -sSf -w '%{{http_code}} %{{size_download}}' -o /dev/null {web}/large"),
    );
    assert_eq!(got, format!("200 {}", 3 << 20));
    streams.check(&guest, 3 << 20);
    let certificate = std::fs::read_to_string(folder.path().join("certificate")).unwrap();
    let got = sh(
        &guest,
        "box",
        &format!(
            "echo '{certificate}' >/ca; curl -sSf --cacert /ca https://tls.example:{}/Packages",
            ports[1]
        ),
    );
    assert!(got.contains("Package: greeting"), "{got}");
    let refused = sh(
        &guest,
        "box",
        "curl -sS http://host.blockbox.internal:1/ 2>&1 || true",
    );
    assert!(refused.contains("Failed to connect"), "{refused}");

    let apt = format!(
        "echo 'deb [trusted=yes] {web}/ ./' >/etc/apt/sources.list\n\
         apt-get -o APT::Sandbox::User=root update 2>&1 && apt-get -o APT::Sandbox::User=root install -y greeting 2>&1\n\
         cat /usr/share/greeting 2>&1 || true"
    );
    let said = sh(&guest, "box", &apt);
    assert!(said.ends_with("installed by apt\n"), "{said}");

    let pip = format!(
        "python3.11 -m pip install --no-cache-dir --break-system-packages --root-user-action ignore --target /opt \
         --trusted-host host.blockbox.internal -i {web}/simple greeting 2>&1\n\
         PYTHONPATH=/opt python3.11 -c 'import greeting; print(greeting.TEXT)' 2>&1 || true"
    );
    let said = sh(&guest, "box", &pip);
    assert!(said.ends_with("installed by pip\n"), "{said}");

    // Programs that try only the first address of a name, with streams and datagrams.
    let first = format!(
        "import socket\n\
         def ask(kind, port, text):\n\
         \x20   found = socket.getaddrinfo('host.blockbox.internal', port, type=kind)[0]\n\
         \x20   s = socket.socket(found[0], kind); s.settimeout(60)\n\
         \x20   s.connect(found[4]); s.send(text); print(s.recv(8))\n\
         ask(socket.SOCK_STREAM, {}, b'HEAD / HTTP/1.0\\r\\n\\r\\n')\n\
         ask(socket.SOCK_DGRAM, {}, b'datagram')",
        ports[0], ports[3]
    );
    let answers = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut bytes = [0; 2000];
            echo.set_read_timeout(Some(LONG)).unwrap();
            let (count, peer) = echo.recv_from(&mut bytes).unwrap();
            echo.send_to(&bytes[..count], peer).unwrap();
        });
        guest
            .blockbox
            .ok(["exec", "box", "--", PYTHON, "-c", &first])
    });
    assert_eq!(answers, "b'HTTP/1.1'\nb'datagram'\n");

    for direction in ["", "-R"] {
        let command = format!(
            "iperf3 -c host.blockbox.internal -p {} -t 1 {direction} 2>&1",
            ports[2]
        );
        let said = sh(&guest, "box", &command);
        assert!(said.contains("receiver"), "{said}");
    }
    // Datagrams through a published port.
    let echo = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', 7))\n\
                while True: d, p = s.recvfrom(2000); s.sendto(d, p)";
    guest
        .blockbox
        .ok(["exec", "-d", "box", "--", PYTHON, "-c", echo]);
    let port = guest.blockbox.ok(["port", "box", "7/udp"]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(port.trim()).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let datagram = [7; 1200];
    until("an echo", || {
        socket.send(&datagram).unwrap();
        let mut bytes = [0; 2000];
        let count = socket.recv(&mut bytes).ok()?;
        (bytes[..count] == datagram).then_some(())
    });
}
