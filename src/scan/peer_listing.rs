//! The listing of another replica, compared with that of the scanned one key by key.

use std::collections::VecDeque;

use copyhold_core::domain::ReplicaName;
use copyhold_db::walk::KeyRange;
use copyhold_s3::store::{ListedObject, Profile};
use tokio::time::Instant;

use super::{error::ListingError, lister::Lister, lister_pages::ListerPages};

/// The listing of another replica, read in parallel with that of the scanned one. It holds one page.
#[derive(Debug)]
pub(super) struct PeerListing<'a> {
    lister: &'a Lister,
    pages: ListerPages<'a>,
    listed: VecDeque<ListedObject>,
    asked_at: Instant,
}

impl<'a> PeerListing<'a> {
    pub(super) fn new(lister: &'a Lister, range: &KeyRange, reached: Option<&str>) -> Self {
        let pages = ListerPages::new(lister, range, reached);
        Self { lister, pages, listed: VecDeque::new(), asked_at: Instant::now() }
    }

    pub(super) fn name(&self) -> &ReplicaName {
        self.lister.name()
    }

    /// It is not used any more.
    pub(super) fn give_up(self, error: &ListingError) {
        self.lister.note(|notes| {
            notes.given_up.get_or_insert_with(|| error.to_string());
        });
    }

    /// Returns when the listing was requested that shows the same content, as surely as ETags can show it. Call it in
    /// the order of keys. `None` proves nothing.
    pub(super) async fn same(&mut self, object: &ListedObject, of: &Profile) -> Result<Option<Instant>, ListingError> {
        loop {
            while self.listed.pop_front_if(|listed| listed.bytes() < object.bytes()).is_some() {}
            if let Some(listed) = self.listed.front() {
                let same = listed.bytes() == object.bytes() && is_same(object, of, listed, self.lister.profile());
                return Ok(same.then_some(self.asked_at));
            }
            if self.pages.ended() {
                return Ok(None);
            }
            let page = self.pages.next().await?;
            (self.listed, self.asked_at) = (page.objects.into(), page.asked_at);
        }
    }
}

fn is_same(one: &ListedObject, of: &Profile, other: &ListedObject, of_other: &Profile) -> bool {
    let (Some(etag), Some(other_etag)) = (&one.etag, &other.etag) else { return false };
    one.size_bytes.is_some()
        && one.size_bytes == other.size_bytes
        && etag.equals(other_etag)
        && of.etag_speaks_of_content(etag)
        && of_other.etag_speaks_of_content(other_etag)
}
