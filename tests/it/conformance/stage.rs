//! Plays one case: writes the object, copies it, and checks what stands at the target.

use std::{sync::Arc, time::Duration};

use copyhold_core::domain::{Failure, FailureClass, Verified};
use copyhold_s3::{
    copy::{CopyEnd, CopyStep, Job, Journal, Memory, OnExisting, Source, Target, copy},
    store::Store,
};
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    MANY, PART_BYTES,
    cases::{Case, Course, SMALL_MEMORY},
    object::{Bucket, Object},
    place::Place,
    watched::Watched,
};
use crate::harness::{key, soon};

/// A place with the engine's two stores, and two views of their buckets that are none of the engine's.
pub struct Stage {
    pub a: Bucket,
    pub b: Bucket,
    pub source: Arc<Store>,
    pub target: Arc<Store>,
}

/// How a case ended: what proved the copy, or in words where it fell short.
pub type Outcome = Result<Option<Verified>, String>;

impl Stage {
    pub async fn at(place: &Place) -> Self {
        let client = place.client();
        let bucket = |side: usize| Bucket::new(client.clone(), place.buckets[side].clone());
        let stage = Self {
            a: bucket(0),
            b: bucket(1),
            source: Arc::new(place.store(0).await),
            target: Arc::new(place.store(1).await),
        };
        stage.a.prepare().await;
        stage.b.prepare().await;
        stage
    }

