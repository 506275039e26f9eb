//! Tracks up to which key everything is concluded, while objects are audited out of order.

use std::collections::VecDeque;

use copyhold_core::domain::ObjectKey;

/// Objects may be concluded before ones that came earlier, whose keys keep theirs waiting, but not more than that.
const AHEAD_AT_MOST: usize = 10_000;

/// Objects under way, in the order of keys, and whether each is concluded.
#[derive(Debug, Default)]
pub(super) struct ConcludedPrefix {
    keys: VecDeque<(ObjectKey, bool)>,
    /// All up to and with this one are.
    pub(super) up_to: Option<ObjectKey>,
}

impl ConcludedPrefix {
    /// Whether one more may begin.
    pub(super) fn has_room(&self) -> bool {
        self.keys.len() < AHEAD_AT_MOST
    }

    /// All that began were concluded.
    pub(super) fn is_complete(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn begun(&mut self, key: ObjectKey) {
        self.keys.push_back((key, false));
    }

    pub(super) fn concluded(&mut self, key: &ObjectKey) {
        if let Some((_, concluded)) = self.keys.iter_mut().find(|(of, concluded)| of == key && !concluded) {
            *concluded = true;
        }
        self.advance();
    }

    /// There is nothing else up to this key.
    pub(super) fn passed(&mut self, key: ObjectKey) {
        self.keys.push_back((key, true));
        self.advance();
    }

    fn advance(&mut self) {
        while let Some((key, _)) = self.keys.pop_front_if(|(_, concluded)| *concluded) {
            self.up_to = Some(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(key: &str) -> ObjectKey {
        ObjectKey::new(key).unwrap()
    }

    #[test]
    fn one_goes_on_behind_the_last_key_before_which_nothing_is_open() {
        let mut order = ConcludedPrefix::default();
        for begun in ["a", "b", "c"] {
            order.begun(key(begun));
        }
        order.concluded(&key("b"));
        assert_eq!(order.up_to, None);
        order.concluded(&key("a"));
        assert_eq!(order.up_to, Some(key("b")));
        order.passed(key("d"));
        assert_eq!((order.up_to.clone(), order.is_complete()), (Some(key("b")), false));
        order.concluded(&key("c"));
        assert_eq!((order.up_to.clone(), order.is_complete()), (Some(key("d")), true));
    }
}
