//! What a guest can reach, tested from inside.

use serde_json::json;

use crate::common::guest::Guest;
use crate::lab::Lab;
use crate::{net, sh, start_by, text};

/// The kind of a denial, and the option that would allow it, if any.
type Denial = (&'static str, Option<&'static str>);

/// Destinations of the guest at port 80, and how they are denied, if they are.
const TABLE: [(&str, Option<Denial>); 24] = [
    ("93.184.216.34", None),
    ("2606:2800:220:1::34", None),
    ("10.99.0.1", Some(("scope", Some("--allow 10.99.0.1:80")))),
    (
        "192.168.7.7",
        Some(("scope", Some("--allow 192.168.7.7:80"))),
    ),
    ("172.16.9.9", Some(("scope", Some("--allow 172.16.9.9:80")))),
    ("100.64.0.9", Some(("scope", Some("--allow 100.64.0.9:80")))),
    (
        "169.254.169.254",
        Some(("scope", Some("--allow 169.254.169.254:80"))),
    ),
    (
        "169.254.7.7",
        Some(("scope", Some("--allow 169.254.7.7:80"))),
    ),
    ("192.0.2.80", Some(("scope", Some("--allow 192.0.2.80:80")))),
    (
        "fd00:99::1",
        Some(("scope", Some("--allow [fd00:99::1]:80"))),
    ),
    // The host: its link, a public address of its own, and the address that stands for its
    // loopback.
    (
        "10.50.0.2",
        Some(("host_address", Some("--allow 10.50.0.2:80"))),
    ),
    (
        "93.184.216.99",
        Some(("host_address", Some("--allow 93.184.216.99:80"))),
    ),
    ("10.187.1.254", Some(("host_port", Some("--host-port 80")))),
    (
        "fd62:6c6f:636b:6278::fe",
        Some(("host_port", Some("--host-port 80"))),
    ),
    // The gateway is alone on the link: the guest itself finds no other host.
    ("10.187.1.77", Some(("", None))),
    (
        "fd50::2",
        Some(("host_address", Some("--allow [fd50::2]:80"))),
    ),
    // 10.99.0.1 and 127.0.0.1 in other notations: 6to4, NAT64.
    (
        "2002:a63:1::",
        Some(("scope", Some("--allow [2002:a63:1::]:80"))),
    ),
    (
        "64:ff9b::a63:1",
        Some(("scope", Some("--allow [64:ff9b::a63:1]:80"))),
    ),
    (
        "2002:a9fe:a9fe::",
        Some(("scope", Some("--allow [2002:a9fe:a9fe::]:80"))),
    ),
    (
        "64:ff9b::a9fe:a9fe",
        Some(("scope", Some("--allow [64:ff9b::a9fe:a9fe]:80"))),
    ),
    // The host's own public address in other notations.
    (
        "64:ff9b::5db8:d863",
        Some(("host_address", Some("--allow [64:ff9b::5db8:d863]:80"))),
    ),
    (
        "2002:5db8:d863::",
        Some(("host_address", Some("--allow [2002:5db8:d863::]:80"))),
    ),
    ("64:ff9b::7f00:1", Some(("scope", None))),
    ("2002:7f00:1::", Some(("scope", None))),
];

/// Connects to an address at a port and prints what the server says.
fn connect(address: &str, port: u16) -> String {
    format!("busybox nc -w 10 {address} {port} </dev/null 2>&1")
}

