//! The next holder of an object resumes the multipart upload of the one before.

use std::{sync::Arc, time::Duration};

use copyhold::worker::{self, Journals};
use copyhold_core::domain::Lease;
use copyhold_s3::{
    copy::{Journal, ResumableUpload, UploadShape, UploadedPart},
    store::{ETag, Md5, UploadId},
};
use copyhold_sandbox::postgres::{Cluster, Options};
use tokio::task::JoinHandle;

use crate::harness::{Harness, replica, soon};

const PART_BYTES: u64 = 16 << 20;

fn shape() -> UploadShape {
    UploadShape { size_bytes: 3 * PART_BYTES + 1, part_bytes: PART_BYTES, origin: "b2 \"5d41402a\"".into() }
}

fn part(number: u32) -> UploadedPart {
    let byte = u8::try_from(number % 256).unwrap();
    UploadedPart {
        number,
        etag: ETag::new(format!("\"{number:032x}\"")),
        md5: Md5([byte; 16]),
        crc: u64::MAX - u64::from(number),
    }
}

fn upload(name: &str) -> UploadId {
    UploadId::new(name)
}

/// A process's memory of uploads; its recorder ends when the journals are dropped.
fn journals(harness: &Harness) -> (Journals, JoinHandle<()>) {
    let (journals, recorder) = worker::journals(harness.queue().uploads());
    (journals, tokio::spawn(recorder.run()))
}

async fn leased(harness: &Harness, name: &str) -> Lease {
    harness.insert(name).await;
    let daemon = harness.enlist(60).await;
    harness.claim(&daemon, "wasabi", 1).await.remove(0)
}

/// An upload of these parts, all written down.
async fn remembered(journal: &Arc<dyn Journal>, to: &str, name: &str, parts: &[u32]) -> copyhold_s3::copy::UploadEntry {
    let entry = journal.intend(&replica(to), &shape()).await;
    journal.began(entry, &upload(name)).await;
    for number in parts {
        journal.part(entry, part(*number));
    }
    soon("all is written", journal.settle()).await;
    entry
}

const ROWS: &str =
    "SELECT ((SELECT count(*) FROM copyhold.multipart_uploads), (SELECT count(*) FROM copyhold.multipart_parts))";

#[tokio::test]
async fn the_next_holder_finds_what_the_store_answered_the_one_before() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "film").await;
    let (before, recorder) = journals(&harness);
    let journal = before.of(&lease);
    // As recorded, in any order, and one of them again with another answer.
    let entry = remembered(&journal, "wasabi", "a/b+c==", &[3, 1, 7]).await;
    let again = UploadedPart { etag: ETag::new("\"again\""), ..part(1) };
    journal.part(entry, again.clone());
    let other = remembered(&journal, "scw", "\u{202e}é", &[]).await;
    drop((journal, before));
    soon("the recorder ends when it is needed no more", recorder).await.unwrap();

    let (after, _recorder) = journals(&harness);
    let found = after.of(&lease).unfinished().await;
    let unfinished = |entry, to: &str, name: &str, parts| ResumableUpload {
        entry,
        replica: replica(to),
        shape: shape(),
        upload: upload(name),
        parts,
    };
    assert_eq!(
        found,
        [
            unfinished(entry, "wasabi", "a/b+c==", vec![again, part(3), part(7)]),
            unfinished(other, "scw", "\u{202e}é", Vec::new()),
        ]
    );
}

#[tokio::test]
async fn an_upload_that_is_over_is_forgotten_and_its_late_parts_do_no_harm() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "film").await;
    let (all, recorder) = journals(&harness);
    let journal = all.of(&lease);
    let over = remembered(&journal, "wasabi", "one", &[1, 2]).await;
    let goes_on = remembered(&journal, "scw", "two", &[1]).await;
    journal.part(over, part(3));
    journal.over(over);
    journal.part(over, part(4));
    journal.part(goes_on, part(2));
    soon("nothing is left to be written", journal.settle()).await;
    harness.until("SELECT count(*) = 1 FROM copyhold.multipart_uploads").await;
    // And when the journal has no row of it any more.
    journal.part(over, part(5));
    journal.part(goes_on, part(3));
    drop((journal, all));
    recorder.await.unwrap();
    assert_eq!(harness.value(ROWS).await.unwrap(), "(1,3)");
}

