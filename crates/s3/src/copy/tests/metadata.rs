//! Which metadata copies get, and whether their stores keep it.

use copyhold_core::domain::MetadataHash;
use copyhold_sandbox::s3::{InjectedFault, Metadata, Op, When};

use super::*;

const SIZES: [(&str, usize); 2] = [("small", 1_000), ("big", 17 << 20)];

/// What a first copy, to other, has put on record.
struct Recorded {
    content: Content,
    metadata: MetadataHash,
    kept: RecordedSource,
}

fn plain() -> Metadata {
    Metadata::none().with("content-type", "text/plain")
}

fn css() -> Metadata {
    Metadata::none().with("content-type", "text/css")
}

async fn recorded(s: &Setup, key: &str, size: usize) -> Recorded {
    s.b2.put_with(key, vec![7; size], plain());
    s.server.create_bucket("other", BucketOptions::default());
    let told = s.copy(&Job { targets: vec![s.target("other").await], ..s.job(key).await }).await;
    Recorded {
        content: told.read().unwrap(),
        metadata: told.described().unwrap(),
        kept: RecordedSource { reading: told.said(), recorded_us: Some(0) },
    }
}

impl Told {
    fn described(&self) -> Option<MetadataHash> {
        self.steps.iter().find_map(|step| match step {
            CopyStep::Described { metadata, .. } => Some(*metadata),
            _ => None,
        })
    }
}

/// To wasabi, from b2, which is the primary, and from these.
async fn job(s: &Setup, key: &str, recorded: &Recorded, others: &[&str]) -> Job {
    let mut job = s.job(key).await;
    job.primary = Some(Arc::clone(&job.sources[0].store));
    for other in others {
        job.sources.push(Source { store: s.store(other).await, recorded: true, primary: false });
    }
    let (content, metadata) = (Some(recorded.content), Some(recorded.metadata));
    Job { content, metadata, kept: recorded.kept.clone(), targets: vec![s.target("wasabi").await], ..job }
}

fn type_at(bucket: &BucketHandle, key: &str) -> String {
    bucket.inspect(key).unwrap().metadata.get("content-type").unwrap().to_owned()
}

fn write_again(s: &Setup, key: &str, size: usize, metadata: Metadata, seconds: u64) {
    s.b2.put_with(key, vec![7; size], metadata);
    let modified = s.b2.inspect(key).unwrap().modified;
    s.b2.set_modified(key, modified + Duration::from_secs(seconds));
}

#[tokio::test]
async fn a_copy_from_another_replica_gets_the_metadata_that_the_primary_still_tells() {
    let s = Setup::new().await;
    for (key, size) in SIZES {
        let known = recorded(&s, key, size).await;
        s.scw.put_with(key, vec![7; size], css());
        // As where the primary's copy is archived.
        let order = s.b2.order(Fault::forbidden("InvalidObjectState"), When::op(Op::GetObject));
        let told = s.copy(&job(&s, key, &known, &["scw"]).await).await;
        assert_eq!(told.of("wasabi"), Ok(Verified::Compared), "{key} {told:?}");
        assert_eq!((type_at(&s.wasabi, key).as_str(), told.described()), ("text/plain", None), "{key}");
        order.clear();
    }
}

#[tokio::test]
async fn metadata_that_is_not_on_record_is_copied_from_no_other_replica() {
    let s = Setup::new().await;
    for (key, size) in SIZES {
        let known = recorded(&s, key, size).await;
        s.scw.put_with(key, vec![7; size], css());
        let _order: InjectedFault = s.b2.order(Fault::access_denied(), When::always());
        let alone = job(&s, key, &known, &["scw"]).await;
        let told = s.copy(&alone).await;
        assert_eq!(told.sources_failed()[1], ("scw", FailureClass::Transient), "{key}");
        assert!(told.of("wasabi").is_err() && s.wasabi.inspect(key).is_none(), "{key} {told:?}");
        assert!(told.stale().is_empty(), "{key}: its bytes are right");
        // The next has what is on record.
        let told = s.copy(&job(&s, key, &known, &["scw", "other"]).await).await;
        assert_eq!((told.of("wasabi"), type_at(&s.wasabi, key).as_str()), (Ok(Verified::Compared), "text/plain"));
        s.wasabi.delete(key);
        // Nothing is on record of it.
        let told = s.copy(&Job { metadata: None, ..alone }).await;
        assert!(told.of("wasabi").is_ok(), "{key} {told:?}");
        s.b2.clear_faults();
    }
    assert!(s.leaves_no_upload());
}

