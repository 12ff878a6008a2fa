//! Name resolution in a guest while its host's resolver changes, and the ports that an image
//! exposes.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;

use serde_json::json;

use crate::common::guest::{Guest, LONG, until};
use crate::lab::{Lab, name_server_on_loopback};
use crate::{inspect, sh, start_by, text};

const SITE: &str = "93.184.216.34";
const MOVED: &str = "93.184.216.35";

/// Returns the addresses of a name in a sandbox, from `nslookup`'s output. It waits for five
/// seconds.
///
/// Busybox sends queries for both families with identifiers from a clock that may not have advanced
/// in between, and then drops an answer: so only one is requested.
fn look_up(guest: &Guest, sandbox: &str, name: &str) -> String {
    let script = format!("busybox nslookup -type=a {name} 2>&1 || true");
    sh(guest, sandbox, &script)
}

#[test]
fn a_running_guest_follows_its_hosts_resolver_and_the_next_name_server_answers_in_seconds() {
    let config = json!({ "ExposedPorts": { "80/tcp": {}, "81/tcp": {}, "7/udp": {} } });
    let Some(guest) = Guest::new(config) else {
        return;
    };
    let second: IpAddr = "93.184.216.54".parse().unwrap();
    let third: IpAddr = "93.184.216.55".parse().unwrap();
    let world = [SITE, MOVED, "93.184.216.54", "93.184.216.55"];
    let Some(lab) = Lab::new("93.184.216.99", &world) else {
        return;
    };
    lab.greet(80);
    let silent = lab.name_server(second, &[("site.example", MOVED)]);
    lab.name_server(third, &[("site.example", SITE)]);
    let blockbox = lab.command(&guest.blockbox);
    text(&start_by(
        blockbox,
        &guest,
        "box",
        &["-P", "-p", "0:81"],
        &[],
    ));
    assert!(look_up(&guest, "box", "site.example").contains(SITE));

    // The host joins another network: with another name server, and another name in its hosts file.
    lab.resolve_with(&[second, third]);
    lab.write(
        "hosts",
        &format!("127.0.0.1 localhost\n{SITE} printer.example\n"),
    );
    for (name, address) in [("site.example", MOVED), ("printer.example", SITE)] {
        until("the change", || {
            let answer = look_up(&guest, "box", name);
            answer.contains(address).then_some(())
        });
    }
    let said = sh(&guest, "box", "busybox nc -w 10 site.example 80 </dev/null");
    assert_eq!(said, "hello\n");

    // The first name server becomes silent: the second one answers while programs still wait.
    silent.store(true, Ordering::Relaxed);
    let answer = look_up(&guest, "box", "site.example");
    assert!(answer.contains(SITE), "{answer}");

    // Exposed ports are published on free ports, except those of `-p`, which are published once.
    let ports = inspect(&guest, "box")["state"]["ports"].clone();
    let ports = ports.as_array().unwrap();
    let mut found: Vec<_> = ports
        .iter()
        .map(|port| {
            let host: SocketAddr = port["host"].as_str().unwrap().parse().unwrap();
            assert!(host.ip().is_loopback() && host.port() != 0, "{port}");
            format!("{}/{}", port["guest"], port["protocol"].as_str().unwrap())
        })
        .collect();
    found.sort();
    assert_eq!(found, ["7/udp", "80/tcp", "81/tcp"]);
    let web = "mkdir /www; echo exposed >/www/page; busybox httpd -p 80 -h /www";
    sh(&guest, "box", web);
    let port = guest.blockbox.ok(["port", "box", "80"]);
    lab.on_the_host(|| {
        let fetch = || -> io::Result<String> {
            let mut stream = TcpStream::connect(port.trim())?;
            stream.set_read_timeout(Some(LONG))?;
            stream.write_all(b"GET /page HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let page = until("a page", || fetch().ok());
        assert!(page.ends_with("\r\n\r\nexposed\n"), "{page}");
    });
}

#[test]
fn a_name_server_at_a_port_of_its_own_is_asked() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let server = name_server_on_loopback(&[("site.example", SITE)]).to_string();
    let lookup = "for name in site.example other.example; do busybox nslookup -type=a $name 2>&1; done; true";
    let answers = guest.script(&["--rm", "--dns", &server], lookup);
    assert!(answers.contains(SITE), "{answers}");
    assert!(answers.contains("NXDOMAIN"), "{answers}");
}