#[tokio::test]
async fn no_copy_resumes_an_upload_of_another_content_or_without_a_name() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "film").await;
    let (all, _recorder) = journals(&harness);
    let journal = all.of(&lease);
    remembered(&journal, "wasabi", "old", &[1]).await;
    journal.intend(&replica("scw"), &shape()).await;
    assert_eq!(journal.unfinished().await.len(), 1);
    harness.value("SELECT copyhold.register('film')").await;
    harness.execute("UPDATE copyhold.object_copies SET lock = NULL, lease = NULL").await;
    let again = harness.claim(&harness.enlist(60).await, "wasabi", 1).await.remove(0);
    assert_eq!(all.of(&again).unfinished().await, []);
}

#[tokio::test]
async fn of_two_uploads_to_one_replica_the_later_is_gone_on_with() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "film").await;
    let (all, _recorder) = journals(&harness);
    let journal = all.of(&lease);
    remembered(&journal, "wasabi", "first", &[1, 2]).await;
    let second = remembered(&journal, "wasabi", "second", &[1]).await;
    // An upload whose name no answer brought takes no other's place.
    journal.intend(&replica("wasabi"), &shape()).await;
    let found = journal.unfinished().await;
    assert_eq!(found.iter().map(|u| u.entry).collect::<Vec<_>>(), [second]);
}

#[tokio::test]
async fn what_a_store_says_that_cannot_be_kept_keeps_nothing_else_from_being_written() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "film").await;
    let (all, _recorder) = journals(&harness);
    let journal = all.of(&lease);
    let odd = UploadShape { origin: "b2 \0".into(), ..shape() };
    let entry = soon("the intent", journal.intend(&replica("wasabi"), &odd)).await;
    for impossible in ["\0".to_owned(), "x".repeat(5_000), String::new()] {
        soon("it is given up", journal.began(entry, &upload(&impossible))).await;
    }
    assert_eq!(journal.unfinished().await, []);
    journal.began(entry, &upload("fine")).await;
    for (number, etag) in
        [(1, "\"one\"".to_owned()), (2, "\0".to_owned()), (3, "y".repeat(2_000)), (4, "\"four\"".to_owned())]
    {
        journal.part(entry, UploadedPart { etag: ETag::new(etag), ..part(number) });
    }
    soon("what can be written is", journal.settle()).await;
    let found = journal.unfinished().await;
    assert_eq!(found[0].parts.iter().map(|p| p.number).collect::<Vec<_>>(), [1, 4]);
}

#[tokio::test]
async fn a_locked_row_delays_no_other() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "film").await;
    let (all, _recorder) = journals(&harness);
    let (journal, other) = (all.of(&lease), all.of(&lease));
    let held = remembered(&journal, "wasabi", "held", &[]).await;
    let free = remembered(&other, "scw", "free", &[]).await;
    let gone = remembered(&other, "b2", "gone", &[1]).await;
    let mut locking = harness.pool.begin().await.unwrap();
    let lock = sqlx::query("SELECT * FROM copyhold.multipart_uploads WHERE upload_id = 'held' FOR UPDATE");
    lock.execute(&mut *locking).await.unwrap();
    journal.part(held, part(1));
    other.part(free, part(1));
    other.over(gone);
    soon("the other's part is written", other.settle()).await;
    harness.until("SELECT count(*) = 2 FROM copyhold.multipart_uploads").await;
    assert_eq!(harness.value(ROWS).await.unwrap(), "(2,1)");
    locking.commit().await.unwrap();
    soon("then this one's", journal.settle()).await;
    assert_eq!(harness.value(ROWS).await.unwrap(), "(2,2)");
}

