//! Recovers names from a truncated table.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{DeserializeOwned, MapAccess, Visitor};

/// Returns the entries before the first one that cannot be parsed.
pub(crate) fn entries<T: DeserializeOwned>(bytes: &[u8]) -> BTreeMap<String, T> {
    let mut found = BTreeMap::new();
    let collect = Collect(&mut found);
    // Parsing fails at the damaged part; the entries before it are collected by then.
    let _ = serde_json::Deserializer::from_slice(bytes).deserialize_map(collect);
    found
}

struct Collect<'f, T>(&'f mut BTreeMap<String, T>);

impl<'de, T: DeserializeOwned> Visitor<'de> for Collect<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((name, value)) = map.next_entry()? {
            self.0.insert(name, value);
        }
        Ok(())
    }
}
