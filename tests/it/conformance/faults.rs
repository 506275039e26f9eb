//! Every fault that the sandbox has, at every step of a copy, for as long as the attempt lasts.
//!
//! However it ends, it is one of two: the copy is proven and is the object, or it is not and the failure says why. What
//! is left at the store is in the journal, and the next attempt, without the fault, always succeeds.

use std::time::Duration;

use copyhold_core::domain::{Failure, FailureClass, Verified};
use copyhold_s3::copy::{Memory, read};
use copyhold_sandbox::s3::{BucketHandle, Fault, InjectedFault, Op, S3Server, Synthetic, When};
use futures::{StreamExt as _, stream};

use super::{PART_BYTES, object::Object, place::Place, stage::Stage, watched::Watched};
use crate::harness::{key, soon};

/// Copies at the same time: most of their time they wait.
const TOGETHER: usize = 24;

/// Where a copy is struck.
#[derive(Clone, Copy, Debug)]
struct At {
    side: Side,
    op: Op,
    /// Calls of the same kind that are spared before it.
    skip: u64,
    size_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Source,
    Target,
}

/// What an attempt must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    Copied,
    Fails(FailureClass),
}
use Ends::{Copied, Fails};

const SMALL: u64 = 1_000;
const TWO_PARTS: u64 = PART_BYTES + 1_000;

const READ_WHOLE: At = At { side: Side::Source, op: Op::GetObject, skip: 0, size_bytes: SMALL };
const WRITE_WHOLE: At = At { side: Side::Target, op: Op::PutObject, skip: 0, size_bytes: SMALL };
const READ_FIRST: At = At { size_bytes: TWO_PARTS, ..READ_WHOLE };
/// The first answer states the object's length; its body is not read where the parts are smaller than it.
const READ_NEXT: At = At { skip: 2, ..READ_FIRST };
const BEGIN: At = At { op: Op::CreateMultipartUpload, size_bytes: TWO_PARTS, ..WRITE_WHOLE };
const WRITE_FIRST: At = At { op: Op::UploadPart, ..BEGIN };
const WRITE_NEXT: At = At { skip: 1, ..WRITE_FIRST };
const COMPLETE: At = At { op: Op::CompleteMultipartUpload, ..BEGIN };

/// What a store may say instead of doing what it was asked.
fn answers() -> Vec<(Fault, FailureClass)> {
    vec![
        (Fault::internal_error(), FailureClass::Transient),
        (Fault::answer(502, "BadGateway"), FailureClass::Transient),
        (Fault::slow_down(), FailureClass::Throttled),
        (Fault::answer(429, "TooManyRequests"), FailureClass::Throttled),
        (Fault::access_denied(), FailureClass::Denied),
        (Fault::answer(401, "Unauthorized"), FailureClass::Denied),
        (Fault::forbidden("QuotaExceeded"), FailureClass::Full),
        (Fault::answer(507, "InsufficientStorage"), FailureClass::Full),
        (Fault::no_such_bucket(), FailureClass::Misconfigured),
        (Fault::answer(301, "PermanentRedirect"), FailureClass::Misconfigured),
        (Fault::forbidden("SignatureDoesNotMatch"), FailureClass::Misconfigured),
        (Fault::answer(400, "InvalidArgument"), FailureClass::Refused),
        (Fault::forbidden("InvalidObjectState"), FailureClass::Archived),
        (Fault::answer(400, "BadDigest"), FailureClass::Corrupt),
        (Fault::Reset, FailureClass::Transient),
    ]
}

/// What only takes longer.
fn delays() -> [Fault; 3] {
    let pace = 64 << 20;
    [
        Fault::Delay(Duration::from_millis(50)),
        Fault::Drip { bytes_per_second: pace },
        Fault::DripUpload { bytes_per_second: pace },
    ]
}

/// Those, and `more`, at one step.
async fn struck_at(at: At, more: impl IntoIterator<Item = (Fault, Ends)>) {
    let answers = answers().into_iter().map(|(fault, class)| (fault, Fails(class)));
    let all = answers.chain(delays().map(|fault| (fault, Copied))).chain(more);
    let all = stream::iter(all).map(|(fault, ends)| Box::pin(struck(at, fault, ends)));
    let failed: Vec<_> = all.buffer_unordered(TOGETHER).filter_map(async |ended| ended.err()).collect().await;
    assert!(failed.is_empty(), "at {at:?}:\n{}", failed.join("\n"));
}

