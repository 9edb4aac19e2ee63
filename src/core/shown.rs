//! What gets series of its own where there may be too many of a kind, and how many were left out.
//!
//! `/metrics` is bounded: of a server's thousands of slots, those that matter most are told one by one. Rules are not:
//! they judge everything, so an alert fires on what is not shown as well.

use std::collections::HashSet;
use std::sync::Arc;

/// The subjects of one kind that are told one by one, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// `None`: all of them.
    names: Option<HashSet<Box<str>>>,
}

impl Shown {
    /// Everything is shown.
    pub const fn all() -> Self {
        Self { names: None }
    }

    /// Chooses `limit` of `ranked`, which stands in the order of what matters most, without repetition. The first half
    /// of the places is for those that matter most now. The other half is kept by those that were `before` as long as
    /// they are there, so that series do not come and go while equals change places.
    pub fn choose(ranked: &[&str], before: &Self, limit: usize) -> Self {
        if ranked.len() <= limit {
            return Self::default();
        }
        let (first, rest) = ranked.split_at(limit / 2);
        let was_shown = |name: &&&str| before.names.as_ref().is_some_and(|names| names.contains(**name));
        let kept = rest.iter().filter(was_shown);
        let new = rest.iter().filter(|name| !was_shown(name));
        let names = first.iter().chain(kept).chain(new).take(limit);
        Self { names: Some(names.map(|name| Box::from(*name)).collect()) }
    }

    pub fn contains(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.contains(name))
    }

    /// How many of `total` are not shown.
    pub fn left_out_of(&self, total: usize) -> usize {
        self.names.as_ref().map_or(0, |names| total.saturating_sub(names.len()))
    }
}

/// How many subjects got no series of their own, by family, added up over the slow polls of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped(Arc<Vec<(&'static str, u64)>>);

impl Dropped {
    /// Takes in one poll. `family`: one of a few words that stay, for example `slots`. 0 counts too: it begins the series.
    pub fn add(&mut self, family: &'static str, left_out: usize) {
        let left_out = u64::try_from(left_out).unwrap_or(u64::MAX);
        let families = Arc::make_mut(&mut self.0);
        match families.iter_mut().find(|(known, _)| *known == family) {
            Some((_, total)) => *total = total.saturating_add(left_out),
            None => families.push((family, left_out)),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose<'a>(ranked: &[&'a str], before: &Shown, limit: usize) -> (Vec<&'a str>, Shown) {
        let shown = Shown::choose(ranked, before, limit);
        (ranked.iter().filter(|name| shown.contains(name)).copied().collect(), shown)
    }

    #[test]
    fn few_are_all_shown() {
        let (found, shown) = choose(&["a", "b"], &Shown::default(), 2);
        assert_eq!((found, shown.left_out_of(2)), (vec!["a", "b"], 0));
        assert_eq!(Shown::choose(&[], &shown, 2), Shown::default());
    }

    #[test]
    fn what_matters_most_is_shown_and_the_rest_stays_while_it_is_there() {
        let (found, first) = choose(&["a", "b", "c", "d", "e", "f"], &Shown::default(), 4);
        assert_eq!((found, first.left_out_of(6)), (vec!["a", "b", "c", "d"], 2));
        // All change places: the two worst come in, and of those shown before the better two stay.
        let (found, second) = choose(&["f", "e", "d", "c", "b", "a"], &first, 4);
        assert_eq!(found, ["f", "e", "d", "c"]);
        let (found, _) = choose(&["a", "f", "b", "c", "d", "e"], &second, 4);
        assert_eq!(found, ["a", "f", "c", "d"]);
        // One has gone: its place goes to the next that was not shown.
        let (found, _) = choose(&["f", "a", "b", "d", "e", "g"], &second, 4);
        assert_eq!(found, ["f", "a", "d", "e"]);
    }

    #[test]
    fn what_was_left_out_adds_up_by_family() {
        let mut dropped = Dropped::default();
        for (family, left_out) in [("slots", 3), ("sessions", 0), ("slots", 4)] {
            dropped.add(family, left_out);
        }
        assert_eq!(dropped.iter().collect::<Vec<_>>(), [("slots", 7), ("sessions", 0)]);
    }
}
