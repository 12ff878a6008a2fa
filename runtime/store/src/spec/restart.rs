//! Restart policies.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// When the main command is restarted after it ends. A sandbox that the user stopped or killed
/// stays down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[non_exhaustive]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// After a failure: an exit code other than 0, a signal, or a lost machine.
    OnFailure {
        /// The most restarts; `None` is no limit.
        limit: Option<u32>,
    },
    /// Whatever the exit code.
    Always,
}

impl RestartPolicy {
    /// Returns whether a sandbox that was already restarted `restarts` times is restarted again;
    /// `success` says how its command ended.
    pub fn applies(self, success: bool, restarts: u32) -> bool {
        match self {
            Self::No => false,
            Self::OnFailure { limit } => !success && limit.is_none_or(|limit| restarts < limit),
            Self::Always => true,
        }
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure { limit: None } => f.write_str("on-failure"),
            Self::OnFailure { limit: Some(limit) } => write!(f, "on-failure:{limit}"),
            Self::Always => f.write_str("always"),
        }
    }
}

impl From<RestartPolicy> for String {
    fn from(policy: RestartPolicy) -> Self {
        policy.to_string()
    }
}

impl TryFrom<String> for RestartPolicy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for RestartPolicy {
    type Err = String;

    /// Parses `no`, `on-failure`, `on-failure:N`, `always`, or `unless-stopped`. The last two mean
    /// the same, because no daemon restarts sandboxes when the host boots.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None => match text {
                "no" => Ok(Self::No),
                "on-failure" => Ok(Self::OnFailure { limit: None }),
                "always" | "unless-stopped" => Ok(Self::Always),
                _ => Err("use no, on-failure[:N] or always".to_owned()),
            },
            Some(("on-failure", limit)) => limit
                .parse()
                .map(|limit| Self::OnFailure { limit: Some(limit) })
                .map_err(|_| format!("{limit:?} is not a number of restarts")),
            Some(_) => Err("only on-failure has a limit".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displayed_policies_parse_back() {
        for text in ["no", "on-failure", "on-failure:3", "always"] {
            assert_eq!(text.parse::<RestartPolicy>().unwrap().to_string(), text);
        }
        for text in ["", "never", "always:3", "on-failure:", "on-failure:-1"] {
            assert!(text.parse::<RestartPolicy>().is_err(), "{text}");
        }
    }

    #[test]
    fn on_failure_restarts_failures_up_to_its_limit() {
        let policy = RestartPolicy::OnFailure { limit: Some(2) };
        assert!(policy.applies(false, 1));
        assert!(!policy.applies(false, 2));
        assert!(!policy.applies(true, 0));
        assert!(RestartPolicy::Always.applies(true, 1000));
        assert!(!RestartPolicy::No.applies(false, 0));
    }
}
