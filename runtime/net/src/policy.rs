//! The policy: what the guest may reach.
//!
//! Checked in this order: what no rule can allow (the host's loopback, multicast, embedded
//! addresses); the deny list; the allow list's addresses; its names, through the addresses that the
//! gateway's resolver returned for them; the mode.

mod names;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use blockbox_protocol::network::{Mode, Protocol, Rule};

use self::names::Names;
use crate::config::{Addresses, Config};
use crate::denial::{Denial, Reason, Remedy};
use crate::scope::{Scope, carried};

/// The permission to reach a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// The address to connect to: the destination, or the host's loopback.
    pub(crate) connect: SocketAddr,
    /// The address to connect to if that fails: the other address of the host's loopback, because
    /// a server may listen on only one of them.
    pub(crate) other: Option<SocketAddr>,
    /// The check of the name in the connection's first bytes.
    pub(crate) check: NameCheck,
}

/// Which names a connection may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameCheck {
    /// Any: no rule applies to names.
    Any,
    /// Names that no rule denies.
    NotDenied,
    /// Names that a rule allows and no rule denies.
    Allowed,
}

#[derive(Debug)]
pub(crate) struct Policy {
    addresses: Addresses,
    mode: Mode,
    allow: Vec<Rule>,
    deny: Vec<Rule>,
    pub(crate) host_addresses: Vec<IpAddr>,
    host_ports: Vec<u16>,
    pub(crate) names: Names,
}

