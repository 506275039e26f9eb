//! Measures which keys a store accepts, and whether it stores them unchanged.
//!
//! A refused key does no harm: the copy is parked with that reason. A key that the store normalizes, decodes or folds
//! does: two objects of the source would become one, each overwriting the other.

use copyhold_core::domain::{MAX_KEY_BYTES, ObjectKey};

use super::{
    Ended, FOLDER, Probe, Tristate,
    calls::PutOptions,
    facts::{Fact, Found},
    is_refusal,
};

const BYTES: &[u8] = b"under an odd key";
/// Tried one after the other if the longest key is not accepted.
const SHORTER: [usize; 6] = [1_000, 900, 768, 512, 250, 128];

/// A key by its end, and the key that a store which changes keys would make of it.
struct OddKey {
    name: &'static str,
    says: &'static str,
    end: &'static str,
    twin: &'static str,
}

const ODD: &[OddKey] = &[
    OddKey { name: "key_double_slash", says: "the key a//b is held", end: "a//b", twin: "a/b" },
    OddKey { name: "key_dot", says: "the key a/./b is held", end: "a/./b", twin: "a/b" },
    OddKey { name: "key_dot_dot", says: "the key a/../b is held", end: "a/../b", twin: "b" },
    OddKey { name: "key_blank", says: "a key with a blank is held", end: "a b", twin: "a+b" },
    OddKey { name: "key_plus", says: "a key with + is held", end: "a+b", twin: "a b" },
    OddKey { name: "key_percent", says: "the key a%2Fb is held", end: "a%2Fb", twin: "a/b" },
    OddKey {
        name: "key_unicode",
        says: "keys outside ASCII are held",
        end: "u\u{308}\u{1f980}",
        twin: "\u{fc}\u{1f980}",
    },
    OddKey { name: "key_case", says: "A and a are two keys", end: "A", twin: "a" },
    OddKey { name: "key_control", says: "a key with a control character is held", end: "a\u{1}b", twin: "ab" },
    OddKey { name: "key_trailing_slash", says: "the key a/ is held", end: "a/", twin: "a" },
];

