//! The throughput of the stores themselves, which bounds all other figures.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use copyhold_sandbox::s3::{Synthetic, synthetic};
use hyper::Uri;
use md5::{Digest as _, Md5};
use tokio::task::JoinSet;

use super::{
    baseline::PART_BYTES,
    presigned::Presigner,
    raw_http::{Frames, RawConnection},
};
use crate::common::{machine, process, report::at_least, stores::Stores};

const FOR: Duration = Duration::from_secs(4);
const AT_ONCE: usize = 32;
const SMALL_BYTES: u64 = 10 * 1024;
const KEYS: u64 = 1000;
const LARGE_BYTES: u64 = 256 << 20;
const LARGE_AT_ONCE: usize = 4;

pub(super) async fn play() -> anyhow::Result<()> {
    println!("-- {}", machine::load());
    let small = (1..=KEYS).map(|i| format!("object-{i}:{i}:{SMALL_BYTES}"));
    let stores = Stores::elsewhere(small.chain([format!("large:7:{LARGE_BYTES}")])).await?;
    let signer = Arc::new(Presigner::of(&stores)?);
    let mut gets = Vec::new();
    let mut puts = Vec::new();
    for i in 1..=KEYS {
        let key = format!("object-{i}");
        gets.push(Request { url: signer.get("b2", &key).await?, body: None });
        puts.push(Request::put(signer.put("wasabi", &key).await?, synthetic::bytes(i, 0..SMALL_BYTES).into()));
    }
    let gets = serve(&stores, &signer, "GET of 10 KiB", gets, AT_ONCE).await?;
    at_least("C", "server-gets-per-second", gets, 5000.0);
    let puts = serve(&stores, &signer, "PUT of 10 KiB", puts, AT_ONCE).await?;
    at_least("C", "server-puts-per-second", puts, 3000.0);

    let large = Request { url: signer.get("b2", "large").await?, body: None };
    let rate = serve(&stores, &signer, "GET of 256 MiB", vec![large], LARGE_AT_ONCE).await?;
    at_least("C", "server-get-mb-per-second", rate * megabytes(LARGE_BYTES), 1000.0);
    let parts = LARGE_BYTES / PART_BYTES;
    let upload = signer.begin("wasabi", "large", parts).await?;
    let bodies =
        (0..parts).map(|part| Synthetic::new(7, LARGE_BYTES).pieces(part * PART_BYTES..(part + 1) * PART_BYTES));
    let puts = upload.parts.iter().cloned().zip(bodies).map(|(url, body)| Request::put(url, body.collect()));
    let rate = serve(&stores, &signer, "UploadPart of 16 MiB", puts.collect(), LARGE_AT_ONCE).await?;
    at_least("C", "server-put-mb-per-second", rate * megabytes(PART_BYTES), 1000.0);
    println!("-- at the end: {}", machine::load());
    stores.end().await
}

#[expect(clippy::cast_precision_loss, reason = "megabytes")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// One request, which is repeated.
struct Request {
    url: Uri,
    /// The body of a PUT with its MD5; `None`: a GET.
    body: Option<(Frames, String)>,
}

impl Request {
    fn put(url: Uri, body: Frames) -> Self {
        let mut md5 = Md5::new();
        body.iter().for_each(|frame| md5.update(frame));
        let md5 = STANDARD.encode(md5.finalize());
        Self { url, body: Some((body, md5)) }
    }
}

/// Makes the requests in turn for some seconds; returns how many per second.
async fn serve(
    stores: &Stores,
    signer: &Presigner,
    what: &str,
    requests: Vec<Request>,
    at_once: usize,
) -> anyhow::Result<f64> {
    let (requests, next) = (Arc::new(requests), Arc::new(AtomicUsize::new(0)));
    let mut workers = JoinSet::new();
    let before = (stores.cpu_seconds()?, process::cpu_seconds(std::process::id())?);
    let begun = Instant::now();
    for _ in 0..at_once {
        let (requests, next) = (Arc::clone(&requests), Arc::clone(&next));
        let mut wire = RawConnection::connect(signer.address).await?;
        workers.spawn(async move {
            while begun.elapsed() < FOR {
                let request = &requests[next.fetch_add(1, Ordering::Relaxed) % requests.len()];
                match &request.body {
                    None => wire.get(&request.url, None, drop).await?,
                    Some((body, md5)) => wire.put(&request.url, body.clone(), Some(md5)).await?,
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let made = f64::from(u32::try_from(next.load(Ordering::Relaxed))?);
    let cpu = (stores.cpu_seconds()? - before.0, process::cpu_seconds(std::process::id())? - before.1);
    println!(
        "{what}: {:.0}/s; CPU each: stores {:.0} µs, client {:.0} µs; {:.1} and {:.1} cores busy",
        made / seconds,
        cpu.0 * 1e6 / made,
        cpu.1 * 1e6 / made,
        cpu.0 / seconds,
        cpu.1 / seconds
    );
    Ok(made / seconds)
}