#[tokio::test]
async fn whatever_happens_when_an_object_is_read_no_wrong_copy_is_proven() {
    struck_at(READ_WHOLE, of_reading()).await;
}

#[tokio::test]
async fn whatever_happens_when_a_big_object_is_opened_no_wrong_copy_is_proven() {
    let more = of_reading().into_iter().map(|(fault, ends)| match fault {
        // What is then asked for by that ETag is another object, if any.
        Fault::WrongEtag => (fault, Fails(FailureClass::Changed)),
        _ => (fault, ends),
    });
    struck_at(READ_FIRST, more.collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn whatever_happens_when_another_part_is_read_no_wrong_copy_is_proven() {
    let more = of_reading().into_iter().map(|(fault, ends)| match fault {
        // From one part to the next it is another object.
        Fault::WrongEtag => (fault, Fails(FailureClass::Changed)),
        _ => (fault, ends),
    });
    let gone = [
        // The object was there a moment ago: the next attempt asks whether it is gone.
        (Fault::answer(404, "NoSuchKey"), Fails(FailureClass::Transient)),
        (Fault::answer(412, "PreconditionFailed"), Fails(FailureClass::Changed)),
    ];
    let more = more.filter(|(fault, _)| !matches!(fault, Fault::Answer(_))).chain(gone);
    struck_at(READ_NEXT, more.collect::<Vec<_>>()).await;
}

/// What a source can do to an answer.
fn of_reading() -> Vec<(Fault, Ends)> {
    vec![
        (Fault::answer(404, "NoSuchKey"), Fails(FailureClass::Gone)),
        (Fault::LoseAnswer, Fails(FailureClass::Transient)),
        (Fault::CutBody { after: 3 }, Fails(FailureClass::Transient)),
        (Fault::ResetBody { after: 3 }, Fails(FailureClass::Transient)),
        (Fault::FlipBody { at: 7 }, Fails(FailureClass::Corrupt)),
        // It has the look of an MD5 and contradicts two readings: it is unknown which of them is right.
        (Fault::WrongEtag, Fails(FailureClass::Corrupt)),
    ]
}

#[tokio::test]
async fn whatever_happens_when_an_object_is_written_no_wrong_copy_is_proven() {
    struck_at(WRITE_WHOLE, of_writing()).await;
}

#[tokio::test]
async fn whatever_happens_when_an_upload_is_begun_no_wrong_copy_is_proven() {
    struck_at(BEGIN, [(Fault::LoseAnswer, Fails(FailureClass::Transient))]).await;
}

#[tokio::test]
async fn whatever_happens_when_the_first_part_is_written_no_wrong_copy_is_proven() {
    struck_at(WRITE_FIRST, of_parts()).await;
}

#[tokio::test]
async fn whatever_happens_when_another_part_is_written_no_wrong_copy_is_proven() {
    struck_at(WRITE_NEXT, of_parts()).await;
}

#[tokio::test]
async fn whatever_happens_when_an_upload_is_completed_no_wrong_copy_is_proven() {
    let more = [
        (Fault::answer(404, "NoSuchUpload"), Fails(FailureClass::Transient)),
        (Fault::answer(400, "InvalidPart"), Fails(FailureClass::Transient)),
        // The object is there, and a HEAD shows it.
        (Fault::LoseAnswer, Copied),
        (Fault::CutBody { after: 3 }, Copied),
        (Fault::ResetBody { after: 3 }, Copied),
        // It is read back.
        (Fault::WrongEtag, Copied),
    ];
    struck_at(COMPLETE, more).await;
}

/// What a target can do to bytes.
fn of_writing() -> Vec<(Fault, Ends)> {
    vec![
        (Fault::ResetUpload { after: 10 }, Fails(FailureClass::Transient)),
        (Fault::LoseAnswer, Fails(FailureClass::Transient)),
        (Fault::FlipArriving { at: 7 }, Fails(FailureClass::Corrupt)),
        (Fault::WrongEtag, Copied),
    ]
}

fn of_parts() -> Vec<(Fault, Ends)> {
    let mut all = of_writing();
    all.push((Fault::answer(404, "NoSuchUpload"), Fails(FailureClass::Transient)));
    // The store would complete the upload by the ETags that it knows, which are not those that it has answered.
    all.retain(|(fault, _)| !matches!(fault, Fault::WrongEtag));
    all.push((Fault::WrongEtag, Fails(FailureClass::Transient)));
    all
}

/// No copy can see damage after all its checks; the next reading does.
#[tokio::test]
async fn what_a_target_spoils_in_silence_is_found_by_reading_it() {
    for at in [WRITE_WHOLE, WRITE_NEXT] {
        let play = Play::new(at).await;
        let _order = play.order(Fault::StoreDamaged { at: 7 });
        play.attempt(false).await.unwrap();
        let target = Place::in_memory_again(&play.server).store(1).await;
        let reading = read(&target, &key(&play.object.key), |_| {}).await.unwrap();
        assert_ne!(reading.content, play.object.content());
    }
}

/// Of one process alone, since time is made to pass.
#[tokio::test]
async fn a_store_that_stands_still_is_given_up_and_the_next_attempt_copies() {
    let stalls = [READ_WHOLE, READ_NEXT, WRITE_WHOLE, BEGIN, WRITE_NEXT, COMPLETE].map(|at| (at, Fault::Stall));
    let bodies = [READ_WHOLE, READ_NEXT].map(|at| (at, Fault::StallBody { after: 3 }));
    for (at, fault) in stalls.into_iter().chain(bodies) {
        let ended = struck(at, fault, Fails(FailureClass::Transient)).await;
        assert_eq!(ended, Ok(()), "{at:?}");
    }
}

/// The clean-up that fails leaves what the journal knows.
#[tokio::test]
async fn an_upload_that_cannot_be_aborted_stays_in_the_journal() {
    for (fault, _) in answers() {
        let play = Play::new(WRITE_NEXT).await;
        let refused = play.order(Fault::answer(400, "InvalidArgument"));
        let kept = play.target.order(fault.clone(), Op::AbortMultipartUpload);
        let why = play.attempt(false).await.unwrap_err();
        assert_eq!(why.class, FailureClass::Refused, "{fault:?}: {why:?}");
        assert!(kept.strikes() > 0 && play.target.uploads().len() == 1, "{fault:?}");
        play.leaves_nothing_unknown().unwrap();
        refused.clear();
        kept.clear();
        play.heals().await.unwrap_or_else(|why| panic!("{fault:?}: {why}"));
    }
}

/// A resuming daemon first asks the store for its parts; without an answer it relies on the journal.
#[tokio::test]
async fn an_upload_is_gone_on_with_though_the_store_cannot_say_what_it_has() {
    for (fault, _) in answers() {
        let play = Play::new(WRITE_NEXT).await;
        let denied = play.order(Fault::access_denied());
        play.attempt(false).await.unwrap_err();
        denied.clear();
        let silent = play.target.order(fault.clone(), Op::ListParts);
        play.heals().await.unwrap_or_else(|why| panic!("{fault:?}: {why}"));
        assert!(silent.strikes() > 0 && play.watched.begun() == 1, "{fault:?}");
    }
}

/// One object between two buckets of a server of its own.
struct Play {
    at: At,
    server: S3Server,
    target: BucketHandle,
    stage: Stage,
    watched: Watched,
    object: Object,
}

/// Strikes one attempt, then lets another be.
async fn struck(at: At, fault: Fault, ends: Ends) -> Result<(), String> {
    let play = Play::new(at).await;
    let order = play.order(fault.clone());
    let stalls = matches!(fault, Fault::Stall | Fault::StallBody { .. });
    let ended = if stalls { play.attempt_in_no_time(&order).await } else { play.attempt(false).await };
    let judged = async {
        if order.strikes() == 0 {
            return Err("it struck nothing".into());
        }
        if matches!(&fault, Fault::Answer(answer) if answer.code == "NoSuchUpload") {
            // It is believed, and so it is made true.
            play.target.expire_uploads();
        }
        play.judge(&ended, ends)?;
        play.leaves_nothing_unknown()?;
        order.clear();
        play.heals().await
    };
    judged.await.map_err(|why: String| format!("{fault:?}: {why} (it ended as {ended:?})"))
}

impl Play {
    async fn new(at: At) -> Self {
        let server = S3Server::start().await.unwrap();
        let stage = Stage::at(&Place::in_memory(&server)).await;
        let object = Object::new("k", Synthetic::new(1, at.size_bytes));
        server.bucket("source").put_synthetic(&object.key, object.bytes);
        Self { at, target: server.bucket("target"), server, stage, watched: Watched::new(), object }
    }

    fn order(&self, fault: Fault) -> InjectedFault {
        let bucket = match self.at.side {
            Side::Source => self.server.bucket("source"),
            Side::Target => self.target.clone(),
        };
        let when = When::op(self.at.op).skip(self.at.skip);
        // A source that answers the same wrong bytes each time cannot be distinguished from one whose ETags are no MD5s.
        let once = matches!(fault, Fault::FlipBody { .. }) && self.at.size_bytes == SMALL;
        bucket.order(fault, if once { when.next(1) } else { when })
    }

    async fn attempt(&self, again: bool) -> Result<Verified, Failure> {
        let memory = Memory::new(64 << 20);
        let attempt = self.stage.attempt(&self.object, &self.watched, &memory, again);
        soon("the attempt ends", Box::pin(attempt)).await
    }

    /// Lets the time pass that is given to who stands still.
    async fn attempt_in_no_time(&self, order: &InjectedFault) -> Result<Verified, Failure> {
        let memory = Memory::new(64 << 20);
        let attempt = Box::pin(self.stage.attempt(&self.object, &self.watched, &memory, false));
        let skip = async {
            order.struck(1).await;
            tokio::time::pause();
        };
        let (ended, ()) = tokio::join!(attempt, skip);
        tokio::time::resume();
        ended
    }

    fn judge(&self, ended: &Result<Verified, Failure>, ends: Ends) -> Result<(), String> {
        let there = self.target.inspect(&self.object.key).map(|there| there.content);
        match (ended, ends) {
            (Ok(_), Copied) if there == Some(self.object.content()) => Ok(()),
            (Ok(_), _) => Err(format!("{ends:?} was expected, and the target holds {there:?}")),
            (Err(why), Fails(class)) if why.class == class => self.can_be_read(why),
            (Err(_), _) => Err(format!("{ends:?} was expected")),
        }
    }

    /// Which side it was, in one line.
    fn can_be_read(&self, why: &Failure) -> Result<(), String> {
        let whose = match self.at.side {
            Side::Source => "source source: ",
            Side::Target => "target target: ",
        };
        let told = &why.message;
        let is_clear = told.starts_with(whose) && told.len() > whose.len() + 10 && !told.contains(['\n', '<']);
        if is_clear { Ok(()) } else { Err("the message is not clear".into()) }
    }

    /// Each upload at the target is one of the journal's, or one that it intended and whose name no answer brought.
    fn leaves_nothing_unknown(&self) -> Result<(), String> {
        let open: Vec<_> = self.watched.notebook.all().into_iter().filter(|page| !page.over).collect();
        let is_intended = open.iter().any(|page| page.upload.is_none());
        for left in self.target.uploads() {
            let is_known = open.iter().any(|page| page.upload.as_ref().is_some_and(|id| id.as_str() == left.id));
            if !is_known && !is_intended {
                return Err(format!("upload {} is left behind and not in the journal", left.id));
            }
        }
        Ok(())
    }

    /// The next attempt copies.
    async fn heals(&self) -> Result<(), String> {
        let mut ended = self.attempt(true).await;
        // What was written down of an upload that is of no use shows only at its end: it is begun anew once more.
        if ended.as_ref().is_err_and(|why| why.class == FailureClass::Transient) {
            ended = self.attempt(true).await;
        }
        ended.map_err(|why| format!("it does not heal: {why:?}"))?;
        let there = self.target.inspect(&self.object.key).map(|there| there.content);
        if there != Some(self.object.content()) {
            return Err(format!("healed, the target holds {there:?}"));
        }
        self.leaves_nothing_unknown()
    }
}
