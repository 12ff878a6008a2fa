//! Linux's signals by name and number.

use std::fmt;
use std::str::FromStr;

use blockbox_protocol::signal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A signal of Linux, whatever the host's system: 1 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Signal(u8);

/// Neither the name nor the number of a signal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a signal")]
pub struct SignalError(String);

impl Signal {
    /// Hangup of the terminal.
    pub const HUP: Self = Self(1);
    /// Interrupt from the keyboard.
    pub const INT: Self = Self(2);
    /// The end that no process can refuse.
    pub const KILL: Self = Self(9);
    /// The request to end.
    pub const TERM: Self = Self(15);

    /// The signal with this number, 1 to 64.
    pub fn from_number(number: u32) -> Option<Self> {
        u8::try_from(number)
            .ok()
            .filter(|number| (1..=64).contains(number))
            .map(Self)
    }

    /// The signal's number.
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

    /// Reads a number, or a name in any case with or without `SIG`; `RTMIN+N` and `RTMAX-N` too.
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
    fn every_signal_reads_back_as_it_is_shown() {
        for number in 1..=64 {
            let signal = Signal::from_number(number).unwrap();
            assert_eq!(signal.to_string().parse::<Signal>().unwrap(), signal);
        }
        assert_eq!("kill".parse(), Ok(Signal::KILL));
        assert!("0".parse::<Signal>().is_err() && "TERMINATE".parse::<Signal>().is_err());
    }
}
