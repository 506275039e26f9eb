//! Judges a page of objects by the rules in force, and writes what is other than they say.
//!
//! Leased rows are not passed over. Their holder writes, when it ends, about the copies that it tried and about no
//! others: what becomes wanted meanwhile is in the lane when it gives the row back, and what it has tried of that which
//! is no longer wanted is recorded if it was made, and stays unwanted if not (`queue::complete`). To wait for the
//! lease would mean to wait for the largest objects.

use copyhold_core::domain::{ObjectKey, ReplicaName};
use sqlx::{Row as _, postgres::PgRow};

use super::{
    statement::{FIGURES, NAME, Statement},
    walk::Scope,
};
use crate::queue::{Queue, QueueError, built, error::limited};

/// Objects of one statement. Most of them are only looked at.
pub(super) const PAGE: usize = 2_000;

/// Which objects are judged.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which<'a> {
    /// The next ones after this key, in the order of keys.
    After(Option<&'a ObjectKey>),
    /// Those that somebody held when they were to be written.
    These(&'a [ObjectKey]),
}

/// What a page writes of how far the walk has come.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    /// Nothing: it is not the whole judgement, or it only looks.
    Unkept,
    /// It must still stand there, and is moved on, up to the first object that could not be written.
    MovedFrom(Option<&'a ObjectKey>),
    /// It stays, because of an object before that could not be written.
    Stays,
}

/// What changes at one replica.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// Copies that become wanted and are to be made, and their bytes as far as they are known.
    pub wanted: u64,
    pub wanted_bytes: u64,
    /// Requests that making them takes, at their source and at the replica.
    pub gets: u64,
    pub puts: u64,
    /// Copies that become wanted and are on record already.
    pub wanted_there: u64,
    /// Copies that were to be made, and are not any more.
    pub unwanted: u64,
    pub unwanted_bytes: u64,
    /// Copies on record that are no longer wanted. They stay.
    pub unwanted_there: u64,
}

/// What came of some objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judged {
    pub looked: u64,
    /// Of these, how many no rule fits: they stay as they are.
    pub undecided: u64,
    /// By replica, in the queue's order.
    pub changes: Vec<Change>,
}

/// What came of a page.
#[derive(Debug)]
pub(super) enum Page {
    Done {
        judged: Judged,
        /// `None`: there was nothing more.
        last: Option<ObjectKey>,
        /// What the place is now.
        through: Option<ObjectKey>,
        skipped: Vec<ObjectKey>,
    },
    /// The rules, or the place, are others by now, or somebody is about to change them.
    Elsewhere,
}

impl Judged {
    pub(super) fn add(&mut self, other: &Self) {
        self.looked += other.looked;
        self.undecided += other.undecided;
        self.changes.resize(self.changes.len().max(other.changes.len()), Change::default());
        for (sum, one) in self.changes.iter_mut().zip(&other.changes) {
            let Change { wanted, wanted_bytes, gets, puts, wanted_there, unwanted, unwanted_bytes, unwanted_there } =
                one;
            sum.wanted += wanted;
            sum.wanted_bytes += wanted_bytes;
            sum.gets += gets;
            sum.puts += puts;
            sum.wanted_there += wanted_there;
            sum.unwanted += unwanted;
            sum.unwanted_bytes += unwanted_bytes;
            sum.unwanted_there += unwanted_there;
        }
    }
}

impl Queue {
    /// Judges some objects by the rules of this version, in one transaction of one statement. A place that is kept is
    /// moved in it.
    pub(super) async fn judge_page(
        &self,
        version: i64,
        which: Which<'_>,
        place: Place<'_>,
        scope: &Scope,
    ) -> Result<Page, QueueError> {
        let (after, these) = match which {
            Which::After(after) => (after.map_or("", ObjectKey::as_str), Vec::new()),
            Which::These(keys) => ("", keys.iter().map(ObjectKey::as_str).collect()),
        };
        let expected = match place {
            Place::MovedFrom(from) => from.map(ObjectKey::as_str),
            Place::Unkept | Place::Stays => None,
        };
        let names = |replicas: &[ReplicaName]| replicas.iter().map(ToString::to_string).collect::<Vec<_>>();
        let query = sqlx::query(built(Statement::of(self, which, place, scope).text()))
            .bind(version)
            .bind(after)
            .bind(these)
            .bind(expected)
            .bind(names(&scope.adding))
            .bind(names(&scope.dropping));
        let judge = async {
            // A crash would take back what was judged together with how far that came.
            let mut transaction = self.begin_planned(&[("synchronous_commit", "off")]).await?;
            let row = query.fetch_one(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(row)
        };
        let row = limited(NAME, Box::pin(judge)).await?;
        Page::parse(&row).map_err(QueueError::database(NAME))
    }
}

impl Page {
    fn parse(row: &PgRow) -> Result<Self, sqlx::Error> {
        if !row.try_get::<bool, _>("found")? {
            return Ok(Page::Elsewhere);
        }
        let key = |key: String| ObjectKey::new(key).map_err(|e| sqlx::Error::Decode(e.into()));
        let number = |name: &str| Ok::<_, sqlx::Error>(row.try_get::<i64, _>(name)?.unsigned_abs());
        let figures: Vec<i64> = row.try_get("figures")?;
        let change = |figures: &[i64]| {
            let [wanted, wanted_bytes, gets, puts, wanted_there, unwanted, unwanted_bytes, unwanted_there] =
                <[i64; FIGURES]>::try_from(figures).ok()?.map(i64::unsigned_abs);
            Some(Change { wanted, wanted_bytes, gets, puts, wanted_there, unwanted, unwanted_bytes, unwanted_there })
        };
        Ok(Page::Done {
            judged: Judged {
                looked: number("looked")?,
                undecided: number("undecided")?,
                changes: figures.chunks_exact(FIGURES).filter_map(change).collect(),
            },
            last: row.try_get::<Option<String>, _>("last")?.map(key).transpose()?,
            through: row.try_get::<Option<String>, _>("through")?.map(key).transpose()?,
            skipped: row.try_get::<Vec<String>, _>("skipped")?.into_iter().map(key).collect::<Result<_, _>>()?,
        })
    }
}
