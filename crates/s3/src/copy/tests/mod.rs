//! What a copy promises, over real HTTP against stores that misbehave on order.

mod adopt;
mod bad_input;
mod cancel;
mod changed;
mod damage;
mod etags;
mod lag;
mod memory;
mod metadata;
mod parts;
mod refused;
mod resume;
mod rot;
mod sources;
mod streamed;
mod whole;

use std::sync::Arc;

use copyhold_core::domain::{Folds, ObjectKey, RecordedSource, SourceReading};
use copyhold_sandbox::s3::{BucketHandle, BucketOptions, Fault, S3Server};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::settings;

const MIB: u64 = 1 << 20;

/// One server with a source, `b2`, and two targets, `wasabi` and `scw`.
struct Setup {
    server: S3Server,
    b2: BucketHandle,
    wasabi: BucketHandle,
    scw: BucketHandle,
    memory: Memory,
    stop: CancellationToken,
    notebook: MemoryJournal,
}

impl Setup {
    async fn new() -> Self {
        Self::with(BucketOptions::default()).await
    }

    async fn with(options: BucketOptions) -> Self {
        let server = S3Server::start().await.unwrap();
        let bucket = |name| server.create_bucket(name, options.clone());
        Self {
            b2: bucket("b2"),
            wasabi: bucket("wasabi"),
            scw: bucket("scw"),
            memory: Memory::new(64 * MIB),
            stop: CancellationToken::new(),
            notebook: MemoryJournal::default(),
            server,
        }
    }

    async fn store(&self, bucket: &str) -> Arc<Store> {
        self.store_of(bucket, settings::Provider::Generic, settings::StoreOverrides::default()).await
    }

    /// A store of which something is known beforehand.
    async fn store_of(
        &self,
        bucket: &str,
        provider: settings::Provider,
        facts: settings::StoreOverrides,
    ) -> Arc<Store> {
        let replica = settings::StoreSettings {
            name: ReplicaName::new(bucket).unwrap(),
            endpoint: self.server.endpoint().parse().unwrap(),
            region: "eu-central-003".into(),
            bucket: bucket.into(),
            path_style: true,
            credentials: settings::Credentials::Keys {
                access_key_id: self.server.access_key_id().into(),
                secret_access_key: self.server.secret_access_key().into(),
            },
            storage_class: None,
            provider,
            facts,
            trust: settings::Trust::default(),
            proxy: None,
            surroundings: settings::NetworkEnvironment::default(),
        };
        Arc::new(Store::connect(&replica, 4).await.unwrap())
    }

    async fn target(&self, bucket: &str) -> Target {
        Target {
            store: self.store(bucket).await,
            existing: OnExisting::PutOver,
            slow: false,
            again: false,
            damaged: false,
            folds: Folds::NONE,
        }
    }

    /// As [`Self::job`], where something is known of wasabi.
    async fn job_knowing(&self, key: &str, provider: settings::Provider, facts: settings::StoreOverrides) -> Job {
        let mut job = self.job(key).await;
        job.targets[0].store = self.store_of("wasabi", provider, facts).await;
        job
    }

    /// `key` from b2, where it is on record, to wasabi and scw.
    async fn job(&self, key: &str) -> Job {
        Job {
            key: ObjectKey::new(key).unwrap(),
            content: None,
            metadata: None,
            primary: None,
            kept: RecordedSource::default(),
            stated_bytes: None,
            sources: vec![Source { store: self.store("b2").await, recorded: true, primary: true }],
            targets: vec![self.target("wasabi").await, self.target("scw").await],
            lag: Duration::from_mins(1),
            journal: Arc::new(self.notebook.clone()),
        }
    }

    async fn copy(&self, job: &Job) -> Told {
        let (steps, mut told) = mpsc::unbounded_channel();
        let ended = copy(job, &self.memory, &self.stop, &steps).await;
        drop(steps);
        let (mut opened, mut kept, mut steps) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(step) = told.recv().await {
            match step {
                CopyStep::Opened { size_bytes } => opened.push(size_bytes),
                CopyStep::Kept { replica, parts } => kept.push((replica.to_string(), parts)),
                step => steps.push(step),
            }
        }
        Told { ended, opened, kept, steps }
    }

    /// Both targets hold what b2 holds.
    fn is_everywhere(&self, key: &str) -> bool {
        let content = |bucket: &BucketHandle| bucket.inspect(key).map(|there| there.content);
        content(&self.b2).is_some()
            && content(&self.wasabi) == content(&self.b2)
            && content(&self.scw) == content(&self.b2)
    }

    /// Nothing half-done is left anywhere, nor believed to be.
    fn leaves_no_upload(&self) -> bool {
        self.wasabi.uploads().is_empty() && self.scw.uploads().is_empty() && self.notebook.is_settled()
    }
}

/// What a copy said.
#[derive(Debug)]
struct Told {
    ended: CopyEnd,
    /// The sizes that were news.
    opened: Vec<u64>,
    /// Who has got how many parts without getting the object.
    kept: Vec<(String, u32)>,
    /// All the rest.
    steps: Vec<CopyStep>,
}

impl Told {
    /// The one answer about a target.
    fn of(&self, replica: &str) -> Result<Verified, Failure> {
        let mut results = self.steps.iter().filter_map(|step| match step {
            CopyStep::Target { replica: of, result } if of.as_str() == replica => Some(result.clone()),
            _ => None,
        });
        let result = results.next().unwrap_or_else(|| panic!("no answer about {replica}: {self:?}"));
        assert!(results.next().is_none(), "two answers about {replica}: {self:?}");
        result
    }

    fn class(&self, replica: &str) -> FailureClass {
        match self.of(replica) {
            Ok(proof) => panic!("{replica} is {proof:?}"),
            Err(why) => why.class,
        }
    }

    fn read(&self) -> Option<Content> {
        self.steps.iter().find_map(|step| match step {
            CopyStep::Read { content, .. } => Some(*content),
            _ => None,
        })
    }

    fn is_proven(&self) -> bool {
        self.ended == CopyEnd::Done && self.of("wasabi").is_ok() && self.of("scw").is_ok()
    }

    /// What the primary said of the object that was read there.
    fn said(&self) -> Option<SourceReading> {
        self.steps.iter().find_map(|step| match step {
            CopyStep::Read { said, .. } => said.clone(),
            _ => None,
        })
    }

    /// What the primary was found to hold instead of the known content.
    fn changed(&self) -> Option<Content> {
        self.steps.iter().find_map(|step| match step {
            CopyStep::Changed { content, .. } => Some(*content),
            _ => None,
        })
    }

    /// The sources whose copies are not the known content.
    fn stale(&self) -> Vec<&str> {
        let stale = self.steps.iter().filter_map(|step| match step {
            CopyStep::Stale { replica, why, .. } => {
                assert_eq!(why.class, FailureClass::Corrupt, "{why:?}");
                Some(replica.as_str())
            }
            _ => None,
        });
        stale.collect()
    }

    fn sources_failed(&self) -> Vec<(&str, FailureClass)> {
        let failed = self.steps.iter().filter_map(|step| match step {
            CopyStep::SourceFailed { replica, why } => Some((replica.as_str(), why.class)),
            _ => None,
        });
        failed.collect()
    }
}
