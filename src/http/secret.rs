//! How secrets are read from the configuration: no error repeats them.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};

/// Reads a string that `parse` takes, or says what is wrong with it.
pub(super) fn read<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    parse: fn(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    deserializer.deserialize_any(Text { parse })
}

struct Text<T> {
    parse: fn(&str) -> Result<T, String>,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string in quotes")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }

    // An error of serde's would repeat the number.
    fn visit_u64<E: de::Error>(self, _: u64) -> Result<T, E> {
        Err(E::custom("is a number; write it in quotes"))
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<T, E> {
        Err(E::custom("is a number; write it in quotes"))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<T, E> {
        Err(E::custom("is a number; write it in quotes"))
    }
}