/// The keys that the store holds, with the names of their facts.
type HeldKeys = Vec<(&'static str, ObjectKey)>;

impl Probe<'_> {
    pub(super) async fn keys(&mut self) -> Result<(), Ended> {
        let mut held = Vec::new();
        for odd in ODD {
            self.going_on()?;
            // If it cannot be deleted, it breaks every unencoded listing until the retention ends.
            if self.retention.is_some() && odd.end.contains(char::is_control) {
                continue;
            }
            let [key, twin] = [odd.end, odd.twin].map(|end| self.key(&format!("{}/{end}", odd.name)));
            let found = self.holds(&key, Some(&twin)).await;
            self.key_fact(odd.name, odd.says, key, found, &mut held);
        }
        let number = self.prefix.trim_start_matches(FOLDER);
        // Cannot fail: it is short.
        let led = ObjectKey::new(format!("/{FOLDER}{number}led")).expect("a key of a probe");
        let found = self.holds(&led, Some(&self.key("led"))).await;
        self.key_fact("key_leading_slash", "a key with / in front is held", led, found, &mut held);
        self.longest_key(&mut held).await?;
        self.listing(&held).await;
        Ok(())
    }

    fn key_fact(
        &mut self,
        name: &'static str,
        says: &'static str,
        key: ObjectKey,
        found: Result<Found, Found>,
        held: &mut HeldKeys,
    ) {
        let profile = if self.profile().refuses_key(&key).is_some() { Tristate::No } else { Tristate::Unknown };
        // Only a profile that refuses the key makes up for a store that stores it as another one.
        let (found, needed) = match found {
            Ok(found) => (found, false),
            Err(mangled) => (mangled, profile != Tristate::No),
        };
        if found.measured.is_yes() {
            held.push((name, key));
        }
        self.found(Fact { needed, ..Fact::new(name, says, profile, found) });
    }

    /// Returns whether the store holds the key. `Err`: it accepted the key, and did not store it unchanged.
    async fn holds(&mut self, key: &ObjectKey, twin: Option<&ObjectKey>) -> Result<Found, Found> {
        match self.put(key, BYTES, PutOptions::default()).await {
            Ok(_) => {}
            Err(error) if error.is_of_the_path() => {
                return Ok(Found::no(format!(
                    "a proxy in front of the store, or the store, changes the path ({})",
                    error.brief()
                )));
            }
            Err(error) if is_refusal(&error) => return Ok(Found::no(format!("refused: {}", error.brief()))),
            Err(error) => return Ok(Found::no(format!("it fails, and would be tried again: {}", error.brief()))),
        }
        match self.read_if_there(key).await {
            Ok(Some(bytes)) if bytes == BYTES => {}
            Ok(_) => return Err(Found::no("taken, and then not there")),
            Err(error) => return Ok(Found::unclear(&error)),
        }
        let Some(twin) = twin else { return Ok(Found::yes("")) };
        match self.read_if_there(twin).await {
            Ok(None) => Ok(Found::yes("")),
            // The object under the changed key has to be removed too.
            Ok(Some(_)) => {
                self.cleanup.writes(twin);
                Err(Found::no("taken as another key, which may be another object's"))
            }
            // Some stores answer a key that names a folder with something other than a 404.
            Err(error) => Ok(Found::unclear(&error)),
        }
    }

    async fn longest_key(&mut self, held: &mut HeldKeys) -> Result<(), Ended> {
        let of_length = |probe: &Self, bytes: usize| probe.key(&"k".repeat(bytes - probe.prefix.len()));
        let longest = of_length(self, MAX_KEY_BYTES);
        let found = self.holds(&longest, None).await;
        let mut advice = None;
        if !found.as_ref().is_ok_and(|found| found.measured.is_yes()) {
            for bytes in SHORTER {
                self.going_on()?;
                let key = of_length(self, bytes);
                if self.holds(&key, None).await.is_ok_and(|found| found.measured.is_yes()) {
                    advice = (self.profile().keys.max_bytes > bytes).then(|| format!("max_key_bytes = {bytes}"));
                    break;
                }
            }
        }
        self.key_fact("key_1024", "a key of 1,024 bytes is held", longest, found, held);
        let fact = self.facts.last_mut().expect("the one just found"); // Cannot fail: it was pushed above.
        fact.advice = advice;
        Ok(())
    }

    async fn listing(&mut self, held: &HeldKeys) {
        let listed = self.list(&self.prefix, None).await;
        let found = match &listed {
            Ok(listed) => {
                let mut hidden = Vec::new();
                for (name, key) in held {
                    let shown = |listed: &[String]| listed.iter().any(|listed| listed == key.as_str());
                    // The key with a leading slash is outside the prefix.
                    let elsewhere = !key.as_str().starts_with(&self.prefix);
                    let is_shown = if elsewhere {
                        self.list(key.as_str(), None).await.is_ok_and(|listed| shown(&listed))
                    } else {
                        shown(listed)
                    };
                    if !is_shown {
                        hidden.push(*name);
                    }
                }
                if hidden.is_empty() {
                    Found::yes("")
                } else {
                    Found::no(format!("hidden or under another name: {}", hidden.join(", ")))
                }
            }
            Err(error) => Found::unclear(error),
        };
        let profile = self.profile().listing;
        self.found(Fact::new("lists_all", "a listing shows every key as it is", profile.is_complete, found));
        let Some(first) = listed.ok().and_then(|listed| listed.into_iter().min()) else { return };
        let found = match self.list(&self.prefix, Some(&first)).await {
            Ok(after) => Found::plain(!after.is_empty() && after.iter().all(|key| *key > first)),
            Err(error) => Found::unclear(&error),
        };
        self.found(Fact::new("starts_after", "start-after is heeded", profile.starts_after, found));
    }
}