#[tokio::test]
async fn other_metadata_that_was_written_later_at_the_primary_is_a_change() {
    let s = Setup::new().await;
    for (key, size) in SIZES {
        let known = recorded(&s, key, size).await;
        write_again(&s, key, size, css(), 5);
        let told = s.copy(&job(&s, key, &known, &["other"]).await).await;
        assert_eq!((told.class("wasabi"), told.changed()), (FailureClass::Changed, Some(known.content)), "{key}");
        assert!(told.of("wasabi").unwrap_err().message.contains("the same bytes and other metadata"), "{told:?}");
        assert_eq!((told.read(), told.stale()), (None, vec![]), "{key}");
    }
    assert!(s.wasabi.keys().is_empty() && s.leaves_no_upload());
}

#[tokio::test]
async fn metadata_that_differs_from_answer_to_answer_is_no_change_even_if_it_is_newer() {
    let s = Setup::new().await;
    let known = recorded(&s, "k", 10).await;
    let header = |value: &str| Fault::Headers(vec![("cache-control", value.to_owned())]);
    // A proxy adds a header to what is sent, and not to what is asked for.
    let order = s.b2.order(header("max-age=1"), When::op(Op::GetObject));
    write_again(&s, "k", 10, plain(), 5);
    let told = s.copy(&job(&s, "k", &known, &[]).await).await;
    assert_eq!((told.of("wasabi"), told.described()), (Ok(Verified::Compared), Some(known.metadata)));
    assert_eq!(s.wasabi.inspect("k").unwrap().metadata, plain());
    s.wasabi.delete("k");
    let other = s.b2.order(header("max-age=2"), When::op(Op::HeadObject));
    let told = s.copy(&job(&s, "k", &known, &[]).await).await;
    assert_eq!((told.class("wasabi"), told.changed()), (FailureClass::Transient, None), "{told:?}");
    order.clear();
    other.clear();
    assert!(s.wasabi.keys().is_empty());
}

#[tokio::test]
async fn other_metadata_that_nothing_shows_to_be_written_is_not_spread() {
    let s = Setup::new().await;
    let known = recorded(&s, "k", 10).await;
    let modified = s.b2.inspect("k").unwrap().modified;
    s.b2.put_with("k", vec![7; 10], css());
    s.b2.set_modified("k", modified);
    let told = s.copy(&job(&s, "k", &known, &[]).await).await;
    assert_eq!((told.class("wasabi"), told.changed()), (FailureClass::Corrupt, None), "{told:?}");
    assert!(told.of("wasabi").unwrap_err().message.contains("copyhold enqueue"), "{told:?}");
    assert!(s.wasabi.keys().is_empty());
    // Another one has it as it is on record.
    let told = s.copy(&job(&s, "k", &known, &["other"]).await).await;
    assert_eq!((told.of("wasabi"), type_at(&s.wasabi, "k").as_str()), (Ok(Verified::Compared), "text/plain"));
    s.wasabi.delete("k");
    // An earlier state has come back.
    s.b2.set_modified("k", modified - Duration::from_secs(10));
    let told = s.copy(&job(&s, "k", &known, &["other"]).await).await;
    assert_eq!((told.stale(), told.of("wasabi")), (vec!["b2"], Ok(Verified::Compared)), "{told:?}");
}

#[tokio::test]
async fn another_content_with_other_metadata_is_judged_by_its_bytes() {
    let s = Setup::new().await;
    let known = recorded(&s, "k", 10).await;
    s.b2.put_with("k", vec![7; 11], css());
    // We have written it there ourselves since it was read.
    let reading = known.kept.reading.clone().map(|said| SourceReading { modified_us: None, tag: None, ..said });
    let known = Recorded { kept: RecordedSource { reading, recorded_us: None }, ..known };
    let told = s.copy(&job(&s, "k", &known, &["other"]).await).await;
    assert_eq!((told.stale(), told.of("wasabi")), (vec!["b2"], Ok(Verified::Compared)), "{told:?}");
    assert_eq!(type_at(&s.wasabi, "k"), "text/plain");
}

