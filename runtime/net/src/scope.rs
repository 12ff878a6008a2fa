//! The scope of an address: the internet, a private network, this host, none.
//!
//! The tables follow the IANA special-purpose registries (RFC 6890 and its updates). An IPv6
//! address with an embedded IPv4 address (6to4, NAT64, ISATAP) has the scope of that address, so
//! that a translator does not allow what the plain address would not.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The scope of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// Globally reachable unicast.
    Public,
    /// RFC 1918, unique local IPv6 (RFC 4193), site-local IPv6 (RFC 3879).
    Private,
    /// Shared between a carrier and its customers: 100.64.0.0/10 (RFC 6598).
    CarrierGradeNat,
    /// 169.254.0.0/16 and fe80::/10.
    LinkLocal,
    /// A cloud's metadata service.
    Metadata,
    /// Documentation, benchmarks, obsolete tunnels, and unassigned addresses.
    Reserved,
    /// This host: 127.0.0.0/8 and ::1.
    Loopback,
    /// 0.0.0.0/8 and ::, which Linux treats as this host.
    Unspecified,
    /// 224.0.0.0/4 and ff00::/8.
    Multicast,
    /// 255.255.255.255.
    Broadcast,
    /// An IPv4 address in IPv6 notation (::ffff:0:0/96, ::/96): never valid in a packet.
    Mapped,
}

impl Scope {
    /// Returns whether no rule can allow it.
    pub fn is_closed(self) -> bool {
        matches!(
            self,
            Self::Loopback | Self::Unspecified | Self::Multicast | Self::Broadcast | Self::Mapped
        )
    }

    /// Returns whether a rule on a name allows it. A name's owner chooses its addresses, so a name
    /// only reaches the host's neighbourhood if a rule allows the address itself.
    pub fn opens_by_name(self) -> bool {
        matches!(self, Self::Public | Self::Private | Self::CarrierGradeNat)
    }

    /// Returns the scope of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => of_v6(address),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "a public address",
            Self::Private => "an address of a private network",
            Self::CarrierGradeNat => "an address of a carrier's shared network",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "a cloud's metadata service",
            Self::Reserved => "a reserved address",
            Self::Loopback => "the host's loopback",
            Self::Unspecified => "the unspecified address",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "the broadcast address",
            Self::Mapped => "an IPv4 address in IPv6 notation",
        })
    }
}

/// Metadata services outside 169.254.0.0/16: Azure's wire server, Alibaba's, Oracle's.
const METADATA_V4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
];

fn of_v4(address: Ipv4Addr) -> Scope {
    if METADATA_V4.contains(&address) {
        return Scope::Metadata;
    }
    match address.octets() {
        [0, ..] => Scope::Unspecified,
        [127, ..] => Scope::Loopback,
        [255, 255, 255, 255] => Scope::Broadcast,
        [224..=239, ..] => Scope::Multicast,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Scope::Private,
        [100, 64..=127, ..] => Scope::CarrierGradeNat,
        [169, 254, ..] => Scope::LinkLocal,
        // Protocol assignments, documentation (three), 6to4 relays, benchmarks, the former class E.
        [192, 0, 0 | 2, _]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [192, 88, 99, _]
        | [198, 18..=19, ..]
        | [240..=255, ..] => Scope::Reserved,
        _ => Scope::Public,
    }
}

/// Returns the IPv4 address embedded in an IPv6 address, if a translator or tunnel connects to it.
pub(crate) fn carried(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else {
        return None;
    };
    match address.segments() {
        // NAT64 (RFC 6052): the translator connects to the IPv4 address. 6to4 (RFC 3056). ISATAP
        // (RFC 5214): the interface identifier contains it.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..]
        | [0x2000..=0x3fff, _, _, _, 0 | 0x200, 0x5efe, high, low] => {
            Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
        }
        _ => None,
    }
}

/// The metadata services of AWS and Google in unique local space, and of others that use the same
/// addresses.
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

