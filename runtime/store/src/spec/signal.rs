//! Linux's signals by name and number.

use std::fmt;
use std::str::FromStr;

use blockbox_protocol::signal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A signal of Linux, 1 to 64, on hosts of any system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Signal(u8);

/// The error for text that is neither the name nor the number of a signal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a signal")]
pub struct SignalError(String);

impl Signal {
    /// Hangup of the terminal.
    pub const HUP: Self = Self(1);
    /// Interrupt from the keyboard.
    pub const INT: Self = Self(2);
    /// Kills a process; it cannot be caught.
    pub const KILL: Self = Self(9);
    /// Asks a process to end.
    pub const TERM: Self = Self(15);

    /// Returns the signal with this number, if it is 1 to 64.
    pub fn from_number(number: u32) -> Option<Self> {
        u8::try_from(number)
            .ok()
            .filter(|number| (1..=64).contains(number))
            .map(Self)
    }

    /// Returns the signal's number.
    pub fn number(self) -> u32 {
        self.0.into()
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match signal::name(self.number()) {
            Some(name) => write!(f, "SIG{name}"),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Signal {
    type Err = SignalError;

    /// Parses a number, or a name in any case with or without `SIG`; also `RTMIN+N` and `RTMAX-N`.
    fn from_str(text: &str) -> Result<Self, SignalError> {
        signal::number(text)
            .and_then(Self::from_number)
            .ok_or_else(|| SignalError(text.to_owned()))
    }
}

impl Serialize for Signal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Signal {
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
    fn displayed_signals_parse_back() {
        for number in 1..=64 {
            let signal = Signal::from_number(number).unwrap();
            assert_eq!(signal.to_string().parse::<Signal>().unwrap(), signal);
        }
        assert_eq!("kill".parse(), Ok(Signal::KILL));
        assert!("0".parse::<Signal>().is_err() && "TERMINATE".parse::<Signal>().is_err());
    }
}