impl Policy {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            addresses: config.addresses,
            mode: config.mode,
            allow: config.allow.clone(),
            deny: config.deny.clone(),
            host_addresses: config.host_addresses.clone(),
            host_ports: config.host_ports.clone(),
            names: Names::default(),
        }
    }

    /// Decides whether the guest may reach an address and port.
    pub(crate) fn decide(
        &self,
        protocol: Protocol,
        to: SocketAddr,
        now: Instant,
    ) -> Result<Grant, Box<Denial>> {
        let (address, port) = (to.ip(), to.port());
        if self.addresses.is_host(address) {
            return self.decide_host(protocol, to);
        }
        let scope = if self.addresses.on_link(address) {
            Scope::LinkLocal
        } else {
            Scope::of(address)
        };
        let names = || self.names.of(address, now);
        let deny = |reason: Reason, remedy: Option<Remedy>| {
            let name = names().next().map(str::to_owned);
            Err(Denial::to(protocol, to, reason).name(name).remedy(remedy))
        };
        if scope.is_closed() || self.addresses.on_link(address) {
            return deny(scope.into(), None);
        }
        // A translator or a tunnel leads to the embedded address, so a denial of either form
        // applies.
        let forms = [Some(address), carried(address).map(IpAddr::V4)];
        let denies = |rule: &&Rule| {
            let mut forms = forms.into_iter().flatten();
            forms.any(|form| rule.matches_address(form, port))
        };
        if let Some(rule) = self.deny.iter().find(denies) {
            return deny(
                Reason::Denied { rule: rule.clone() },
                Some(Remedy::RemoveDeny(rule.clone())),
            );
        }
        let not_denied = if self.deny.iter().any(Rule::is_name) {
            NameCheck::NotDenied
        } else {
            NameCheck::Any
        };
        let grant = |check| {
            Ok(Grant {
                connect: to,
                other: None,
                check,
            })
        };
        if self
            .allow
            .iter()
            .any(|rule| rule.matches_address(address, port))
        {
            return grant(not_denied);
        }
        let hosts = self.is_hosts(address);
        let reached = match self.mode {
            Mode::None => false,
            Mode::Public => scope == Scope::Public && !hosts,
            Mode::All => true,
        };
        if reached {
            return grant(not_denied);
        }
        let by_name = |rule: &Rule| names().any(|name| rule.matches_name(name, port));
        if scope.opens_by_name() && !hosts && self.allow.iter().any(by_name) {
            return grant(NameCheck::Allowed);
        }
        let port = (protocol != Protocol::Icmp).then_some(port);
        let remedy = match names().next() {
            Some(name) if scope.opens_by_name() && !hosts => Rule::name(name, port),
            _ => None,
        }
        .unwrap_or_else(|| Rule::address(address, port));
        let reason = match self.mode {
            Mode::None => Reason::NotAllowed,
            _ if hosts => Reason::HostAddress,
            _ => scope.into(),
        };
        deny(reason, Some(Remedy::Allow(remedy)))
    }

    /// Returns whether the address is one of the host's own, or leads to one.
    fn is_hosts(&self, address: IpAddr) -> bool {
        let own = |address: IpAddr| self.host_addresses.contains(&address);
        own(address) || carried(address).is_some_and(|within| own(within.into()))
    }

    /// Decides whether a port of the host's loopback is open.
    fn decide_host(&self, protocol: Protocol, to: SocketAddr) -> Result<Grant, Box<Denial>> {
        if protocol == Protocol::Icmp || !self.host_ports.contains(&to.port()) {
            return Err(Denial::to(protocol, to, Reason::HostPort)
                .name(Some(HOST_NAME.to_owned()))
                .remedy((protocol != Protocol::Icmp).then_some(Remedy::HostPort(to.port()))));
        }
        let v4: SocketAddr = (Ipv4Addr::LOCALHOST, to.port()).into();
        let v6: SocketAddr = (Ipv6Addr::LOCALHOST, to.port()).into();
        let (connect, other) = if to.is_ipv4() { (v4, v6) } else { (v6, v4) };
        Ok(Grant {
            connect,
            other: Some(other),
            check: NameCheck::Any,
        })
    }

    /// Decides whether a connection may ask for the name in its first bytes.
    pub(crate) fn check_name(
        &self,
        check: NameCheck,
        to: SocketAddr,
        name: &str,
    ) -> Result<(), Box<Denial>> {
        let port = to.port();
        let other = || Reason::OtherName {
            name: name.to_owned(),
        };
        let denial = |reason, remedy| {
            Err(Denial::to(Protocol::Tcp, to, reason)
                .name(Some(name.to_owned()))
                .remedy(remedy))
        };
        if check == NameCheck::Any {
            return Ok(());
        }
        if let Some(rule) = self.deny.iter().find(|rule| rule.matches_name(name, port)) {
            return denial(
                Reason::Denied { rule: rule.clone() },
                Some(Remedy::RemoveDeny(rule.clone())),
            );
        }
        let literal = name
            .parse::<IpAddr>()
            .is_ok_and(|address| address == to.ip());
        let allowed = literal || self.allow.iter().any(|rule| rule.matches_name(name, port));
        if check == NameCheck::Allowed && !allowed {
            return denial(other(), Rule::name(name, Some(port)).map(Remedy::Allow));
        }
        Ok(())
    }

    /// Decides whether the gateway's resolver may look up a name.
    pub(crate) fn may_resolve(&self, name: &str) -> Result<(), Box<Denial>> {
        // A rule for one port does not apply to the name's other ports.
        let denies = |rule: &&Rule| rule.port().is_none() && rule.matches_host(name);
        if let Some(rule) = self.deny.iter().find(denies) {
            return Err(Denial::of_name(name, Reason::Denied { rule: rule.clone() })
                .remedy(Some(Remedy::RemoveDeny(rule.clone()))));
        }
        let allowed =
            self.mode != Mode::None || self.allow.iter().any(|rule| rule.matches_host(name));
        if allowed {
            return Ok(());
        }
        Err(Denial::of_name(name, Reason::NotAllowed)
            .remedy(Rule::name(name, None).map(Remedy::Allow)))
    }

    /// Decides whether a name may have an address: except in [`Mode::All`], a name that no rule
    /// allows may only have public addresses.
    pub(crate) fn may_answer(&self, name: &str, address: IpAddr) -> Result<(), Box<Denial>> {
        let scope = Scope::of(address);
        let hosts = self.is_hosts(address);
        let by_name = scope.opens_by_name() && !hosts;
        let public = scope == Scope::Public && !hosts;
        let allowed = public
            || (self.mode == Mode::All && !scope.is_closed())
            || (by_name && self.allow.iter().any(|rule| rule.matches_host(name)))
            || (!scope.is_closed()
                && self
                    .allow
                    .iter()
                    .any(|rule| rule.matches_address(address, rule.port().unwrap_or(0))));
        if allowed {
            return Ok(());
        }
        let remedy = by_name
            .then(|| Rule::name(name, None).map(Remedy::Allow))
            .flatten();
        Err(Denial::of_name(name, Reason::Rebinding { address }).remedy(remedy))
    }
}