#[tokio::test]
async fn parts_that_were_reported_while_the_database_was_unavailable_are_written_when_it_is_back() {
    let mut cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.create_database("app", None).await.unwrap();
    let harness = Harness::at(cluster.url("app"), "").await;
    copyhold_db::schema::migrate(&harness.config).await.unwrap();
    let lease = leased(&harness, "film").await;
    let (all, _recorder) = journals(&harness);
    let journal = all.of(&lease);
    let entry = remembered(&journal, "wasabi", "one", &[1]).await;
    let over = remembered(&journal, "b2", "over", &[]).await;
    cluster.kill_server().await.unwrap();
    journal.part(entry, part(2));
    journal.over(over);
    // No caller is told that it is written, and none gets a number for an upload that is not.
    let (to, shape) = (replica("scw"), shape());
    let asks = async {
        tokio::select! {
            () = journal.settle() => panic!("settled"),
            _ = journal.unfinished() => panic!("answered"),
            _ = journal.intend(&to, &shape) => panic!("written"),
        }
    };
    assert!(tokio::time::timeout(Duration::from_millis(500), asks).await.is_err());
    cluster.restart().await.unwrap();
    soon("it is written", journal.settle()).await;
    let second = soon("and so is what is asked now", journal.intend(&to, &shape)).await;
    soon("its name too", journal.began(second, &upload("two"))).await;
    harness.until("SELECT NOT EXISTS (SELECT FROM copyhold.multipart_uploads WHERE upload_id = 'over')").await;
    let found = journal.unfinished().await;
    let parts = found.iter().map(|u| (u.upload.as_str(), u.parts.len())).collect::<Vec<_>>();
    assert_eq!(parts, [("one", 2), ("two", 0)]);
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn the_largest_upload_there_is_can_be_remembered() {
    const PARTS: u32 = 10_000;
    let harness = Harness::new().await;
    let lease = leased(&harness, "film").await;
    let (all, recorder) = journals(&harness);
    let journal = all.of(&lease);
    let mut took = vec![std::time::Instant::now()];
    let numbers: Vec<u32> = (1..=PARTS).collect();
    let entry = remembered(&journal, "wasabi", "long", &numbers).await;
    took.push(std::time::Instant::now());
    let found = journal.unfinished().await;
    took.push(std::time::Instant::now());
    assert!(found[0].parts == numbers.into_iter().map(part).collect::<Vec<_>>(), "all of them, in order");
    journal.over(entry);
    drop((journal, all));
    recorder.await.unwrap();
    assert_eq!(harness.value(ROWS).await.unwrap(), "(0,0)");
    took.push(std::time::Instant::now());
    // Shown with --nocapture.
    let [wrote, read, forgot] = [0, 1, 2].map(|i| took[i + 1].duration_since(took[i]));
    println!("{PARTS} parts: written in {wrote:?}, read in {read:?}, forgotten in {forgot:?}");
}

#[tokio::test]
async fn a_holder_that_is_stopped_in_the_middle_loses_no_part_that_was_settled() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "film").await;
    let (all, recorder) = journals(&harness);
    let journal = all.of(&lease);
    let entry = remembered(&journal, "wasabi", "one", &[1, 2]).await;
    // As kill -9 does: parts recorded from now on may be lost.
    journal.part(entry, part(3));
    recorder.abort();
    let (after, _recorder) = journals(&harness);
    let found = after.of(&lease).unfinished().await;
    assert_eq!(found[0].parts[..2], [part(1), part(2)]);
    // No caller waits for ever for a recorder that is gone.
    let _ = recorder.await;
    journal.part(entry, part(4));
    soon("what cannot be written is not waited for", journal.settle()).await;
    assert_eq!(found[0].upload, upload("one"));
}
