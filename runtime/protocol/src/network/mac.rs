//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An Ethernet (MAC) address, in text as `02:62:6c:6b:00:02`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

/// The error of parsing a text that is not an Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an Ethernet address")]
pub struct MacAddressError(String);

impl MacAddress {
    /// Returns whether this is a multicast or broadcast address.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Returns a locally administered unicast address made from `bytes`. It is never the gateway's
    /// default address.
    pub fn local(bytes: [u8; 5]) -> Self {
        let [a, b, c, d, e] = bytes;
        // The gateway's default address has this bit clear.
        Self([0x02, a | 0x80, b, c, d, e])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddress {
    type Err = MacAddressError;

    /// Parses six bytes of two hexadecimal digits each, separated by colons.
    fn from_str(text: &str) -> Result<Self, MacAddressError> {
        let byte = |part: &str| match part.as_bytes() {
            [a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => {
                u8::from_str_radix(part, 16).ok()
            }
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| MacAddressError(text.to_owned()))
    }
}

impl Serialize for MacAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_six_bytes_of_two_digits_each() {
        let address = MacAddress([0x02, 0, 0xab, 9, 0x10, 0xff]);
        assert_eq!(address.to_string(), "02:00:ab:09:10:ff");
        for text in ["02:00:ab:09:10:ff", "02:00:AB:09:10:FF"] {
            assert_eq!(text.parse(), Ok(address));
        }
        let long = "02:00:ab:09:10:ff:00";
        for text in [
            "",
            "02:00:ab:09:10",
            long,
            "+2:00:ab:09:10:ff",
            "02-00-ab-09-10-ff",
        ] {
            let refused: Result<MacAddress, _> = text.parse();
            assert_eq!(refused, Err(MacAddressError(text.to_owned())));
        }
    }
}