/// The name of the host's loopback, for its open ports.
pub(crate) const HOST_NAME: &str = "host.blockbox.internal";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rules(texts: &[&str]) -> Vec<Rule> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn policy(mode: Mode, allow: &[&str], deny: &[&str]) -> Policy {
        Policy::new(
            &Config::new()
                .mode(mode)
                .allow(rules(allow))
                .deny(rules(deny))
                .host_addresses(["93.184.1.9".parse().unwrap(), "2606::9".parse().unwrap()])
                .host_ports([8080]),
        )
    }

    fn reaches(policy: &Policy, to: &str) -> bool {
        policy
            .decide(Protocol::Tcp, to.parse().unwrap(), Instant::now())
            .is_ok()
    }

    const NOWHERE: [&str; 17] = [
        "127.0.0.1:80",
        "127.1.2.3:80",
        "0.0.0.0:80",
        "0.0.0.1:80",
        "224.0.0.1:80",
        "255.255.255.255:80",
        "10.187.1.1:80",
        "10.187.1.77:80",
        "10.187.1.254:80",
        "[::1]:80",
        "[::]:80",
        "[::ffff:127.0.0.1]:80",
        "[::ffff:1.1.1.1]:80",
        "[::127.0.0.1]:80",
        "[64:ff9b::127.0.0.1]:80",
        "[2002:7f00:1::1]:80",
        "[ff02::1]:80",
    ];
    const NOT_PUBLIC: [&str; 19] = [
        "10.0.0.1:80",
        "172.16.0.1:80",
        "192.168.0.1:80",
        "100.64.0.1:80",
        "169.254.1.1:80",
        "169.254.169.254:80",
        "168.63.129.16:80",
        "93.184.1.9:80",
        "[2606::9]:80",
        "[fd00::1]:80",
        "[fe80::2]:80",
        "[fd00:ec2::254]:80",
        "[64:ff9b::93.184.1.9]:80",
        "[2002:5db8:109::1]:80",
        "[64:ff9b::10.0.0.1]:80",
        "[64:ff9b::169.254.169.254]:80",
        "[2002:a00:1::1]:80",
        "[2001::1]:80",
        "240.0.0.1:80",
    ];
    const PUBLIC: [&str; 3] = ["1.1.1.1:80", "[2606:4700::1]:80", "[64:ff9b::1.1.1.1]:80"];

    #[test]
    fn each_mode_allows_exactly_its_addresses() {
        for (mode, public, other) in [
            (Mode::None, false, false),
            (Mode::Public, true, false),
            (Mode::All, true, true),
        ] {
            let policy = policy(mode, &[], &[]);
            for to in NOWHERE {
                assert!(!reaches(&policy, to), "{mode:?} {to}");
            }
            for to in NOT_PUBLIC {
                assert_eq!(reaches(&policy, to), other, "{mode:?} {to}");
            }
            for to in PUBLIC {
                assert_eq!(reaches(&policy, to), public, "{mode:?} {to}");
            }
        }
    }

    #[test]
    fn no_rule_opens_the_hosts_loopback() {
        let policy = policy(Mode::All, &["0.0.0.0/0", "::/0", "127.0.0.1", "::1"], &[]);
        for to in NOWHERE {
            assert!(!reaches(&policy, to), "{to}");
        }
        for to in NOT_PUBLIC {
            assert!(reaches(&policy, to), "{to}");
        }
    }

    #[test]
    fn open_host_ports_are_the_loopbacks_and_no_others() {
        let policy = policy(Mode::Public, &[], &[]);
        let grant = policy
            .decide(
                Protocol::Tcp,
                "10.187.1.254:8080".parse().unwrap(),
                Instant::now(),
            )
            .unwrap();
        assert_eq!(grant.connect, "127.0.0.1:8080".parse().unwrap());
        let denial = policy
            .decide(
                Protocol::Udp,
                "10.187.1.254:8081".parse().unwrap(),
                Instant::now(),
            )
            .unwrap_err();
        assert_eq!(denial.remedy, Some(Remedy::HostPort(8081)));
        assert!(!reaches(&policy, "127.0.0.1:8080"));
    }

    #[test]
    fn deny_rules_win_over_allow_rules() {
        let policy = policy(
            Mode::Public,
            &["10.0.0.0/8:443"],
            &["10.1.0.0/16", "1.1.1.1:53"],
        );
        assert!(reaches(&policy, "10.0.0.1:443"));
        assert!(!reaches(&policy, "10.0.0.1:80"));
        assert!(!reaches(&policy, "10.1.0.1:443"));
        assert!(!reaches(&policy, "1.1.1.1:53"));
        assert!(reaches(&policy, "1.1.1.1:443"));
        // The same address in the form of NAT64, 6to4 and ISATAP.
        for form in [
            "64:ff9b::101:101",
            "2002:101:101::1",
            "2606:4700::5efe:101:101",
        ] {
            assert!(!reaches(&policy, &format!("[{form}]:53")), "{form}");
            assert!(reaches(&policy, &format!("[{form}]:443")), "{form}");
        }
    }

    #[test]
    fn denial_suggests_the_rule_that_would_allow_it() {
        for (mode, to) in [
            (Mode::None, "1.1.1.1:443"),
            (Mode::Public, "10.0.0.1:443"),
            (Mode::Public, "169.254.169.254:80"),
            (Mode::Public, "93.184.1.9:22"),
        ] {
            let denial = policy(mode, &[], &[])
                .decide(Protocol::Tcp, to.parse().unwrap(), Instant::now())
                .unwrap_err();
            let Some(Remedy::Allow(rule)) = denial.remedy else {
                panic!("{to}: {denial:?}");
            };
            assert!(
                reaches(&policy(mode, &[&rule.to_string()], &[]), to),
                "{rule}"
            );
        }
    }

    #[test]
    fn allowed_name_opens_its_resolved_addresses_until_they_expire() {
        let mut policy = policy(Mode::None, &["example.org:443"], &[]);
        let now = Instant::now();
        let to = "1.2.3.4:443".parse().unwrap();
        assert!(policy.decide(Protocol::Tcp, to, now).is_err());
        policy
            .names
            .learn("example.org", to.ip(), Duration::from_secs(300), now);
        policy.names.learn(
            "other.org",
            "5.6.7.8".parse().unwrap(),
            Duration::from_secs(300),
            now,
        );
        let grant = policy.decide(Protocol::Tcp, to, now).unwrap();
        assert_eq!(grant.check, NameCheck::Allowed);
        assert!(!reaches(&policy, "1.2.3.4:80"));
        assert!(!reaches(&policy, "5.6.7.8:443"));
        assert!(
            policy
                .decide(Protocol::Tcp, to, now + Duration::from_secs(299))
                .is_ok()
        );
        assert!(
            policy
                .decide(Protocol::Tcp, to, now + Duration::from_secs(300))
                .is_err()
        );
    }

    #[test]
    fn a_name_opens_a_private_address_but_not_the_hosts_neighbourhood() {
        let mut policy = policy(Mode::Public, &["intern.example.org"], &[]);
        let now = Instant::now();
        for (address, open) in [
            ("10.0.0.1", true),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("169.254.0.1", false),
            ("93.184.1.9", false),
            ("fd00:ec2::254", false),
        ] {
            let address: IpAddr = address.parse().unwrap();
            policy
                .names
                .learn("intern.example.org", address, Duration::from_secs(300), now);
            let to = SocketAddr::new(address, 80);
            assert_eq!(
                policy.decide(Protocol::Tcp, to, now).is_ok(),
                open,
                "{address}"
            );
            if !open {
                assert!(
                    policy.may_answer("intern.example.org", address).is_err(),
                    "{address}"
                );
            }
        }
    }

    #[test]
    fn a_public_name_with_an_address_that_is_not_public_is_refused() {
        let public = policy(Mode::Public, &["10.9.0.0/16:443"], &[]);
        assert!(
            public
                .may_answer("a.org", "1.1.1.1".parse().unwrap())
                .is_ok()
        );
        assert!(
            public
                .may_answer("a.org", "10.9.0.1".parse().unwrap())
                .is_ok()
        );
        for address in [
            "10.0.0.1",
            "127.0.0.1",
            "::1",
            "169.254.169.254",
            "::ffff:10.0.0.1",
        ] {
            assert!(
                public
                    .may_answer("a.org", address.parse().unwrap())
                    .is_err(),
                "{address}"
            );
        }
        let all = policy(Mode::All, &[], &[]);
        assert!(all.may_answer("a.org", "10.0.0.1".parse().unwrap()).is_ok());
        assert!(
            all.may_answer("a.org", "127.0.0.1".parse().unwrap())
                .is_err()
        );
    }

    #[test]
    fn names_are_resolved_if_a_rule_or_the_mode_allows_them() {
        let none = policy(Mode::None, &["*.example.org:443"], &["bad.example.org"]);
        assert!(none.may_resolve("a.example.org").is_ok());
        assert!(none.may_resolve("bad.example.org").is_err());
        assert!(none.may_resolve("example.com").is_err());
        let public = policy(Mode::Public, &[], &["ads.example.org:80"]);
        assert!(public.may_resolve("ads.example.org").is_ok());
    }
}
