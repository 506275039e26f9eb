use std::collections::BTreeSet;

use super::{lister::Lister, trouble::Trouble};
use crate::{
    domain::ObjectKey,
    queue::KeyRange,
    store::{Asked, Place},
};

/// What keys are divided by, as a rule.
const DELIMITER: &str = "/";
/// How deep one looks for a place where keys differ.
const LEVELS: usize = 5;
/// Parts of one prefix at most: the smaller they are, the more even is what is listed at the same time. Each costs a page
/// that is not full.
const PARTS: usize = 32;

/// The prefixes in their order, without those that lie within another; all keys, if there are none.
#[must_use]
pub fn fold(prefixes: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut folded = Vec::<String>::new();
    // What begins with a prefix comes behind it.
    for prefix in prefixes.into_iter().collect::<BTreeSet<_>>() {
        if !folded.last().is_some_and(|last| prefix.starts_with(last.as_str())) {
            folded.push(prefix);
        }
    }
    if folded.is_empty() { vec![String::new()] } else { folded }
}

/// The prefix in ranges that together are all of it, cut at `hints`, which may be anything.
fn cut(prefix: &str, hints: Vec<String>) -> Vec<KeyRange> {
    let usable = |hint: &String| hint.starts_with(prefix) && hint != prefix && ObjectKey::new(hint.as_str()).is_ok();
    let hints: Vec<_> = hints.into_iter().filter(usable).collect::<BTreeSet<_>>().into_iter().collect();
    let cuts = hints.len().min(PARTS - 1);
    // As far apart as they can be.
    let mut cuts = (1..=cuts).map(|i| hints[i * hints.len() / (cuts + 1)].clone());
    let mut ranges = Vec::new();
    let mut after = None;
    loop {
        let through = cuts.next();
        ranges.push(KeyRange { prefix: prefix.to_owned(), after, through: through.clone() });
        if through.is_none() {
            return ranges;
        }
        after = through;
    }
}

/// The ranges of one prefix, cut where a listing with a delimiter says that keys differ.
pub(super) async fn of(lister: &Lister, prefix: &str) -> Result<Vec<KeyRange>, Trouble> {
    let mut at = prefix.to_owned();
    let mut hints = Vec::new();
    for _ in 0..LEVELS {
        let asked = Asked { prefix: &at, delimiter: Some(DELIMITER) };
        let (page, _) = lister.page(asked, &Place::First).await?;
        hints = page.prefixes;
        match hints.as_slice() {
            [only] if page.objects.is_empty() && !page.truncated && only.starts_with(&at) && *only != at => {
                at.clone_from(only);
            }
            _ => break,
        }
    }
    let ranges = cut(prefix, hints);
    let Some(last) = ranges.last().and_then(|range| range.after.clone()) else { return Ok(ranges) };
    // Where it is not heeded, each part would be listed from the beginning.
    let (page, _) = lister.page(Asked { prefix, delimiter: None }, &Place::After(last.clone())).await?;
    if page.objects.iter().any(|object| object.bytes() <= last.as_bytes()) {
        lister.note(|notes| notes.ignores_start_after = true);
        return Ok(cut(prefix, Vec::new()));
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(prefixes: &[&str]) -> Vec<String> {
        fold(prefixes.iter().map(|&prefix| prefix.to_owned()))
    }

    #[test]
    fn a_prefix_within_another_is_not_listed_twice() {
        assert_eq!(folded(&["b/", "a/x", "a/", "b/c/d", "a0", "b/"]), ["a/", "a0", "b/"]);
        assert_eq!(folded(&["photo", "photos/"]), ["photo"]);
        assert_eq!(folded(&["a", ""]), [""]);
        assert_eq!(folded(&[]), [""]);
    }

    #[test]
    fn one_range_is_all_where_nothing_is_known() {
        let all = KeyRange { prefix: "p/".into(), after: None, through: None };
        for useless in [vec![], vec!["p/".into()], vec!["q/".into(), "p/\0".into(), "x".repeat(2000)]] {
            assert_eq!(cut("p/", useless), std::slice::from_ref(&all));
        }
    }

    #[test]
    fn many_hints_make_parts_of_about_as_many_each() {
        let ranges = cut("", (0..1000).map(|i| format!("{i:03}/")).collect());
        assert_eq!(ranges.len(), PARTS);
        let at = |key: &Option<String>| key.as_ref().map_or(0, |key| key[..3].parse::<usize>().unwrap());
        for range in &ranges[..PARTS - 1] {
            assert!((30..=33).contains(&(at(&range.through) - at(&range.after))), "{range:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_key_of_the_prefix_is_in_exactly_one_range(
            prefix in "[a/]{0,3}",
            hints in proptest::collection::vec("[ab/\u{e9}\u{1f600}]{0,6}", 0..80),
            keys in proptest::collection::vec("[ab/\u{e9}\u{1f600} ]{0,6}", 1..20),
        ) {
            let ranges = cut(&prefix, hints.clone());
            // Those that the cuts are made at as well.
            for key in keys.into_iter().map(|key| format!("{prefix}{key}")).chain(hints).filter(|k| k.starts_with(&prefix)) {
                let within = |range: &&KeyRange| {
                    range.after.as_ref().is_none_or(|after| key > *after)
                        && range.through.as_ref().is_none_or(|through| key <= *through)
                };
                proptest::prop_assert_eq!(ranges.iter().filter(within).count(), 1, "{:?} in {:?}", key, ranges);
            }
        }
    }
}