#[tokio::test]
async fn a_new_primary_with_other_metadata_is_the_last_that_is_read() {
    let s = Setup::new().await;
    let mut known = recorded(&s, "k", 10).await;
    s.b2.put_with("k", vec![7; 10], css());
    known.kept.reading =
        Some(SourceReading { replica: ReplicaName::new("other").unwrap(), ..known.kept.reading.unwrap() });
    known.kept.recorded_us = None;
    let told = s.copy(&job(&s, "k", &known, &["other"]).await).await;
    assert_eq!((told.of("wasabi"), type_at(&s.wasabi, "k").as_str()), (Ok(Verified::Compared), "text/plain"));
    s.wasabi.delete("k");
    let told = s.copy(&job(&s, "k", &known, &[]).await).await;
    assert_eq!((told.of("wasabi"), type_at(&s.wasabi, "k").as_str()), (Ok(Verified::Compared), "text/css"));
}

/// To wasabi, which is known to keep keys apart, so that nothing else is looked at.
async fn to_garage(s: &Setup, key: &str) -> Job {
    let mut job = s.job_knowing(key, settings::Provider::Garage, settings::StoreOverrides::default()).await;
    job.targets.truncate(1);
    job
}

#[tokio::test]
async fn a_header_that_a_target_alters_is_named_at_the_first_copy_that_has_it() {
    for (key, size) in SIZES {
        for (header, altered) in [
            ("content-type", "text/plain; charset=utf-8"),
            ("content-encoding", "identity"),
            ("content-disposition", "inline"),
            ("content-language", "en"),
            ("cache-control", "no-cache"),
            ("expires", "0"),
            ("x-amz-meta-note", "cut"),
        ] {
            let s = Setup::new().await;
            s.b2.put_with(key, vec![7; size], Metadata::none().with(header, "Sun, 01 Feb 2099 00:00:00 GMT"));
            s.wasabi.order(Fault::Headers(vec![(header, altered.to_owned())]), When::op(Op::HeadObject));
            let why = s.copy(&to_garage(&s, key).await).await.of("wasabi").unwrap_err();
            assert_eq!(why.class, FailureClass::Refused, "{header}");
            let words = format!("target wasabi: it keeps other metadata than was sent: {header} differs");
            assert!(why.message.starts_with(&words), "{why:?}");
            assert!(s.leaves_no_upload());
        }
    }
}

#[tokio::test]
async fn headers_that_a_target_or_a_proxy_before_it_adds_are_no_alteration() {
    for (key, size) in SIZES {
        let s = Setup::new().await;
        s.b2.put_with(key, vec![7; size], css());
        let added = [("cache-control", "private, max-age=0"), ("expires", "0")];
        let added = added.map(|(name, value)| (name, value.to_owned())).to_vec();
        s.wasabi.order(Fault::Headers(added), When::op(Op::HeadObject));
        assert_eq!(s.copy(&to_garage(&s, key).await).await.of("wasabi"), Ok(Verified::Compared), "{key}");
    }
}

#[tokio::test]
async fn one_answer_that_still_shows_the_same_bytes_with_earlier_metadata_parks_nothing() {
    let s = Setup::new().await;
    s.b2.put_with("k", vec![7; 10], css());
    let earlier = Fault::Headers(vec![("content-type", "text/plain".to_owned())]);
    s.wasabi.order(earlier, When::op(Op::HeadObject).next(1));
    assert_eq!(s.copy(&to_garage(&s, "k").await).await.of("wasabi"), Ok(Verified::Compared));
}

