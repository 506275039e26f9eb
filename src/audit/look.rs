//! Reads one recorded copy, or asks its store about it, and says what that shows.

use copyhold_core::domain::{
    Content, CurrentSource, EtagMatch, Failure, FailureClass, ObjectKey, RecordedSource, SourceReading, SourceVerdict,
    judge_source, utc,
};
use copyhold_s3::{
    copy::{self, ObjectReading},
    store::Tristate,
};

use super::{
    metadata::Metadata,
    subject::{PAUSE, Subject},
    tally::Grade,
};
use crate::worker::Allowance;

/// Complete readings until it is concluded that none of them is to be relied on.
const READINGS: usize = 3;

/// One copy on record that is looked into.
#[derive(Debug)]
pub(super) struct Look<'a> {
    pub subject: &'a Subject,
    pub key: &'a ObjectKey,
    /// What the first complete read of this generation found.
    pub content: Content,
    /// µs, by the database's clock.
    pub recorded_at: i64,
    /// What is kept of the reading that fixed the content.
    pub source: Option<&'a SourceReading>,
    /// What is on record of its metadata.
    pub metadata: Metadata<'a>,
    /// It is the primary in force: what stands there may be the application's.
    pub primary: bool,
    pub depth: Depth,
}

/// How much of a copy is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Depth {
    /// All its bytes, and its metadata.
    #[default]
    Bytes,
    /// What the store says of it.
    Quick,
    /// Its metadata, at a stated rate.
    Metadata,
}

/// What it has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    Right(Grade),
    /// Asked twice, the store does not have it.
    Missing(Failure),
    /// Two readings agree on other bytes.
    Wrong {
        why: Failure,
        origin: Origin,
    },
    /// It has the size on record, and other metadata in two answers.
    OtherMetadata {
        why: Failure,
        origin: Origin,
    },
    /// It has the size on record, and nothing is on record of its metadata.
    NotCompared,
    /// Nothing: it could not be read.
    Unknown(Failure),
}

/// How other bytes came to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Somebody wrote them: the store's ETag is theirs.
    Written,
    /// They rotted: nothing says that they were written.
    Rotted,
    /// An earlier state has come back.
    Restored,
    /// Nobody can tell.
    Unclear,
}

