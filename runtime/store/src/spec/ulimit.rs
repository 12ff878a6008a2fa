//! Resource limits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A resource limit of every command of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Ulimit {
    /// The resource's number on Linux (`RLIMIT_*`).
    pub resource: u32,
    /// The soft limit; `None` is unlimited.
    pub soft: Option<u64>,
    /// The hard limit; `None` is unlimited.
    pub hard: Option<u64>,
}

/// The names of the resources in the order of their numbers, from
/// `include/uapi/asm-generic/resource.h`. x86 and ARM agree.
const NAMES: [&str; 16] = [
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];

impl FromStr for Ulimit {
    type Err = String;

    /// Parses `NAME=SOFT[:HARD]` as docker does; -1 is unlimited.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a limit: use NAME=SOFT[:HARD]");
        let (name, values) = text.split_once('=').ok_or_else(wrong)?;
        let resource = NAMES
            .iter()
            .position(|known| *known == name)
            .and_then(|at| u32::try_from(at).ok())
            .ok_or_else(|| format!("{name:?} is not a resource: use {}", NAMES.join(", ")))?;
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let value = |text: &str| match text {
            "-1" | "unlimited" => Ok(None),
            _ => text.parse().map(Some).map_err(|_| wrong()),
        };
        let (soft, hard) = (value(soft)?, value(hard)?);
        if soft.unwrap_or(u64::MAX) > hard.unwrap_or(u64::MAX) {
            return Err(format!("{text:?} has a soft limit above the hard one"));
        }
        Ok(Self {
            resource,
            soft,
            hard,
        })
    }
}

impl fmt::Display for Ulimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = usize::try_from(self.resource)
            .ok()
            .and_then(|at| NAMES.get(at))
            .unwrap_or(&"?");
        let value = |value: Option<u64>| value.map_or("-1".to_owned(), |value| value.to_string());
        write!(f, "{name}={}:{}", value(self.soft), value(self.hard))
    }
}

impl From<Ulimit> for String {
    fn from(limit: Ulimit) -> Self {
        limit.to_string()
    }
}

impl TryFrom<String> for Ulimit {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displayed_limits_parse_back() {
        for (text, shown) in [
            ("nofile=1024", "nofile=1024:1024"),
            ("nofile=1024:4096", "nofile=1024:4096"),
            ("core=-1", "core=-1:-1"),
            ("nproc=5:-1", "nproc=5:-1"),
        ] {
            let limit: Ulimit = text.parse().unwrap();
            assert_eq!(limit.to_string(), shown);
            assert_eq!(shown.parse(), Ok(limit));
        }
        assert_eq!("nofile=1".parse::<Ulimit>().unwrap().resource, 7);
        for text in [
            "",
            "nofile",
            "files=1",
            "nofile=x",
            "nofile=2:1",
            "nofile=-1:5",
        ] {
            assert!(text.parse::<Ulimit>().is_err(), "{text}");
        }
    }
}
