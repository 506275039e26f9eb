//! Flips bits on the way from the source, on the way to a target, and in stored copies. A test runs it small, a
//! benchmark large.
//!
//! Each trial is an object with one wrong bit, once, at a position drawn from a seed, uniformly over its bytes. The
//! daemon that copies must detect damage on the way, `copyhold verify` damage at rest. A trigger notes everything that
//! is recorded: nothing damaged may ever be.

use std::{collections::BTreeMap, fmt, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, bail, ensure};
use copyhold_s3::copy::WHOLE_UP_TO;
use copyhold_sandbox::s3::{BucketHandle, BucketOptions, Fault, InjectedFault, Op, Quirk, When, synthetic};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;
use sqlx::PgPool;
use tokio::{process::Command, time::Instant};

/// The size of an object that is sent in one request.
const SMALL: u64 = 64 << 10;
/// One object in this many is sent in parts.
const LARGE_EVERY: usize = 200;
const LARGE: u64 = WHOLE_UP_TO + (1 << 20);
/// How long all copies may take.
const PATIENCE: Duration = Duration::from_mins(10);
const TARGETS: [&str; 2] = ["wasabi", "scw"];

/// The environment of a run, in which a daemon copies from `b2` to both targets.
pub struct DamageSetup<'a> {
    pub program: &'a Path,
    pub config: &'a Path,
    pub pool: &'a PgPool,
    pub bucket: &'a dyn Fn(&str) -> BucketHandle,
}

/// The number of trials of each kind, and how many were detected.
#[derive(Debug)]
pub struct DamageReport {
    pub trials: usize,
    pub source: usize,
    pub wire: usize,
    pub rest: usize,
    /// Recorded copies that differ from their object.
    pub recorded_wrongly: usize,
}

/// One object, and its true content.
struct DamageTrial {
    key: String,
    seed: u64,
    size_bytes: u64,
    /// The position of the flipped bit.
    at: u64,
}

/// A store that checks nothing and whose ETags prove nothing: only reading back proves a copy there. The other target
/// refuses damaged bytes.
pub fn careless() -> BucketOptions {
    BucketOptions::default().with(Quirk::IgnoresHashes).with(Quirk::OpaqueEtags)
}

/// Runs this many trials of each kind.
pub async fn play(ground: &DamageSetup<'_>, seed: u64, trials: usize) -> anyhow::Result<DamageReport> {
    let mut rng = StdRng::seed_from_u64(seed);
    sqlx::raw_sql(include_str!("recorded.sql")).execute(ground.pool).await?;
    let b2 = (ground.bucket)("b2");

    let source = draw("source", trials, &mut rng);
    let orders = source.iter().map(|t| {
        let read = When::op(Op::GetObject).key(&t.key).skip(t.at / WHOLE_UP_TO).next(1);
        b2.order(Fault::FlipBody { at: t.at % WHOLE_UP_TO }, read)
    });
    let orders: Vec<_> = orders.collect();
    copy(ground, &source).await?;
    let source_noticed = noticed(ground, &source, &orders, |_| TARGETS.to_vec()).await?;

    let wire = draw("wire", trials, &mut rng);
    let target = |i: usize| TARGETS[i % TARGETS.len()];
    let orders = wire.iter().enumerate().map(|(i, t)| {
        let op = if t.size_bytes > WHOLE_UP_TO { Op::UploadPart } else { Op::PutObject };
        let arrival = When::op(op).key(&t.key).skip(t.at / WHOLE_UP_TO).next(1);
        (ground.bucket)(target(i)).order(Fault::FlipArriving { at: t.at % WHOLE_UP_TO }, arrival)
    });
    let orders: Vec<_> = orders.collect();
    copy(ground, &wire).await?;
    let wire_noticed = noticed(ground, &wire, &orders, |i| vec![target(i)]).await?;

    let rest = rot(ground, &source, &mut rng).await?;
    let all: Vec<_> = source.iter().chain(&wire).collect();
    let recorded_wrongly = recorded_wrongly(ground, &all).await?;
    Ok(DamageReport { trials, source: source_noticed, wire: wire_noticed, rest, recorded_wrongly })
}

fn draw(kind: &str, trials: usize, rng: &mut StdRng) -> Vec<DamageTrial> {
    let draw = |i: usize| {
        let size_bytes = if i % LARGE_EVERY == LARGE_EVERY / 10 { LARGE } else { rng.random_range(1..=SMALL) };
        DamageTrial { key: format!("{kind}-{i}"), seed: rng.random(), size_bytes, at: rng.random_range(0..size_bytes) }
    };
    (0..trials).map(draw).collect()
}

/// Uploads and registers the objects, and waits until they are everywhere.
async fn copy(ground: &DamageSetup<'_>, trials: &[DamageTrial]) -> anyhow::Result<()> {
    for trial in trials {
        (ground.bucket)("b2").put(&trial.key, trial.bytes());
    }
    let keys: Vec<_> = trials.iter().map(|t| t.key.as_str()).collect();
    sqlx::query("SELECT count(copyhold.register(k)) FROM unnest($1::text[]) k").bind(keys).execute(ground.pool).await?;
    until_copied(ground).await
}