#[tokio::test]
async fn an_object_that_the_primary_has_lost_is_restored_from_one_whose_altered_metadata_the_operator_accepts() {
    let s = Setup::new().await;
    for (key, size) in SIZES {
        let known = recorded(&s, key, size).await;
        s.scw.put_with(key, vec![7; size], css());
        s.b2.delete(key);
        let mut job = job(&s, key, &known, &["scw"]).await;
        let told = s.copy(&job).await;
        assert_eq!(told.sources_failed()[1], ("scw", FailureClass::Transient), "{key} {told:?}");
        assert!(told.of("wasabi").unwrap_err().message.contains("altered_metadata"), "{key} {told:?}");
        let accepts =
            settings::StoreOverrides { accepts_altered_metadata: Some(true), ..settings::StoreOverrides::default() };
        job.sources[1].store = s.store_of("scw", settings::Provider::Generic, accepts).await;
        let told = s.copy(&job).await;
        assert_eq!(told.of("wasabi"), Ok(Verified::Compared), "{key} {told:?}");
        assert_eq!(type_at(&s.wasabi, key), "text/css");
        assert_ne!(told.described(), Some(known.metadata), "what is written instead is on record then");
        assert!(told.described().is_some(), "{key}");
    }
}

#[tokio::test]
async fn what_a_target_has_kept_once_is_not_looked_at_again() {
    let s = Setup::new().await;
    let first = to_garage(&s, "0").await;
    let mut looks = Vec::new();
    for (key, metadata) in [
        ("0", Metadata::none()),
        ("1", css()),
        ("2", css().with("x-amz-meta-a", "1")),
        ("3", plain().with("x-amz-meta-b", "2")),
        ("4", Metadata::none().with("x-amz-meta-b", "Two  words")),
        ("5", Metadata::none().with("x-amz-meta-c", "Three  words")),
    ] {
        s.b2.put_with(key, "hello", metadata);
        let before = s.wasabi.calls(Op::HeadObject);
        let told = s.copy(&Job { key: ObjectKey::new(key).unwrap(), ..to_garage(&s, key).await }.with(&first)).await;
        assert!(told.of("wasabi").is_ok(), "{key} {told:?}");
        looks.push(s.wasabi.calls(Op::HeadObject) - before);
    }
    assert_eq!(looks, [0, 1, 1, 0, 1, 0]);
}

impl Job {
    /// To the same stores, which have seen what came before.
    fn with(self, other: &Self) -> Self {
        Self { targets: other.targets.clone(), ..self }
    }
}

#[tokio::test]
async fn copies_that_end_at_the_same_time_look_once() {
    let s = Setup::new().await;
    let first = to_garage(&s, "0").await;
    let mut jobs = Vec::new();
    for key in 0..8 {
        let key = key.to_string();
        s.b2.put_with(&key, "hello", css());
        jobs.push(to_garage(&s, &key).await.with(&first));
    }
    for told in futures::future::join_all(jobs.iter().map(|job| s.copy(job))).await {
        assert!(told.of("wasabi").is_ok(), "{told:?}");
    }
    assert_eq!(s.wasabi.calls(Op::HeadObject), 1);
}

#[tokio::test]
async fn a_target_that_lets_nobody_look_has_its_copies_recorded_and_is_soon_left_alone() {
    let s = Setup::new().await;
    s.wasabi.order(Fault::access_denied(), When::op(Op::HeadObject));
    let first = to_garage(&s, "0").await;
    for key in 0..12 {
        let key = key.to_string();
        s.b2.put_with(&key, "hello", css());
        let told = s.copy(&to_garage(&s, &key).await.with(&first)).await;
        assert!(told.of("wasabi").is_ok(), "{told:?}");
    }
    assert_eq!(s.wasabi.calls(Op::HeadObject), 8);
}

#[tokio::test]
async fn a_target_that_shows_its_copy_late_is_not_taken_for_one_that_drops_headers() {
    let s = Setup::new().await;
    s.b2.put_with("k", "hello", css());
    s.wasabi.order(Fault::answer(404, "NoSuchKey"), When::op(Op::HeadObject).next(1));
    let told = s.copy(&to_garage(&s, "k").await).await;
    assert!(told.of("wasabi").is_ok(), "{told:?}");
    assert_eq!(s.wasabi.calls(Op::HeadObject), 2);
}
