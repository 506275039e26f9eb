//! The application: it uploads objects, replaces some, and records the content that each must have.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use copyhold_core::domain::{Content, ContentHash};
use copyhold_sandbox::s3::synthetic;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use sqlx::AssertSqlSafe;
use tokio::{
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::sleep,
};

use super::{environment::Environment, keys::Keys, patiently};

const PAUSE: Duration = Duration::from_millis(100);
/// The most objects of one transaction.
const AT_ONCE: u32 = 8;
const LARGEST_SMALL: u64 = 64 << 10;
/// The size of an occasional object that is copied in parts.
const ONE_LARGE_IN: u32 = 150;
const LARGE: u64 = (16 << 20) + 4321;
/// If keys may change, this share of uploads replaces an earlier object, ...
const REPLACES: f64 = 0.1;
/// ... and this share follows a deletion of its row.
const DELETES: f64 = 0.03;
/// The number of objects after a promotion whose rows are not deleted: the object at the former primary is a few
/// seconds older, and daemons may take it for the application's.
const SPARED: u32 = 200;

/// What the application has uploaded, and the replica that it uploads to.
pub(super) struct Application {
    /// The contents of each key, in the order of their uploads.
    contents: Mutex<BTreeMap<String, Vec<Content>>>,
    primary: RwLock<Primary>,
    deleted: AtomicUsize,
}

/// The primary in force.
#[derive(Debug, Clone, Copy)]
pub(super) struct Primary {
    pub(super) name: &'static str,
    /// Objects from this number on may be deleted and inserted again.
    deletable: u32,
}

impl Primary {
    pub(super) fn promoted(&mut self, name: &'static str) {
        *self = Self { name, deletable: u32::MAX };
    }
}

/// How an object that is not new is registered.
#[derive(Debug, Clone, Copy)]
pub(super) enum ReRegistration {
    /// `register` is called.
    Registered,
    /// Its row is deleted, and inserted again in the same transaction.
    AtOnce,
    /// Its row is deleted before the upload, and inserted afterwards.
    Later,
}

impl Application {
    pub(super) fn new() -> Self {
        let primary = RwLock::new(Primary { name: "b2", deletable: 1 });
        Self { contents: Mutex::default(), primary, deleted: AtomicUsize::new(0) }
    }