fn of_v6(address: Ipv6Addr) -> Scope {
    if METADATA_V6.contains(&address) {
        return Scope::Metadata;
    }
    // An address that leads to an embedded one has that one's scope.
    if let Some(within) = carried(address.into()) {
        let scope = of_v4(within);
        if scope != Scope::Public {
            return scope;
        }
    }
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Scope::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Scope::Loopback,
        // ::/96 (compatible), ::ffff:0:0/96 (mapped), ::ffff:0:0:0/96 (translated).
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => Scope::Mapped,
        [0xff00..=0xffff, ..] => Scope::Multicast,
        [0xfe80..=0xfebf, ..] => Scope::LinkLocal,
        [0xfec0..=0xfeff, ..] | [0xfc00..=0xfdff, ..] => Scope::Private,
        // NAT64, and its local prefix (RFC 8215).
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => Scope::Public,
        [0x64, 0xff9b, 1, ..] => Scope::Private,
        // Teredo, benchmarks, ORCHID (two), documentation (two).
        [0x2001, 0, ..]
        | [0x2001, 2, 0, ..]
        | [0x2001, 0x10..=0x2f, ..]
        | [0x2001, 0xdb8, ..]
        | [0x3fff, 0..=0xfff, ..] => Scope::Reserved,
        [0x2000..=0x3fff, ..] => Scope::Public,
        _ => Scope::Reserved,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        Scope::of(text.parse().unwrap())
    }

    #[test]
    fn special_purpose_addresses_have_their_registrys_scope() {
        for (text, expected) in [
            ("1.1.1.1", Scope::Public),
            ("172.15.255.255", Scope::Public),
            ("172.32.0.0", Scope::Public),
            ("100.63.255.255", Scope::Public),
            ("192.0.1.1", Scope::Public),
            ("2606:4700::1111", Scope::Public),
            ("0.0.0.0", Scope::Unspecified),
            ("0.1.2.3", Scope::Unspecified),
            ("127.0.0.1", Scope::Loopback),
            ("127.255.255.254", Scope::Loopback),
            ("10.0.0.1", Scope::Private),
            ("172.16.0.1", Scope::Private),
            ("172.31.255.255", Scope::Private),
            ("192.168.1.1", Scope::Private),
            ("100.64.0.1", Scope::CarrierGradeNat),
            ("169.254.1.1", Scope::LinkLocal),
            ("169.254.169.254", Scope::Metadata),
            ("168.63.129.16", Scope::Metadata),
            ("100.100.100.200", Scope::Metadata),
            ("192.0.0.192", Scope::Metadata),
            ("192.0.0.8", Scope::Reserved),
            ("192.0.2.1", Scope::Reserved),
            ("198.51.100.1", Scope::Reserved),
            ("203.0.113.1", Scope::Reserved),
            ("198.18.0.1", Scope::Reserved),
            ("198.19.255.255", Scope::Reserved),
            ("192.88.99.1", Scope::Reserved),
            ("240.0.0.1", Scope::Reserved),
            ("224.0.0.1", Scope::Multicast),
            ("239.255.255.255", Scope::Multicast),
            ("255.255.255.255", Scope::Broadcast),
            ("::", Scope::Unspecified),
            ("::1", Scope::Loopback),
            ("fe80::1", Scope::LinkLocal),
            ("febf::1", Scope::LinkLocal),
            ("fec0::1", Scope::Private),
            ("fd12::1", Scope::Private),
            ("fd00:ec2::254", Scope::Metadata),
            ("ff02::1", Scope::Multicast),
            ("2001:db8::1", Scope::Reserved),
            ("2001::1", Scope::Reserved),
            ("2001:20::1", Scope::Reserved),
            ("3fff::1", Scope::Reserved),
            ("100::1", Scope::Reserved),
            ("4000::1", Scope::Reserved),
        ] {
            assert_eq!(scope(text), expected, "{text}");
        }
    }

    #[test]
    fn address_that_embeds_another_is_judged_by_the_embedded_one() {
        for (text, expected) in [
            ("::ffff:127.0.0.1", Scope::Mapped),
            ("::ffff:1.1.1.1", Scope::Mapped),
            ("::127.0.0.1", Scope::Mapped),
            ("::ffff:0:127.0.0.1", Scope::Mapped),
            ("64:ff9b::10.0.0.1", Scope::Private),
            ("64:ff9b::127.0.0.1", Scope::Loopback),
            ("64:ff9b::169.254.169.254", Scope::Metadata),
            ("64:ff9b::1.1.1.1", Scope::Public),
            ("64:ff9b:1::1.1.1.1", Scope::Private),
            ("2002:7f00:1::1", Scope::Loopback),
            ("2002:a00:1::1", Scope::Private),
            ("2002:a9fe:a9fe::1", Scope::Metadata),
            ("2002:101:101::1", Scope::Public),
            ("2606:4700::5efe:10.0.0.1", Scope::Private),
            ("2606:4700::200:5efe:7f00:1", Scope::Loopback),
            ("2606:4700::5efe:1.1.1.1", Scope::Public),
            // Teredo and documentation addresses stay reserved.
            ("2001::5efe:1.1.1.1", Scope::Reserved),
            ("2001:db8::5efe:1.1.1.1", Scope::Reserved),
        ] {
            assert_eq!(scope(text), expected, "{text}");
        }
    }
}
