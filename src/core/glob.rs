//! Patterns for names: `*` stands for any characters, `?` for one, everything else for itself.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A pattern that a whole name matches or does not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Glob(String);

impl Glob {
    pub fn new(pattern: &str) -> Self {
        Self(pattern.to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it can match more than one name.
    pub fn is_pattern(&self) -> bool {
        self.0.contains(['*', '?'])
    }

    /// Takes time in proportion to both lengths at most, whatever the pattern.
    pub fn matches(&self, name: &str) -> bool {
        let (mut pattern, mut rest) = (self.0.chars(), name.chars());
        // Where to go on when the last `*` takes one character more.
        let mut last_star = None;
        loop {
            let rest_here = rest.clone();
            match (pattern.next(), rest.next()) {
                (None, None) => return true,
                (Some('*'), _) => {
                    last_star = Some((pattern.clone(), rest_here.clone()));
                    rest = rest_here;
                }
                (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {}
                _ => {
                    let Some((after_star, mut taken)) = last_star else { return false };
                    if taken.next().is_none() {
                        return false;
                    }
                    pattern = after_star.clone();
                    rest = taken.clone();
                    last_star = Some((after_star, taken));
                }
            }
        }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_name_matches_or_does_not() {
        for (pattern, name, expect) in [
            ("", "", true),
            ("", "a", false),
            ("orders", "orders", true),
            ("orders", "orders-2", false),
            ("orders", "Orders", false),
            ("*", "", true),
            ("*", "anything", true),
            ("orders-*", "orders-primary", true),
            ("orders-*", "orders-", true),
            ("orders-*", "orders", false),
            ("*-primary", "orders-primary", true),
            ("*-primary", "orders-primary-2", false),
            ("*r*r*", "order-1", true),
            ("*r*r*r*", "order-1", false),
            ("replica-?", "replica-1", true),
            ("replica-?", "replica-12", false),
            ("replica-?", "replica-", false),
            ("?", "é", true),
            ("*a*b*c", "aXbXbXc", true),
            ("**", "x", true),
            ("*?", "", false),
            ("[ab]", "a", false),
            ("[ab]", "[ab]", true),
        ] {
            assert_eq!(Glob::new(pattern).matches(name), expect, "{pattern:?} {name:?}");
        }
    }

    #[test]
    fn a_pattern_made_to_take_long_does_not() {
        let pattern = format!("{}b", "*a".repeat(100));
        assert!(!Glob::new(&pattern).matches(&"a".repeat(100_000)));
    }
}