    /// Returns the primary, which does not change while the guard is held.
    pub(super) async fn primary(&self) -> RwLockReadGuard<'_, Primary> {
        self.primary.read().await
    }

    /// Stops uploads while the guard is held.
    pub(super) async fn stop(&self) -> RwLockWriteGuard<'_, Primary> {
        self.primary.write().await
    }

    /// Returns the number of rows deleted so far.
    pub(super) fn deleted(&self) -> usize {
        self.deleted.load(Ordering::Relaxed)
    }

    /// Returns whether the object ever had this content.
    pub(super) fn has_had(&self, key: &str, content: Content) -> bool {
        self.lock().get(key).is_some_and(|contents| contents.contains(&content))
    }

    /// Returns the current content of every key.
    pub(super) fn latest(&self) -> Vec<(String, Content)> {
        self.lock().iter().filter_map(|(key, contents)| Some((key.clone(), *contents.last()?))).collect()
    }

    /// Uploads and registers objects until the run is `over`.
    pub(super) async fn run(
        &self,
        environment: &Environment,
        keys: Keys,
        seed: u64,
        over: &AtomicBool,
    ) -> anyhow::Result<()> {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut uploaded, mut was) = (0_u32, "b2");
        while !over.load(Ordering::Relaxed) {
            if self.primary().await.name != was {
                let mut primary = self.stop().await;
                was = primary.name;
                primary.deletable = uploaded + SPARED;
            }
            let primary = *self.primary().await;
            self.batch(environment, keys, &mut rng, &mut uploaded, primary).await?;
            sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn batch(
        &self,
        environment: &Environment,
        keys: Keys,
        rng: &mut StdRng,
        uploaded: &mut u32,
        primary: Primary,
    ) -> anyhow::Result<()> {
        let (mut new, mut again) = (Vec::new(), Vec::new());
        for _ in 0..rng.random_range(0..=AT_ONCE) {
            let draw: f64 = rng.random();
            if keys == Keys::MayChange && *uploaded > 0 && draw < REPLACES {
                again.push((format!("object-{}", rng.random_range(1..=*uploaded)), ReRegistration::Registered));
            } else if keys == Keys::MayChange && *uploaded >= primary.deletable && draw < REPLACES + DELETES {
                let key = format!("object-{}", rng.random_range(primary.deletable..=*uploaded));
                again.push((key, if rng.random() { ReRegistration::AtOnce } else { ReRegistration::Later }));
            } else {
                *uploaded += 1;
                let size = if uploaded.is_multiple_of(ONE_LARGE_IN) { LARGE } else { small(rng) };
                let key = format!("object-{uploaded}");
                self.upload(environment, rng, &key, size, primary);
                new.push(key);
            }
        }
        insert(environment, &new, primary).await?;
        for (key, how) in again {
            self.replace(environment, rng, &key, how, primary).await?;
        }
        Ok(())
    }

    /// Makes a new object.
    pub(super) async fn add(
        &self,
        environment: &Environment,
        rng: &mut StdRng,
        key: &str,
        to: Primary,
    ) -> anyhow::Result<()> {
        let size = small(rng);
        self.upload(environment, rng, key, size, to);
        insert(environment, &[key.to_owned()], to).await
    }

    /// Uploads new content for an object and registers it again.
    pub(super) async fn replace(
        &self,
        environment: &Environment,
        rng: &mut StdRng,
        key: &str,
        how: ReRegistration,
        to: Primary,
    ) -> anyhow::Result<()> {
        const DELETE: &str = "DELETE FROM copyhold.object_copies WHERE object_key = $1";
        if matches!(how, ReRegistration::Later) {
            patiently(|| sqlx::query(DELETE).bind(key.to_owned()).execute(&environment.pool)).await?;
        }
        let size = small(rng);
        self.upload(environment, rng, key, size, to);
        match how {
            ReRegistration::Registered => {
                let sql = "SELECT copyhold.register($1)";
                patiently(|| sqlx::query(sql).bind(key.to_owned()).execute(&environment.pool)).await?;
                return Ok(());
            }
            ReRegistration::Later => insert(environment, &[key.to_owned()], to).await?,
            ReRegistration::AtOnce => {
                let insert = insertion(to);
                patiently(|| async {
                    let mut transaction = environment.pool.begin().await?;
                    sqlx::query(DELETE).bind(key).execute(&mut *transaction).await?;
                    let insert = sqlx::query(AssertSqlSafe(insert.clone())).bind(vec![key.to_owned()]);
                    insert.execute(&mut *transaction).await?;
                    transaction.commit().await
                })
                .await?;
            }
        }
        self.deleted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn upload(&self, environment: &Environment, rng: &mut StdRng, key: &str, size_bytes: u64, to: Primary) {
        let bytes = synthetic::bytes(rng.random(), 0..size_bytes);
        let hash = ContentHash(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &bytes));
        let content = Content { size_bytes: bytes.len() as u64, hash };
        self.lock().entry(key.to_owned()).or_default().push(content);
        environment.bucket(to.name).put(key, bytes);
    }

    /// A poisoned lock is usable: no step under it leaves the map inconsistent.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Content>>> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn small(rng: &mut StdRng) -> u64 {
    rng.random_range(0..LARGEST_SMALL)
}

/// Inserts rows. A repetition after a commit whose answer was lost changes nothing.
async fn insert(environment: &Environment, keys: &[String], to: Primary) -> anyhow::Result<()> {
    let sql = insertion(to);
    patiently(|| sqlx::query(AssertSqlSafe(sql.clone())).bind(keys.to_vec()).execute(&environment.pool)).await?;
    Ok(())
}

fn insertion(to: Primary) -> String {
    format!(
        "INSERT INTO copyhold.object_copies (object_key, {})
         SELECT k, copyhold.now_utc_micro_seconds() FROM unnest($1::text[]) k ON CONFLICT DO NOTHING",
        to.name
    )
}
