//! Divides the keys of a prefix into ranges that are listed at the same time.

use std::collections::BTreeSet;

use copyhold_core::domain::ObjectKey;
use copyhold_db::walk::KeyRange;
use copyhold_s3::store::{ListPage, ListPosition, ListQuery};

use super::{error::ListingError, lister::Lister};

/// The usual delimiter of keys.
const DELIMITER: &str = "/";
/// How many levels are searched for a place where keys differ.
const LEVELS: usize = 5;
/// Parts of one prefix at most: the smaller they are, the more even is what is listed at the same time. Each costs a
/// page that is not full.
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

/// Returns where the folders on a page end: behind all that is in one, and before what comes next, in the order of
/// bytes and in that of a file system as well, which would have all of `a/` before `a-`. Then what is out of order lies
/// within a part, and is seen.
fn ends(at: &str, page: &ListPage) -> Vec<String> {
    let folders: BTreeSet<_> = page.prefixes.iter().map(String::as_str).collect();
    let last = folders.last().copied().unwrap_or_default();
    // `a-b/` and `a/`, whose order is not the same in both.
    let is_apart = |name: &str| {
        let lower = name.bytes().enumerate().filter(|(_, byte)| *byte < b'/');
        lower.into_iter().all(|(i, _)| {
            let folder = format!("{at}{}/", &name[..i]);
            !folders.contains(folder.as_str()) && (!page.truncated || folder.as_str() < last)
        })
    };
    let names = folders.iter().filter_map(|folder| folder.strip_prefix(at)?.strip_suffix(DELIMITER));
    // The digit follows the slash.
    names.filter(|name| is_apart(name)).map(|name| format!("{at}{name}0")).collect()
}

/// The ranges of one prefix, cut where folders end according to a listing with a delimiter.
pub(super) async fn of(lister: &Lister, prefix: &str) -> Result<Vec<KeyRange>, ListingError> {
    let mut at = prefix.to_owned();
    let mut hints = Vec::new();
    for _ in 0..LEVELS {
        let asked = ListQuery { prefix: &at, delimiter: Some(DELIMITER) };
        let (page, _) = lister.page(asked, &ListPosition::First, None).await?;
        match page.prefixes.as_slice() {
            [only] if page.objects.is_empty() && !page.truncated && only.starts_with(&at) && *only != at => {
                at.clone_from(only);
            }
            _ => {
                hints = ends(&at, &page);
                break;
            }
        }
    }
    let ranges = cut(prefix, hints);
    let Some(last) = ranges.last().and_then(|range| range.after.clone()) else { return Ok(ranges) };
    // Where it is not heeded, each part would be listed from the beginning.
    let behind = ListPosition::After(last.clone());
    let (page, _) = lister.page(ListQuery { prefix, delimiter: None }, &behind, Some(last.as_bytes())).await?;
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

    #[test]
    fn a_folder_is_cut_behind_where_a_file_system_would_end_it_too() {
        let page = |folders: &[&str], truncated| ListPage {
            prefixes: folders.iter().map(|&folder| folder.to_owned()).collect(),
            truncated,
            ..ListPage::default()
        };
        assert_eq!(ends("p/", &page(&["p/a/", "p/b/"], false)), ["p/a0", "p/b0"]);
        // All of a/ would come before a-b/, and yet behind it by the bytes.
        assert_eq!(ends("", &page(&["a-b/", "a/", "c-d/"], false)), ["a0", "c-d0"]);
        // Whether there is 2024/ behind what the page has is not known; there is no 2023/.
        let dates = page(&["2023-12/", "2024-01/"], true);
        assert_eq!(ends("", &dates), ["2023-120"]);
        assert_eq!(ends("", &page(&["2023-12/", "2024-01/"], false)), ["2023-120", "2024-010"]);
        assert_eq!(ends("p/", &page(&["elsewhere/", "p/x"], false)), [""; 0]);
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