async fn until_copied(ground: &DamageSetup<'_>) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let left = "SELECT count(*) FROM copyhold.object_copies
                 WHERE b2 IS NULL OR wasabi IS NULL OR scw IS NULL OR lock IS NOT NULL";
    while sqlx::query_scalar::<_, i64>(left).fetch_one(ground.pool).await? > 0 {
        if Instant::now() > deadline {
            let why =
                "SELECT string_agg(DISTINCT class || ': ' || left(message, 200), '; ') FROM copyhold.copy_failures";
            let why: Option<String> = sqlx::query_scalar(why).fetch_one(ground.pool).await?;
            bail!("not copied within {PATIENCE:?}: {}", why.unwrap_or_default());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Returns the trials in which a bit flipped without effect at these targets: copy and row have the object's content.
async fn noticed(
    ground: &DamageSetup<'_>,
    trials: &[DamageTrial],
    orders: &[InjectedFault],
    targets: impl Fn(usize) -> Vec<&'static str>,
) -> anyhow::Result<usize> {
    let hashes: BTreeMap<String, i64> =
        sqlx::query_as::<_, (String, i64)>("SELECT object_key, content_hash FROM copyhold.object_copies")
            .fetch_all(ground.pool)
            .await?
            .into_iter()
            .collect();
    let mut noticed = 0;
    for (i, (trial, order)) in trials.iter().zip(orders).enumerate() {
        ensure!(order.strikes() == 1, "no bit of {} was flipped", trial.key);
        let truth = (ground.bucket)("b2").inspect(&trial.key).context("the original")?.content;
        let holds = |target: &str| (ground.bucket)(target).inspect(&trial.key).is_some_and(|o| o.content == truth);
        let right = hashes.get(&trial.key) == Some(&truth.hash.to_bigint());
        noticed += usize::from(right && targets(i).into_iter().all(holds));
    }
    Ok(noticed)
}

/// Flips a bit of one copy of each object, and has them verified; returns how many were found. The daemon repairs them
/// at once.
async fn rot(ground: &DamageSetup<'_>, trials: &[DamageTrial], rng: &mut StdRng) -> anyhow::Result<usize> {
    let mut rotten = BTreeMap::new();
    for trial in trials {
        let target = TARGETS[rng.random_range(0..TARGETS.len())];
        (ground.bucket)(target).damage(&trial.key, rng.random_range(0..trial.size_bytes));
        rotten.insert(trial.key.clone(), target);
    }
    let (code, report) = verify(ground).await?;
    ensure!(code == Some(1), "verify ends with {code:?}: {report}");
    let found = report["findings"].as_array().context("findings")?.iter();
    let found = found.filter(|f| f["what"] == "damaged" && f["then"] == "requeued");
    let found = found.filter(|f| f["key"].as_str().and_then(|key| rotten.get(key)) == f["replica"].as_str().as_ref());
    let found = found.count();
    ensure!(report["findings"].as_array().is_some_and(|all| all.len() == found), "found what is not there: {report}");
    until_copied(ground).await?;
    let (code, report) = verify(ground).await?;
    ensure!(code == Some(0), "after it was healed, verify ends with {code:?}: {report}");
    Ok(found)
}

async fn verify(ground: &DamageSetup<'_>) -> anyhow::Result<(Option<i32>, Value)> {
    let output = Command::new(ground.program)
        .arg("--config")
        .arg(ground.config)
        .args(["verify", "--sample", "100%", "--json"])
        .env_remove("COPYHOLD_CONFIG")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.code(), serde_json::from_slice(&output.stdout).with_context(said)?))
}

/// Returns the copies that were recorded with another hash than their object's, or more often than they were made:
/// once, and once more if they were damaged at rest.
async fn recorded_wrongly(ground: &DamageSetup<'_>, trials: &[&DamageTrial]) -> anyhow::Result<usize> {
    let recorded = "SELECT object_key, replica, content_hash, was_taken_back FROM damage.recorded ORDER BY id";
    let recorded: Vec<(String, String, Option<i64>, bool)> = sqlx::query_as(recorded).fetch_all(ground.pool).await?;
    let mut wrong = 0;
    for trial in trials {
        let truth = (ground.bucket)("b2").inspect(&trial.key).context("the original")?.content.hash.to_bigint();
        for target in TARGETS {
            let of_it: Vec<_> = recorded.iter().filter(|(key, at, ..)| *key == trial.key && at == target).collect();
            let (taken_back, put): (Vec<_>, Vec<_>) =
                of_it.into_iter().partition(|(.., was_taken_back)| *was_taken_back);
            let right = put.iter().all(|(_, _, hash, _)| *hash == Some(truth));
            wrong += usize::from(!right || put.len() != taken_back.len() + 1 || put.len() > 2);
        }
    }
    Ok(wrong)
}

impl DamageTrial {
    fn bytes(&self) -> bytes::Bytes {
        synthetic::bytes(self.seed, 0..self.size_bytes)
    }
}

impl fmt::Display for DamageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trials, source, wire, rest, recorded_wrongly } = self;
        write!(
            f,
            "of {trials} damaged readings of the source {source} were noticed, of as many damaged arrivals at a target \
             {wire}, of as many copies that rotted {rest}; {recorded_wrongly} copies were ever on record that were damaged"
        )
    }
}
