//! The names of addresses, as returned by the gateway's resolver.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The most addresses of names that are kept.
const NAMES: usize = 4096;
/// The most names of one address: those of a content delivery network share theirs.
const NAMES_OF_ONE: usize = 16;
/// The shortest time that a name is kept: programs connect some time after a lookup, whatever its
/// time to live.
const SHORTEST: Duration = Duration::from_secs(120);
const LONGEST: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug)]
struct Known {
    name: String,
    until: Instant,
}

/// The names of addresses, in bounded memory.
#[derive(Debug, Default)]
pub(crate) struct Names {
    by_address: HashMap<IpAddr, Vec<Known>>,
    known: usize,
}

impl Names {
    /// Records that the resolver returned an address for a name.
    pub(crate) fn learn(&mut self, name: &str, address: IpAddr, ttl: Duration, now: Instant) {
        let until = now + ttl.clamp(SHORTEST, LONGEST);
        if let Some(old) = self
            .by_address
            .get_mut(&address)
            .and_then(|known| known.iter_mut().find(|known| known.name == name))
        {
            old.until = old.until.max(until);
            return;
        }
        if self.known >= NAMES {
            self.forget(now);
        }
        let known = self.by_address.entry(address).or_default();
        if known.len() >= NAMES_OF_ONE {
            known.remove(0);
            self.known = self.known.saturating_sub(1);
        }
        known.push(Known {
            name: name.to_owned(),
            until,
        });
        self.known += 1;
    }

    /// Makes room: removes expired names, or if there are none, the half that expires first.
    fn forget(&mut self, now: Instant) {
        let mut limit = now;
        for _ in 0..2 {
            self.by_address.retain(|_, known| {
                known.retain(|known| known.until > limit);
                !known.is_empty()
            });
            self.known = self.by_address.values().map(Vec::len).sum();
            if self.known < NAMES {
                return;
            }
            let mut times: Vec<_> = self
                .by_address
                .values()
                .flatten()
                .map(|known| known.until)
                .collect();
            times.sort_unstable();
            limit = times.get(times.len() / 2).copied().unwrap_or(now);
        }
    }

    /// Returns the names for which the resolver returned the address, the latest first.
    pub(crate) fn of(&self, address: IpAddr, now: Instant) -> impl Iterator<Item = &str> {
        self.by_address
            .get(&address)
            .into_iter()
            .flatten()
            .rev()
            .filter(move |known| known.until > now)
            .map(|known| known.name.as_str())
    }

    /// Returns the name to show for an address.
    pub(crate) fn name_of(&self, address: IpAddr, now: Instant) -> Option<String> {
        self.of(address, now).next().map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_names_of_many_addresses_stay_within_bounds() {
        let mut names = Names::default();
        let now = Instant::now();
        for n in 0..20_000u32 {
            let address = IpAddr::V4(Ipv4Addr::from_bits(n));
            let ttl = Duration::from_secs(u64::from(n) + 120);
            names.learn("a.org", address, ttl, now);
            names.learn(&format!("n{n}.org"), "1.1.1.1".parse().unwrap(), ttl, now);
            assert!(names.known <= NAMES);
        }
        assert_eq!(
            names.known,
            names.by_address.values().map(Vec::len).sum::<usize>()
        );
        assert!(names.by_address[&"1.1.1.1".parse::<IpAddr>().unwrap()].len() <= NAMES_OF_ONE);
    }
}
