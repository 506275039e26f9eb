use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use copyhold::{
    domain::{Content, ContentHash},
    sandbox::s3::synthetic,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::sleep;

use super::{patiently, stage::Stage};

const PAUSE: Duration = Duration::from_millis(100);
/// Objects of one transaction at most.
const AT_ONCE: u32 = 8;
const LARGEST_SMALL: u64 = 64 << 10;
/// Now and then one that is copied in parts.
const ONE_LARGE_IN: u32 = 150;
const LARGE: u64 = (16 << 20) + 4321;

/// What the application has uploaded, by key.
#[derive(Default)]
pub(super) struct Catalogue(Mutex<BTreeMap<String, Content>>);

impl Catalogue {
    pub(super) fn content(&self, key: &str) -> Option<Content> {
        self.lock().get(key).copied()
    }

    pub(super) fn all(&self) -> Vec<(String, Content)> {
        self.lock().iter().map(|(key, content)| (key.clone(), *content)).collect()
    }

    /// A poisoned lock only means that somebody panicked between two short steps; the map is whole.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Content>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Uploads and registers, as an application does, until it is `over`.
pub(super) async fn register(stage: &Stage, catalogue: &Catalogue, seed: u64, over: &AtomicBool) -> anyhow::Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut uploaded = 0_u32;
    while !over.load(Ordering::Relaxed) {
        let mut keys = Vec::new();
        for _ in 0..rng.random_range(0..=AT_ONCE) {
            uploaded += 1;
            let key = format!("object-{uploaded}");
            let large = uploaded.is_multiple_of(ONE_LARGE_IN);
            let size_bytes = if large { LARGE } else { rng.random_range(0..LARGEST_SMALL) };
            let bytes = synthetic::bytes(rng.random(), 0..size_bytes);
            let hash = ContentHash(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &bytes));
            catalogue.lock().insert(key.clone(), Content { size_bytes, hash });
            stage.bucket("b2").put(&key, bytes);
            keys.push(key);
        }
        // Tried again after a commit whose answer was lost, it has done its work already.
        let sql = "INSERT INTO copyhold.object_copies (object_key, b2)
                   SELECT k, copyhold.now_utc_micro_seconds() FROM unnest($1::text[]) k ON CONFLICT DO NOTHING";
        patiently(|| sqlx::query(sql).bind(keys.clone()).execute(&stage.pool)).await?;
        sleep(PAUSE).await;
    }
    Ok(())
}
