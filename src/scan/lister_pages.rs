//! Lists one range page by page, and checks that its keys rise.

use copyhold_db::walk::KeyRange;
use copyhold_s3::store::{ListPage, ListPosition, ListQuery, ListedObject, is_of_a_probe, shown};
use tokio::time::Instant;

use super::{error::ListingError, lister::Lister};

/// Pages without a key that may follow one another. A page passes over a thousand hidden entries or more (delete
/// markers, say), so that a million in a row are still passed over; at the usual pace these pages take 20 s.
pub(super) const EMPTY_PAGES: u64 = 1_000;

/// Reads the keys of one range of a bucket, page by page, and checks that they rise.
#[derive(Debug)]
pub(super) struct ListerPages<'a> {
    lister: &'a Lister,
    range: KeyRange,
    place: ListPosition,
    /// The last key that was listed, in the range or not.
    previous: Option<Vec<u8>>,
    /// Pages in a row without a key, and the place behind one of them: a store that returns to it lists in a circle.
    empty: u64,
    met: Option<ListPosition>,
    ended: bool,
}

/// The part of a page that lies in the range.
#[derive(Debug)]
pub(super) struct RangePage {
    /// Rising, and behind all those before.
    pub objects: Vec<ListedObject>,
    /// When the page was requested.
    pub asked_at: Instant,
    /// It is the last one.
    pub done: bool,
}

impl<'a> ListerPages<'a> {
    /// From behind `reached`, which lies in the range; `None`: from its beginning.
    pub(super) fn new(lister: &'a Lister, range: &KeyRange, reached: Option<&str>) -> Self {
        let after = reached.map(str::to_owned).or_else(|| range.after.clone());
        let place = after.clone().map_or(ListPosition::First, ListPosition::After);
        let range = KeyRange { after, ..range.clone() };
        Self { lister, range, place, previous: None, empty: 0, met: None, ended: false }
    }

    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// The next page; of nothing, where there are only keys that listings hide.
    pub(super) async fn next(&mut self) -> Result<RangePage, ListingError> {
        let asked = ListQuery { prefix: &self.range.prefix, delimiter: None };
        let behind = self.previous.as_deref().or(self.range.after.as_deref().map(str::as_bytes));
        let (page, asked_at) = self.lister.page(asked, &self.place, behind).await?;
        if let Some(prefix) = page.prefixes.first() {
            return Err(ListingError::Folders { prefix: shown(prefix.as_bytes()) });
        }
        let next = self.next_place(&page).and_then(|next| self.never_met(next, page.objects.is_empty()));
        // A store that repeats itself may well name the same place again: the repetition is the clearer error.
        let (objects, beyond) = self.pick(page.objects)?;
        match next? {
            Some(place) if !beyond => self.place = place,
            _ => self.ended = true,
        }
        Ok(RangePage { objects, asked_at, done: self.ended })
    }

    fn next_place(&self, page: &ListPage) -> Result<Option<ListPosition>, ListingError> {
        if !page.truncated {
            return Ok(None);
        }
        let next = match (&page.next, page.objects.last().map(|last| &last.key)) {
            (Some(token), _) => ListPosition::Token(token.clone()),
            (None, Some(Ok(last))) => ListPosition::After(last.as_str().to_owned()),
            (None, Some(Err(_))) => {
                return Err(ListingError::NoNext("no token, behind a key that cannot be asked for"));
            }
            (None, None) => return Err(ListingError::NoNext("no token, on a page without keys")),
        };
        if next == self.place {
            return Err(ListingError::NoNext("the place that this page was asked for at"));
        }
        Ok(Some(next))
    }

    /// Of pages without keys, which show no order, sees that they do not lead back to one of them, nor on for ever. One
    /// place is held, and replaced after 1, 2, 4, … pages: a circle of any length comes to it while it is.
    fn never_met(&mut self, next: Option<ListPosition>, empty: bool) -> Result<Option<ListPosition>, ListingError> {
        if !empty {
            (self.empty, self.met) = (0, None);
        } else if next.is_some() && next == self.met {
            return Err(ListingError::Circle);
        } else if next.is_some() && self.empty + 1 >= EMPTY_PAGES {
            return Err(ListingError::Empty { pages: EMPTY_PAGES });
        } else {
            self.empty += 1;
            if self.empty.is_power_of_two() {
                self.met.clone_from(&next);
            }
        }
        Ok(next)
    }

    /// Those of the range, and whether the page has gone beyond it. Not every store heeds prefixes, or where it was to
    /// begin.
    ///
    /// Objects that a probe had to leave behind are left out: they are not to be copied. Also what lies beyond the
    /// range must be in order: or else keys of the range may lie behind it.
    fn pick(&mut self, listed: Vec<ListedObject>) -> Result<(Vec<ListedObject>, bool), ListingError> {
        let (prefix, after) = (self.range.prefix.as_bytes(), self.range.after.as_deref().map(str::as_bytes));
        let through = self.range.through.as_deref().map(str::as_bytes);
        let (mut objects, mut beyond) = (Vec::with_capacity(listed.len()), false);
        for (i, object) in listed.into_iter().enumerate() {
            let key = object.bytes();
            if let Some(previous) = self.previous.as_deref().filter(|previous| key <= *previous) {
                return Err(match &self.place {
                    ListPosition::Token(_) if i == 0 => ListingError::Repeats { key: shown(key) },
                    _ => ListingError::OutOfOrder { later: shown(previous), key: shown(key) },
                });
            }
            self.previous = Some(key.to_vec());
            if after.is_some_and(|after| key <= after) {
                self.lister.note(|notes| notes.ignores_start_after = true);
            } else if !key.starts_with(prefix) {
                beyond |= key > prefix;
            } else if through.is_some_and(|through| key > through) {
                beyond = true;
            } else if !is_of_a_probe(key) {
                objects.push(object);
            }
        }
        Ok((objects, beyond))
    }
}
