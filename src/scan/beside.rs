use std::collections::VecDeque;

use copyhold_core::domain::ReplicaName;
use copyhold_db::queue::KeyRange;
use copyhold_s3::store::{ListedObject, Profile};
use tokio::time::Instant;

use super::{lister::Lister, trouble::Trouble, walk::Walk};

/// The listing of another replica, gone through beside that of the scanned one. It holds one page.
#[derive(Debug)]
pub(super) struct Beside<'a> {
    lister: &'a Lister,
    walk: Walk<'a>,
    listed: VecDeque<ListedObject>,
    asked_at: Instant,
}

impl<'a> Beside<'a> {
    pub(super) fn new(lister: &'a Lister, range: &KeyRange, reached: Option<&str>) -> Self {
        let walk = Walk::new(lister, range, reached);
        Self { lister, walk, listed: VecDeque::new(), asked_at: Instant::now() }
    }

    pub(super) fn name(&self) -> &ReplicaName {
        self.lister.name()
    }

    /// Nothing more is taken from it.
    pub(super) fn give_up(self, trouble: &Trouble) {
        self.lister.note(|notes| {
            notes.given_up.get_or_insert_with(|| trouble.to_string());
        });
    }

    /// When the listing was asked for that this shows: the same content, as surely as ETags can tell. To be asked in the order
    /// of keys. That it is not, or not the same, says nothing.
    pub(super) async fn same(&mut self, object: &ListedObject, of: &Profile) -> Result<Option<Instant>, Trouble> {
        loop {
            while self.listed.pop_front_if(|listed| listed.bytes() < object.bytes()).is_some() {}
            if let Some(listed) = self.listed.front() {
                let same = listed.bytes() == object.bytes() && is_same(object, of, listed, self.lister.profile());
                return Ok(same.then_some(self.asked_at));
            }
            if self.walk.ended() {
                return Ok(None);
            }
            let portion = self.walk.next().await?;
            (self.listed, self.asked_at) = (portion.objects.into(), portion.asked_at);
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
