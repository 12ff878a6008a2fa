//! The encoding of values in a payload: fields in order, numbers in little-endian, values of
//! variable length after their length.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::frame::{Payload, ProtocolError};

/// A value that can be encoded in a payload.
pub(crate) trait Wire: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn take(payload: &mut Payload<'_>) -> Result<Self, ProtocolError>;
}

/// Implements [`Wire`] for a struct, with its fields in this order.
macro_rules! wire {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::wire::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::wire::Wire::put(&self.$field, out);)*
            }

            fn take(
                payload: &mut $crate::frame::Payload<'_>,
            ) -> Result<Self, $crate::frame::ProtocolError> {
                Ok($name {
                    $($field: $crate::wire::Wire::take(payload)?,)*
                })
            }
        }
    };
}
pub(crate) use wire;

impl Wire for u32 {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn take(payload: &mut Payload<'_>) -> Result<Self, ProtocolError> {
        payload.u32()
    }
}

impl Wire for u64 {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn take(payload: &mut Payload<'_>) -> Result<Self, ProtocolError> {
        payload.u64()
    }
}

/// Implements [`Wire`] for numbers that are encoded as a `u32`.
macro_rules! within_u32 {
    ($($number:ty),*) => {$(
        impl Wire for $number {
            fn put(&self, out: &mut Vec<u8>) {
                u32::from(*self).put(out);
            }

            fn take(payload: &mut Payload<'_>) -> Result<Self, ProtocolError> {
                let value = payload.u32()?;
                value.try_into().map_err(|_| payload.malformed())
            }
        }
    )*};
}
within_u32!(u16);

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        u32::from(*self).put(out);
    }

    fn take(payload: &mut Payload<'_>) -> Result<Self, ProtocolError> {
        match payload.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(payload.malformed()),
        }
    }
}

impl Wire for Vec<u8> {
    fn put(&self, out: &mut Vec<u8>) {
        crate::frame::put_bytes(out, self);
    }

    fn take(payload: &mut Payload<'_>) -> Result<Self, ProtocolError> {
        payload.bytes()
    }
}

impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        crate::frame::put_bytes(out, self.as_bytes());
    }

    fn take(payload: &mut Payload<'_>) -> Result<Self, ProtocolError> {
        String::from_utf8(payload.bytes()?).map_err(|_| payload.malformed())
    }
}

/// A list. Every element takes at least four bytes, so the payload's length bounds the allocation.
impl<T: Element> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        u32::try_from(self.len()).unwrap_or(u32::MAX).put(out);
        for element in self {
            element.put(out);
        }
    }

    fn take(payload: &mut Payload<'_>) -> Result<Self, ProtocolError> {
        let count = payload.u32()?;
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(T::take(payload)?);
        }
        Ok(list)
    }
}

/// An element of a list. Bytes are not, because they have an encoding of their own.
pub(crate) trait Element: Wire {}

impl Element for Vec<u8> {}
impl Element for String {}
impl Element for IpAddr {}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn take(payload: &mut Payload<'_>) -> Result<Self, ProtocolError> {
        Ok(match bool::take(payload)? {
            true => Some(T::take(payload)?),
            false => None,
        })
    }
}

/// Encoded as the address's 4 or 16 bytes in network order.
impl Wire for IpAddr {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            IpAddr::V4(address) => crate::frame::put_bytes(out, &address.octets()),
            IpAddr::V6(address) => crate::frame::put_bytes(out, &address.octets()),
        }
    }

    fn take(payload: &mut Payload<'_>) -> Result<Self, ProtocolError> {
        let bytes = payload.bytes()?;
        let v4 = <[u8; 4]>::try_from(&*bytes).map(|octets| Ipv4Addr::from(octets).into());
        let v6 = <[u8; 16]>::try_from(&*bytes).map(|octets| Ipv6Addr::from(octets).into());
        v4.or(v6).map_err(|_| payload.malformed())
    }
}
