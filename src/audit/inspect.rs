//! Reads one recorded copy, or asks its store about it, and returns what that shows.

use copyhold_core::domain::{
    Content, CurrentSource, EtagMatch, Failure, FailureClass, ObjectKey, RecordedSource, SourceReading, SourceVerdict,
    judge_source, utc,
};
use copyhold_s3::{
    copy::{self, ObjectReading},
    store::Tristate,
};

use super::{
    audited_replica::{AuditedReplica, PAUSE},
    counts::MatchGrade,
    metadata::Metadata,
};
use crate::worker::TimeLimit;

/// Complete readings after which none of them is relied on.
const READINGS: usize = 3;

/// One copy on record that is read.
#[derive(Debug)]
pub(super) struct Inspection<'a> {
    pub audited: &'a AuditedReplica,
    pub key: &'a ObjectKey,
    /// What the first complete read of this generation found.
    pub content: Content,
    /// µs, by the database's clock.
    pub recorded_at: i64,
    /// What is recorded of the reading that fixed the content.
    pub source: Option<&'a SourceReading>,
    /// What is on record of its metadata.
    pub metadata: Metadata<'a>,
    /// It is the primary in force: its content may be the application's.
    pub primary: bool,
    pub depth: Depth,
}

/// How much of a copy is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Depth {
    /// All its bytes, and its metadata.
    #[default]
    Bytes,
    /// What the store returns of it.
    Quick,
    /// Its metadata, at a stated rate.
    Metadata,
}

/// The result of an inspection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Observation {
    Right(MatchGrade),
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
    /// They were written there: the store's ETag is theirs.
    Written,
    /// They rotted: nothing shows that they were written.
    Rotted,
    /// An earlier state has come back.
    Restored,
    /// It cannot be decided.
    Unclear,
}

impl Inspection<'_> {
    pub(super) async fn inspect(&self) -> Observation {
        if let Some(why) = self.audited.gave_up() {
            return Observation::Unknown(Failure::new(FailureClass::Transient, why));
        }
        let seen = match self.depth {
            Depth::Bytes => self.read().await,
            Depth::Quick => self.ask().await,
            Depth::Metadata => self.compare_metadata().await,
        };
        match &seen {
            Observation::Unknown(why) if why.class.may_be_of_the_store() => self.audited.failed(why),
            Observation::Right(_)
            | Observation::Missing(_)
            | Observation::Wrong { .. }
            | Observation::OtherMetadata { .. }
            | Observation::NotCompared
            | Observation::Unknown(_) => self.audited.answered(),
        }
        seen
    }

    /// Trusts the store's answer if it confirms the record; otherwise reads the copy.
    async fn ask(&self) -> Observation {
        let store = self.audited.store();
        let stated = self
            .audited
            .with_retries(async || {
                let stated = store.stated(self.key).await;
                stated.map_err(|error| error.into_failure(format_args!("replica {}", store.name())))
            })
            .await;
        match stated {
            Ok(stated) if stated.size_bytes == self.content.size_bytes => match stated.hash {
                Some(hash) if hash == self.content.hash => {
                    self.with_metadata(stated.metadata, MatchGrade::Checksum).await
                }
                None => self.with_metadata(stated.metadata, MatchGrade::Size).await,
                Some(_) => self.read().await,
            },
            Ok(_) => self.read().await,
            Err(why) if why.class == FailureClass::Gone => self.read().await,
            Err(why) => Observation::Unknown(why),
        }
    }

    /// Reads it until two readings agree: bytes that are wrong once may have been damaged on the way.
    pub(super) async fn read(&self) -> Observation {
        let (mut others, mut gone) = (Vec::new(), false);
        for _ in 0..READINGS {
            match self.audited.with_retries(|| self.read_once()).await {
                Ok(reading) if reading.content == self.content => {
                    if !others.is_empty() {
                        self.audited.count(|counts| counts.damaged_on_the_way += 1);
                    }
                    return self.with_metadata(reading.metadata, MatchGrade::Read).await;
                }
                Ok(reading) => {
                    if let Some(before) = others.iter().find(|other: &&ObjectReading| other.content == reading.content)
                    {
                        if let Err(why) = self.is_as_stored(&reading).await {
                            return Observation::Unknown(why);
                        }
                        return self.wrong(before, &reading);
                    }
                    others.push(reading);
                }
                Err(why) if why.class == FailureClass::Gone && gone => return Observation::Missing(found(why)),
                Err(why) if why.class == FailureClass::Gone => {
                    gone = true;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(why) => return Observation::Unknown(why),
            }
        }
        let what = "each reading gives something else, so bytes are damaged on the way";
        Observation::Unknown(Failure::new(FailureClass::Corrupt, format!("replica {}: {what}", self.audited.name())))
    }

    /// Whether a proxy has compressed or decompressed what came, which mostly shows by another size.
    async fn is_as_stored(&self, reading: &ObjectReading) -> Result<(), Failure> {
        if reading.etag == EtagMatch::Confirms || reading.content.size_bytes == self.content.size_bytes {
            return Ok(());
        }
        self.audited.with_retries(|| copy::is_as_stored(self.audited.store(), self.key, reading)).await
    }

    async fn read_once(&self) -> Result<ObjectReading, Failure> {
        let audited = self.audited;
        let limit = TimeLimit::default().for_size(self.content.size_bytes);
        let read = copy::read(audited.store(), self.key, |bytes| audited.count(|counts| counts.bytes_read += bytes));
        tokio::time::timeout(limit, read).await.unwrap_or_else(|_| {
            let what = format!("not read to the end within {limit:?}");
            Err(Failure::new(FailureClass::Transient, format!("replica {}: {what}", audited.name())))
        })
    }

    /// Two readings agree on other bytes.
    fn wrong(&self, before: &ObjectReading, reading: &ObjectReading) -> Observation {
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
            let known_for_md5 = self.audited.store().etags_are_md5() == Tristate::Yes;
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
            self.audited.name(),
            utc(self.recorded_at),
            reading.content,
            self.content,
            modified.unwrap_or_default(),
        );
        Observation::Wrong { why: found(Failure::new(FailureClass::Corrupt, message)), origin }
    }
}

/// Says who has seen it.
pub(super) fn found(why: Failure) -> Failure {
    Failure { message: format!("{}; found by `copyhold verify`", why.message), ..why }
}
