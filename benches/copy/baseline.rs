//! The minimal cost of copies: presigned requests on persistent connections, with or without the hashes that verify a
//! copy. It has no queue, no retries, and records nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest as Crc};
use hyper::Uri;
use md5::{Digest as _, Md5};
use tokio::task::JoinSet;

use super::{
    presigned::{Presigner, StartedUpload},
    raw_http::{Frames, RawConnection},
};
use crate::common::{process, report::percentile};

pub(super) const TARGETS: [&str; 2] = ["wasabi", "scw"];
/// The part size of the engine.
pub(super) const PART_BYTES: u64 = 16 << 20;

/// Whether the bytes are hashed. The store gets a hash to compare in both cases: without hashing, a precomputed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hashing {
    AsWeDo,
    None,
}

/// The cost of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
}

impl Cost {
    /// Returns the median of each figure by itself.
    pub(super) fn median(costs: &[Self]) -> Self {
        let median = |of: fn(&Self) -> f64| {
            let mut values: Vec<_> = costs.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            percentile(&values, 50)
        };
        Self { seconds: median(|cost| cost.seconds), cpu_seconds: median(|cost| cost.cpu_seconds) }
    }

    /// Measures the cost of this process while `work` runs.
    pub(super) async fn of_this(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<Self> {
        let id = std::process::id();
        let (begun, before) = (Instant::now(), process::cpu_seconds(id)?);
        work.await?;
        Ok(Self { seconds: begun.elapsed().as_secs_f64(), cpu_seconds: process::cpu_seconds(id)? - before })
    }
}

/// The URLs of one small object at the source and the targets.
pub(super) struct Small {
    pub(super) get: Uri,
    pub(super) puts: [Uri; 2],
    pub(super) md5: String,
}

/// The URLs of one large object at the source and the targets.
pub(super) struct Large {
    pub(super) get: Uri,
    pub(super) uploads: [StartedUpload; 2],
    pub(super) bytes: u64,
    /// The MD5s of its parts.
    pub(super) md5s: Vec<[u8; 16]>,
    parts_left: AtomicUsize,
}

impl Large {
    pub(super) fn new(get: Uri, uploads: [StartedUpload; 2], bytes: u64, md5s: Vec<[u8; 16]>) -> Self {
        Self { get, uploads, bytes, parts_left: AtomicUsize::new(md5s.len()), md5s }
    }
}

/// Computes both hashes of the bytes it gets.
struct Hashes {
    crc: Crc,
    md5: Md5,
}

impl Hashes {
    fn new() -> Self {
        Self { crc: Crc::new(CrcAlgorithm::Crc64Nvme), md5: Md5::new() }
    }

    fn update(&mut self, bytes: &Bytes) {
        self.crc.update(bytes);
        self.md5.update(bytes);
    }

    /// Returns the MD5 in base64.
    fn finish(self) -> String {
        std::hint::black_box(self.crc.finalize());
        STANDARD.encode(self.md5.finalize())
    }
}

/// Copies small objects with one GET and two PUTs each, several at once.
pub(super) async fn small(
    signer: &Presigner,
    objects: &Arc<Vec<Small>>,
    at_once: usize,
    hashing: Hashing,
) -> anyhow::Result<()> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..at_once {
        let (objects, next) = (Arc::clone(objects), Arc::clone(&next));
        let mut wires = WorkerConnections::connect(signer).await?;
        workers.spawn(async move {
            while let Some(object) = objects.get(next.fetch_add(1, Ordering::Relaxed)) {
                wires.copy(&object.get, None, object.puts.each_ref(), hashing, &object.md5).await?;
            }
            anyhow::Ok(())
        });
    }
    all(workers).await
}

/// Copies large objects with a ranged GET and two PUTs per part, several parts at once, of any object.
pub(super) async fn large(
    signer: &Arc<Presigner>,
    objects: Vec<Large>,
    at_once: usize,
    hashing: Hashing,
) -> anyhow::Result<()> {
    let objects = Arc::new(objects);
    let next = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..at_once {
        let (signer, objects, next) = (Arc::clone(signer), Arc::clone(&objects), Arc::clone(&next));
        let mut wires = WorkerConnections::connect(&signer).await?;
        workers.spawn(async move {
            while let Some((object, part)) = part(&objects, next.fetch_add(1, Ordering::Relaxed)) {
                let start = part as u64 * PART_BYTES;
                let range = start..(start + PART_BYTES).min(object.bytes);
                let puts = object.uploads.each_ref().map(|upload| &upload.parts[part]);
                wires.copy(&object.get, Some(range), puts, hashing, &base64(object.md5s[part])).await?;
                if object.parts_left.fetch_sub(1, Ordering::AcqRel) == 1 {
                    let [one, other] = &object.uploads;
                    tokio::try_join!(signer.complete(one, &object.md5s), signer.complete(other, &object.md5s))?;
                }
            }
            anyhow::Ok(())
        });
    }
    all(workers).await
}

/// Returns the `n`th part of all objects.
fn part(objects: &[Large], n: u64) -> Option<(&Large, usize)> {
    let mut n = usize::try_from(n).ok()?;
    for object in objects {
        if n < object.md5s.len() {
            return Some((object, n));
        }
        n -= object.md5s.len();
    }
    None
}

/// Returns the value of `Content-MD5`.
pub(super) fn base64(md5: [u8; 16]) -> String {
    STANDARD.encode(md5)
}

/// The connections of one worker.
struct WorkerConnections {
    source: RawConnection,
    targets: [RawConnection; 2],
}

impl WorkerConnections {
    async fn connect(signer: &Presigner) -> anyhow::Result<Self> {
        let connect = || RawConnection::connect(signer.address);
        Ok(Self { source: connect().await?, targets: [connect().await?, connect().await?] })
    }

    async fn copy(
        &mut self,
        get: &Uri,
        range: Option<std::ops::Range<u64>>,
        puts: [&Uri; 2],
        hashing: Hashing,
        known: &str,
    ) -> anyhow::Result<()> {
        let mut hashes = (hashing == Hashing::AsWeDo).then(Hashes::new);
        let mut frames = Frames::default();
        let take = |frame: Bytes| {
            if let Some(hashes) = &mut hashes {
                hashes.update(&frame);
            }
            frames.push(frame);
        };
        self.source.get(get, range, take).await?;
        let md5 = hashes.map_or_else(|| known.to_owned(), Hashes::finish);
        let [one, other] = &mut self.targets;
        tokio::try_join!(one.put(puts[0], frames.clone(), Some(&md5)), other.put(puts[1], frames, Some(&md5)))?;
        Ok(())
    }
}

async fn all(mut workers: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    Ok(())
}