#[test]
fn a_guest_reaches_what_the_policy_allows_and_each_denial_names_its_remedy() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let world = [
        "93.184.216.34",
        "93.184.216.35",
        "2606:2800:220:1::34",
        "10.99.0.1",
        "192.168.7.7",
        "172.16.9.9",
        "100.64.0.9",
        "169.254.169.254",
        "169.254.7.7",
        "192.0.2.80",
        "fd00:99::1",
    ];
    let Some(lab) = Lab::new("93.184.216.99", &world) else {
        return;
    };
    lab.greet(80);
    lab.answer(8080);
    let run = |name: &str, options: &[&str]| {
        let blockbox = lab.command(&guest.blockbox);
        text(&start_by(blockbox, &guest, name, options, &[]));
    };

    run("public", &[]);
    let script: Vec<_> = TABLE
        .iter()
        .map(|(address, _)| format!("echo \"{address} $({})\"", connect(address, 80)))
        .collect();
    let said = sh(&guest, "public", &script.join("\n"));
    let status = net(&guest, "public");
    let denials = status["denials"].as_array().unwrap();
    assert_eq!(said.lines().count(), TABLE.len(), "{said}");
    for ((address, denied), line) in TABLE.iter().zip(said.lines()) {
        let reached = line == format!("{address} hello");
        assert_eq!(reached, denied.is_none(), "{line}");
        let Some((kind, flag)) = denied.filter(|(kind, _)| !kind.is_empty()) else {
            continue;
        };
        let ip: std::net::IpAddr = address.parse().unwrap();
        let destination = std::net::SocketAddr::new(ip, 80).to_string();
        let denial = denials
            .iter()
            .find(|denial| denial["destination"] == destination)
            .unwrap_or_else(|| panic!("{destination}: {status:#}"));
        assert_eq!(denial["reason"]["kind"], kind, "{denial}");
        assert_eq!(denial["flag"].as_str(), flag, "{denial}");
    }
    // A refused connection stays refused.
    let refused = sh(
        &guest,
        "public",
        &format!("{} || true", connect("93.184.216.34", 81)),
    );
    assert!(refused.contains("refused"), "{refused}");
    // Names: over TCP if an answer is long, and denied if they resolve to internal addresses.
    for name in ["site.example", "long.example"] {
        assert_eq!(
            sh(&guest, "public", &connect(name, 80)),
            "hello\n",
            "{name}"
        );
    }
    let rebinding = "busybox nslookup inside.example 2>&1 || true";
    let found = sh(&guest, "public", rebinding);
    assert!(!found.contains("10.99.0.1"), "{found}");
    let table = guest.blockbox.ok(["net", "public"]);
    for expected in ["--allow inside.example", "--host-port 80", "ALLOW WITH"] {
        assert!(table.contains(expected), "{table}");
    }
    guest.blockbox.ok(["rm", "-f", "public"]);

    // Rules instead of the mode. A name allows its own addresses, and no other name there.
    run(
        "rules",
        &[
            "--network=none",
            "--allow=site.example",
            "--allow=10.99.0.0/24",
            "--deny=10.99.0.9",
            "--host-port=80",
        ],
    );
    let found = sh(&guest, "rules", "busybox nslookup site.example 2>&1");
    assert!(found.contains("93.184.216.34"), "{found}");
    for (address, reached) in [
        ("93.184.216.34", true),
        ("93.184.216.35", false),
        ("10.99.0.1", true),
        ("10.99.0.9", false),
        ("host.blockbox.internal", true),
    ] {
        let said = sh(
            &guest,
            "rules",
            &format!("{} || true", connect(address, 80)),
        );
        assert_eq!(said == "hello\n", reached, "{address}: {said}");
    }
    for (host, reached) in [("site.example", true), ("other.example", false)] {
        let ask = format!(
            "printf 'GET / HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n' | busybox nc -w 10 93.184.216.34 8080 2>&1 || true"
        );
        let said = sh(&guest, "rules", &ask);
        assert_eq!(said == "hello\n", reached, "{host}: {said}");
    }
    let status = net(&guest, "rules");
    let reasons: Vec<_> = status["denials"]
        .as_array()
        .unwrap()
        .iter()
        .map(|denial| denial["reason"]["kind"].as_str().unwrap())
        .collect();
    for expected in ["not_allowed", "denied", "other_name"] {
        assert!(reasons.contains(&expected), "{reasons:?}");
    }
}
