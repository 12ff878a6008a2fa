//! Retries of failed requests.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, SystemTime};

use super::url::Url;
use crate::error::is_transient_status;
use crate::{Error, Event, Events};

/// The first wait, and the one that later ones double up to.
const FIRST: Duration = Duration::from_millis(200);
const MOST: Duration = Duration::from_secs(10);

/// The longest wait that a server's `Retry-After` gets.
const MOST_ASKED_FOR: Duration = Duration::from_secs(60);

/// The most retries of a server that does not respond at all, each of which takes the whole time
/// limit.
const MOST_TIMEOUTS: u32 = 2;

/// Why a request failed, and whether to make it again.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Box<Error>,
    retry: bool,
    /// Whether the request timed out.
    timed_out: bool,
    /// When the server wants to be asked again.
    after: Option<Duration>,
}

impl Failure {
    pub(super) fn last(error: Error) -> Self {
        Self {
            error: Box::new(error),
            retry: false,
            timed_out: false,
            after: None,
        }
    }

    pub(super) fn transient(error: Error) -> Self {
        Self {
            retry: true,
            ..Self::last(error)
        }
    }

    /// Whether the server rejected the request itself, so that the same request fails again.
    pub(super) fn is_refusal(&self) -> bool {
        let refusal = matches!(
            *self.error,
            Error::NotFound { .. }
                | Error::Protocol { .. }
                | Error::Http {
                    status: 400..=499,
                    ..
                }
        );
        refusal && !self.retry
    }

    pub(super) fn timed_out(self) -> Self {
        Self {
            timed_out: true,
            ..self
        }
    }

    pub(super) fn after(self, after: Option<Duration>) -> Self {
        Self { after, ..self }
    }

    /// Converts a response with this status and text.
    pub(super) fn status(url: &Url, status: u16, message: String) -> Self {
        let url = url.to_string();
        let error = Error::Http {
            url,
            status,
            message,
        };
        match is_transient_status(status) {
            true => Self::transient(error),
            false => Self::last(error),
        }
    }

    /// Waits until the next attempt after `attempt` failed ones of `attempts`, and reports it;
    /// `None` to give up.
    pub(super) fn wait(
        &self,
        attempt: u32,
        host: &str,
        attempts: u32,
        events: Option<&Events>,
    ) -> Option<()> {
        let delay = self.delay(attempt, attempts)?;
        tracing::debug!(host, error = %self.error, ?delay, "trying again");
        if let Some(events) = events {
            events.report(&Event::Waiting {
                host,
                error: &self.error,
                delay,
                attempt: attempt + 1,
                attempts,
            });
        }
        std::thread::sleep(delay);
        Some(())
    }

    /// How long to wait before the next attempt, after `attempt` failed ones of `attempts`; `None`
    /// to give up.
    pub(super) fn delay(&self, attempt: u32, attempts: u32) -> Option<Duration> {
        let attempts = match self.timed_out {
            true => attempts.min(MOST_TIMEOUTS),
            false => attempts,
        };
        if !self.retry || attempt >= attempts {
            return None;
        }
        Some(match self.after {
            Some(after) => after.min(MOST_ASKED_FOR),
            None => jittered(FIRST.saturating_mul(1 << attempt.min(16)).min(MOST)),
        })
    }
}

/// Between half of `delay` and all of it, so that clients that failed together do not come back
/// together.
fn jittered(delay: Duration) -> Duration {
    // The standard library's one source of random numbers.
    let random = RandomState::new().hash_one(0) % 1024;
    let random = u32::try_from(random).unwrap_or_default();
    delay / 2 + delay * random / 2048
}

/// The wait that a `Retry-After` header asks for: seconds, or a date.
pub(super) fn retry_after(header: &str) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()?;
    Some(Duration::from_secs(http_date(header)?).saturating_sub(now))
}

/// Seconds since 1970 of a date such as `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (_, rest) = text.split_once(", ")?;
    let mut words = rest.split(' ');
    let day: u64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|&name| name == month)? as u64;
    let year: u64 = words.next()?.parse().ok()?;
    let mut time = words.next()?.split(':').map(|part| part.parse::<u64>());
    let mut next = || time.next()?.ok().filter(|&part| part <= 60);
    let (hour, minute, second) = (next()?, next()?, next()?);
    if !(1970..=9999).contains(&year) || !(1..=31).contains(&day) {
        return None;
    }
    // Howard Hinnant's days_from_civil: years begin in March, so that leap days come last.
    let (year, month) = match month {
        0 | 1 => (year - 1, month + 10),
        _ => (year, month - 2),
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    Some((days.checked_sub(719_468)? * 24 + hour) * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_within_bounds() {
        let failure = Failure::transient(Error::Failed);
        for attempt in 0..40 {
            let delay = failure.delay(attempt, 40).unwrap();
            let most = FIRST.saturating_mul(1 << attempt.min(16)).min(MOST);
            assert!(delay >= most / 2 && delay <= most, "{attempt}: {delay:?}");
        }
        assert_eq!(failure.delay(40, 40), None);
        assert_eq!(Failure::last(Error::Failed).delay(0, 5), None);
        assert_eq!(failure.timed_out().delay(2, 5), None);
    }

    #[test]
    fn retry_after_of_hours_is_capped_at_a_minute() {
        let failure = Failure::transient(Error::Failed);
        let failure = failure.after(retry_after("86400"));
        assert_eq!(failure.delay(0, 1), Some(Duration::from_secs(60)));
    }

    #[test]
    fn http_dates_are_parsed() {
        assert_eq!(
            http_date("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(784_111_777)
        );
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(
            http_date("Thu, 29 Feb 2024 23:59:59 GMT"),
            Some(1_709_251_199)
        );
        for text in [
            "",
            "now",
            "Sun, 06 Nov 1994",
            "Sun, 99 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 99999999999999999999 08:49:37 GMT",
        ] {
            assert_eq!(http_date(text), None, "{text}");
        }
        assert_eq!(
            retry_after("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(Duration::ZERO)
        );
        assert_eq!(retry_after("-1"), None);
    }
}
