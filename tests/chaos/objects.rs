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

/// What the application has uploaded, by key: contents in the order in which they followed one another.
#[derive(Default)]
pub(super) struct Catalogue(Mutex<BTreeMap<String, Vec<Content>>>);

impl Catalogue {
    /// Whether the object ever was like this.
    pub(super) fn has_had(&self, key: &str, content: Content) -> bool {
        self.lock().get(key).is_some_and(|contents| contents.contains(&content))
    }

    /// As everything is now.
    pub(super) fn latest(&self) -> Vec<(String, Content)> {
        self.lock().iter().filter_map(|(key, contents)| Some((key.clone(), *contents.last()?))).collect()
    }

    fn enter(&self, key: &str, bytes: &[u8]) {
        let hash = ContentHash(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes));
        let content = Content { size_bytes: bytes.len() as u64, hash };
        self.lock().entry(key.to_owned()).or_default().push(content);
    }

    /// A poisoned lock only means that somebody panicked between two short steps; the map is whole.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Content>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether objects get new contents as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// Each has one content for ever.
    NeverChange,
    /// One upload in ten replaces an earlier object, which is registered again.
    MayChange,
}

/// Uploads and registers, as an application does, until it is `over`.
pub(super) async fn register(
    stage: &Stage,
    catalogue: &Catalogue,
    keys: Keys,
    seed: u64,
    over: &AtomicBool,
) -> anyhow::Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut uploaded = 0_u32;
    while !over.load(Ordering::Relaxed) {
        let (mut new, mut again) = (Vec::new(), Vec::new());
        for _ in 0..rng.random_range(0..=AT_ONCE) {
            if keys == Keys::MayChange && uploaded > 0 && rng.random_bool(0.1) {
                let i = rng.random_range(1..=uploaded);
                again.push(upload(stage, catalogue, &mut rng, format!("object-{i}"), Size::Small));
            } else {
                uploaded += 1;
                let size = if uploaded.is_multiple_of(ONE_LARGE_IN) { Size::InParts } else { Size::Small };
                new.push(upload(stage, catalogue, &mut rng, format!("object-{uploaded}"), size));
            }
        }
        // Tried again after a commit whose answer was lost, it has done its work already.
        let sql = "INSERT INTO copyhold.object_copies (object_key, b2)
                   SELECT k, copyhold.now_utc_micro_seconds() FROM unnest($1::text[]) k ON CONFLICT DO NOTHING";
        patiently(|| sqlx::query(sql).bind(new.clone()).execute(&stage.pool)).await?;
        register_again(stage, &again).await?;
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Gives objects a new content and registers them again.
pub(super) async fn replace(
    stage: &Stage,
    catalogue: &Catalogue,
    rng: &mut StdRng,
    keys: Vec<String>,
) -> anyhow::Result<()> {
    let keys: Vec<_> = keys.into_iter().map(|key| upload(stage, catalogue, rng, key, Size::Small)).collect();
    register_again(stage, &keys).await
}

enum Size {
    Small,
    InParts,
}

fn upload(stage: &Stage, catalogue: &Catalogue, rng: &mut StdRng, key: String, size: Size) -> String {
    let size_bytes = match size {
        Size::Small => rng.random_range(0..LARGEST_SMALL),
        Size::InParts => LARGE,
    };
    let bytes = synthetic::bytes(rng.random(), 0..size_bytes);
    catalogue.enter(&key, &bytes);
    stage.bucket("b2").put(&key, bytes);
    key
}

async fn register_again(stage: &Stage, keys: &[String]) -> anyhow::Result<()> {
    for key in keys {
        patiently(|| sqlx::query("SELECT copyhold.register($1)").bind(key.clone()).execute(&stage.pool)).await?;
    }
    Ok(())
}