impl Look<'_> {
    pub(super) async fn look(&self) -> Seen {
        if let Some(why) = self.subject.gave_up() {
            return Seen::Unknown(Failure::new(FailureClass::Transient, why));
        }
        let seen = match self.depth {
            Depth::Bytes => self.read().await,
            Depth::Quick => self.ask().await,
            Depth::Metadata => self.compare_metadata().await,
        };
        match &seen {
            Seen::Unknown(why) if why.class.may_be_of_the_store() => self.subject.failed(why),
            Seen::Right(_)
            | Seen::Missing(_)
            | Seen::Wrong { .. }
            | Seen::OtherMetadata { .. }
            | Seen::NotCompared
            | Seen::Unknown(_) => self.subject.answered(),
        }
        seen
    }

    /// Takes the store's word where it is good news; anything else is looked into.
    async fn ask(&self) -> Seen {
        let store = self.subject.store();
        let stated = self
            .subject
            .patiently(async || {
                let stated = store.stated(self.key).await;
                stated.map_err(|error| error.into_failure(format_args!("replica {}", store.name())))
            })
            .await;
        match stated {
            Ok(stated) if stated.size_bytes == self.content.size_bytes => match stated.hash {
                Some(hash) if hash == self.content.hash => self.with_metadata(stated.metadata, Grade::Checksum).await,
                None => self.with_metadata(stated.metadata, Grade::Size).await,
                Some(_) => self.read().await,
            },
            Ok(_) => self.read().await,
            Err(why) if why.class == FailureClass::Gone => self.read().await,
            Err(why) => Seen::Unknown(why),
        }
    }

    /// Reads it until two readings say the same: what comes wrong once may have been damaged on the way.
    pub(super) async fn read(&self) -> Seen {
        let (mut others, mut gone) = (Vec::new(), false);
        for _ in 0..READINGS {
            match self.subject.patiently(|| self.read_once()).await {
                Ok(reading) if reading.content == self.content => {
                    if !others.is_empty() {
                        self.subject.count(|tally| tally.damaged_on_the_way += 1);
                    }
                    return self.with_metadata(reading.metadata, Grade::Read).await;
                }
                Ok(reading) => {
                    if let Some(before) = others.iter().find(|other: &&ObjectReading| other.content == reading.content)
                    {
                        if let Err(why) = self.is_as_stored(&reading).await {
                            return Seen::Unknown(why);
                        }
                        return self.wrong(before, &reading);
                    }
                    others.push(reading);
                }
                Err(why) if why.class == FailureClass::Gone && gone => return Seen::Missing(found(why)),
                Err(why) if why.class == FailureClass::Gone => {
                    gone = true;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(why) => return Seen::Unknown(why),
            }
        }
        let what = "each reading gives something else, so bytes are damaged on the way";
        Seen::Unknown(Failure::new(FailureClass::Corrupt, format!("replica {}: {what}", self.subject.name())))
    }

    /// Whether a proxy has compressed or decompressed what came, which mostly shows by another size.
    async fn is_as_stored(&self, reading: &ObjectReading) -> Result<(), Failure> {
        if reading.etag == EtagMatch::Confirms || reading.content.size_bytes == self.content.size_bytes {
            return Ok(());
        }
        self.subject.patiently(|| copy::is_as_stored(self.subject.store(), self.key, reading)).await
    }

    async fn read_once(&self) -> Result<ObjectReading, Failure> {
        let subject = self.subject;
        let limit = Allowance::default().of(self.content.size_bytes);
        let read = copy::read(subject.store(), self.key, |bytes| subject.count(|tally| tally.bytes_read += bytes));
        tokio::time::timeout(limit, read).await.unwrap_or_else(|_| {
            let what = format!("not read to the end within {limit:?}");
            Err(Failure::new(FailureClass::Transient, format!("replica {}: {what}", subject.name())))
        })
    }

    /// Two readings agree on other bytes.
    fn wrong(&self, before: &ObjectReading, reading: &ObjectReading) -> Seen {
        let mut said = reading.said.clone();
        let mut etag = reading.etag;
        if before.said.tag != said.tag {
            said.tag = None;
            if etag == EtagMatch::Contradicts {
                etag = EtagMatch::SaysNothing;
            }
        }
        let words_of_etag = match etag {
            EtagMatch::Confirms => "its ETag is theirs, so they were written there",
            EtagMatch::Contradicts => "its ETag is that of other bytes, so they were not written like this",
            EtagMatch::SaysNothing => "its ETag does not tell whether they were written like this",
        };
        let modified = said.modified_us.map(|at| format!(", last modified {}", utc(at)));
        let (origin, tag) = if self.primary {
            let kept = RecordedSource { reading: self.source.cloned(), recorded_us: Some(self.recorded_at) };
            let known_for_md5 = self.subject.store().etags_are_md5() == Tristate::Yes;
            let verdict = judge_source(&kept, &CurrentSource { reading: said, etag, known_for_md5 });
            let origin = match verdict {
                SourceVerdict::Changed => Origin::Written,
                SourceVerdict::Stale => Origin::Restored,
                SourceVerdict::Corrupt => Origin::Rotted,
                SourceVerdict::Undecided => Origin::Unclear,
            };
            (origin, format!("{}; {words_of_etag}", verdict.words()))
        } else {
            let origin = if etag == EtagMatch::Confirms { Origin::Written } else { Origin::Unclear };
            (origin, words_of_etag.to_owned())
        };
        let message = format!(
            "replica {}: its copy has other bytes than were recorded {}, the same in two readings ({} instead of {}{}): {tag}",
            self.subject.name(),
            utc(self.recorded_at),
            reading.content,
            self.content,
            modified.unwrap_or_default(),
        );
        Seen::Wrong { why: found(Failure::new(FailureClass::Corrupt, message)), origin }
    }
}

/// Says who has seen it.
pub(super) fn found(why: Failure) -> Failure {
    Failure { message: format!("{}; found by `copyhold verify`", why.message), ..why }
}