    /// Plays one case and removes what it has written.
    pub async fn play(&self, case: &Case) -> Outcome {
        let object = &case.object;
        let playing: BoxFuture<'_, Outcome> = match case.course {
            Course::Plain { twin, memory_bytes } => Box::pin(self.plain(object, twin, memory_bytes)),
            Course::ChangedInTheMiddle => Box::pin(self.changed_in_the_middle(object)),
            Course::GoneOnWith => Box::pin(self.gone_on_with(object)),
            Course::ChangedBetween => Box::pin(self.changed_between(object)),
            Course::Forgotten => Box::pin(self.forgotten(object)),
            Course::Found => Box::pin(self.found(object)),
        };
        let outcome = playing.await;
        for key in &self.a.taken() | &self.b.taken() {
            self.a.remove(&key).await;
            self.b.remove(&key).await;
        }
        let left = self.b.uploads(&object.key).await.unwrap_or_default();
        for upload in &left {
            let _ = self.b.abort(&object.key, upload).await;
        }
        match outcome {
            Ok(_) if !left.is_empty() => Err(format!("{} uploads were left behind", left.len())),
            outcome => outcome,
        }
    }

    /// Copies one object, while another with a similar key is at the target. The copy must not overwrite that one.
    async fn plain(&self, object: &Object, twin: Option<&str>, memory_bytes: u64) -> Outcome {
        let twin = twin.map(|key| Object { key: key.to_owned(), bytes: other(object).bytes, ..object.clone() });
        for object in [Some(object), twin.as_ref()].into_iter().flatten() {
            self.written(object).await?;
        }
        if let Some(twin) = &twin {
            self.b
                .write(twin)
                .await
                .map_err(|why| format!("the store does not take the twin {:?}: {why}", twin.key))?;
        }
        let watched = Watched::new();
        let proof =
            self.attempt(object, &watched, &Memory::new(memory_bytes), false).await.map_err(|why| words(&why))?;
        self.is_copied(object).await?;
        if let Some(twin) = &twin {
            let there = self.b.read(&twin.key).await?.map(|seen| seen.content);
            if there != Some(twin.content()) {
                return Err(format!("{:?} was written over {:?}", object.key, twin.key));
            }
        }
        settled(&watched)?;
        Ok(Some(proof))
    }

    /// The source is written over when its first part was read.
    async fn changed_in_the_middle(&self, object: &Object) -> Outcome {
        self.written(object).await?;
        let (watched, memory) = (Watched::new(), small());
        watched.hold();
        let change = async {
            soon("an upload is begun", watched.until_begun()).await;
            let written = self.a.write(&other(object)).await;
            watched.let_go();
            written
        };
        let (ended, written) = tokio::join!(self.attempt(object, &watched, &memory, false), change);
        written?;
        match ended {
            Err(why) if why.class == FailureClass::Changed => {}
            ended => return Err(format!("the change was not noticed: {ended:?}")),
        }
        if self.b.read(&object.key).await?.is_some() {
            return Err("a mixture of two contents was written".into());
        }
        settled(&watched)?;
        let changed = other(object);
        let proof = self.attempt(&changed, &watched, &memory, true).await.map_err(|why| words(&why))?;
        self.is_copied(&changed).await?;
        Ok(Some(proof))
    }

    /// The process dies after two parts; the next one sends the others.
    async fn gone_on_with(&self, object: &Object) -> Outcome {
        let watched = self.half_done(object).await?;
        let before = watched.parts();
        let proof = self.attempt(object, &watched, &small(), true).await.map_err(|why| words(&why))?;
        self.is_copied(object).await?;
        let mut parts = watched.parts();
        parts.sort_unstable();
        let all: Vec<u32> = (1..=MANY).collect();
        if watched.begun() != 1 || parts != all {
            let begun = watched.begun();
            return Err(format!("{begun} uploads were begun, parts {before:?} were there and {parts:?} sent in all"));
        }
        settled(&watched)?;
        Ok(Some(proof))
    }

    /// What was sent of another content is of no use.
    async fn changed_between(&self, object: &Object) -> Outcome {
        let watched = self.half_done(object).await?;
        let changed = other(object);
        self.a.write(&changed).await?;
        let proof = self.attempt(&changed, &watched, &small(), true).await.map_err(|why| words(&why))?;
        self.is_copied(&changed).await?;
        if watched.begun() != 2 {
            return Err("an upload was gone on with that was begun with another content".into());
        }
        // What is left of the first is in the journal, where the clean-up finds it.
        for page in watched.notebook.all().into_iter().filter(|page| !page.over) {
            let upload = page.upload.ok_or("an upload without a name")?;
            match self.b.abort(&object.key, upload.as_str()).await {
                // Garage has aborted it by itself when the object appeared.
                Err(why) if !why.ends_with("404 NoSuchUpload") => return Err(why),
                _ => {}
            }
        }
        Ok(Some(proof))
    }

    /// The store does not know the upload any more.
    async fn forgotten(&self, object: &Object) -> Outcome {
        let watched = self.half_done(object).await?;
        for page in watched.notebook.open("target") {
            self.b.abort(&object.key, page.upload.ok_or("an upload without a name")?.as_str()).await?;
        }
        let first = self.attempt(object, &watched, &small(), true).await;
        let proof = match &first {
            Ok(proof) => *proof,
            Err(_) => self.attempt(object, &watched, &small(), true).await.map_err(|why| words(&why))?,
        };
        self.is_copied(object).await?;
        settled(&watched)?;
        first.map(|_| Some(proof)).map_err(|why| format!("it began anew only at the next attempt: {}", words(&why)))
    }

    /// An upload whose name was lost is found by key and time.
    async fn found(&self, object: &Object) -> Outcome {
        let key = key(&object.key);
        let metadata = copyhold_s3::store::Metadata::default();
        let id = self.target.create_multipart(&key, &metadata).await.map_err(|error| error.to_string())?;
        let listed = self.target.list_uploads(&object.key).await;
        let aborted = self.target.abort_multipart(&key, &id).await.map_err(|error| error.to_string());
        let listed = listed.map_err(|error| error.to_string())?;
        let one = listed.iter().find(|one| one.key == object.key && one.id == id);
        let one = one.ok_or_else(|| format!("it is not among the {} that are listed", listed.len()))?;
        one.initiated.ok_or("it is listed without a time")?;
        aborted?;
        let still = self.target.list_uploads(&object.key).await.map_err(|error| error.to_string())?;
        if still.is_empty() { Ok(None) } else { Err("it is listed after it was aborted".into()) }
    }

    /// An upload of which some parts are there, and which no copy resumes.
    async fn half_done(&self, object: &Object) -> Result<Watched, String> {
        self.written(object).await?;
        let (watched, memory) = (Watched::new(), small());
        let sent = tokio::select! {
            ended = self.attempt(object, &watched, &memory, false) => Err(format!("it ended too early: {ended:?}")),
            () = soon("two parts are sent", watched.until_parts(2)) => Ok(()),
        };
        sent.map(|()| watched)
    }

    /// The source has exactly this.
    async fn written(&self, object: &Object) -> Result<(), String> {
        let store = |why| format!("the store does not take it: {why}");
        self.a.write(object).await.map_err(store)?;
        let seen = self.a.read(&object.key).await.map_err(store)?;
        let seen = seen.ok_or_else(|| store("it is not there".into()))?;
        if seen.content != object.content() {
            return Err(store("it keeps other bytes".into()));
        }
        for (name, value) in &object.headers {
            let kept = seen.headers.get(name);
            if kept != Some(value) {
                return Err(store(format!("it keeps {name} as {kept:?}")));
            }
        }
        Ok(())
    }

    /// The target has exactly what the source has.
    async fn is_copied(&self, object: &Object) -> Result<(), String> {
        let (source, target) = (self.a.read(&object.key).await?, self.b.read(&object.key).await?);
        if source.is_none() || source.as_ref().map(|seen| seen.content) != Some(object.content()) {
            return Err(format!("the source holds {source:?}"));
        }
        if source == target { Ok(()) } else { Err(format!("the source holds {source:?}, the target {target:?}")) }
    }

    /// One attempt of the engine: how it ended at the target.
    pub async fn attempt(
        &self,
        object: &Object,
        journal: &(impl Journal + Clone + 'static),
        memory: &Memory,
        again: bool,
    ) -> Result<Verified, Failure> {
        let job = Job {
            key: key(&object.key),
            content: None,
            metadata: None,
            primary: None,
            kept: copyhold_core::domain::RecordedSource::default(),
            stated_bytes: None,
            sources: vec![Source { store: Arc::clone(&self.source), recorded: true, primary: true }],
            targets: vec![Target {
                store: Arc::clone(&self.target),
                existing: OnExisting::PutOver,
                slow: false,
                again,
                damaged: false,
                folds: copyhold_core::domain::Folds::NONE,
            }],
            lag: Duration::from_mins(1),
            journal: Arc::new(journal.clone()),
        };
        let (steps, mut told) = mpsc::unbounded_channel();
        let ended = copy(&job, memory, &CancellationToken::new(), &steps).await;
        assert_eq!(ended, CopyEnd::Done);
        drop(steps);
        let mut answer = None;
        while let Some(step) = told.recv().await {
            if let CopyStep::Target { result, .. } = step {
                assert!(answer.replace(result).is_none(), "two answers about one target");
            }
        }
        answer.expect("an answer about the target")
    }
}

/// Another content of the same size.
pub fn other(object: &Object) -> Object {
    let bytes = copyhold_sandbox::s3::Synthetic { seed: object.bytes.seed + 1_000_000, ..object.bytes };
    Object { bytes, ..object.clone() }
}

fn small() -> Memory {
    Memory::new(SMALL_MEMORY)
}

fn words(why: &Failure) -> String {
    format!("{}: {}", why.class, why.message)
}

fn settled(watched: &Watched) -> Result<(), String> {
    if watched.notebook.is_settled() { Ok(()) } else { Err(format!("not over: {:?}", watched.notebook)) }
}

const _: () = assert!(SMALL_MEMORY >= 4 * PART_BYTES && SMALL_MEMORY < MANY as u64 * PART_BYTES);
