//! The cost of one request for its process: presigned, signed by the benchmark on a persistent connection, and made by
//! the SDK. The difference is what a hand-written HTTP client could save.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use aws_sigv4::{
    http_request::{
        PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation, SigningSettings,
        UriPathNormalizationMode, sign,
    },
    sign::v4,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use copyhold_sandbox::s3::synthetic;
use hyper::Uri;
use md5::{Digest as _, Md5};
use tokio::task::JoinSet;

use super::{presigned::Presigner, raw_http::RawConnection};
use crate::common::{machine, process, stores::Stores};

const FOR: Duration = Duration::from_secs(4);
const TURNS: usize = 3;
const AT_ONCE: usize = 32;
const BYTES: u64 = 10 << 10;

#[derive(Debug, Clone, Copy)]
enum RequestMode {
    SignedBefore,
    SignedEach,
    Sdk,
}

/// The work of each worker.
struct Work {
    signer: Presigner,
    stores: Stores,
    get: Uri,
    put: Uri,
    body: Bytes,
    md5: String,
    made: AtomicU64,
}

pub(super) async fn play() -> anyhow::Result<()> {
    println!("-- CPU of one request of 10 KiB, {AT_ONCE} at once; {}", machine::load());
    let stores = Stores::elsewhere([format!("object:1:{BYTES}")]).await?;
    let signer = Presigner::of(&stores)?;
    let body = synthetic::bytes(1, 0..BYTES);
    let work = Arc::new(Work {
        get: signer.get("b2", "object").await?,
        put: signer.put("wasabi", "object").await?,
        md5: STANDARD.encode(Md5::digest(&body)),
        signer,
        stores,
        body,
        made: AtomicU64::new(0),
    });
    for _ in 0..TURNS {
        for way in [RequestMode::SignedBefore, RequestMode::SignedEach, RequestMode::Sdk] {
            let get = work.clone().spend(way, false).await?;
            let put = work.clone().spend(way, true).await?;
            println!("{way:?}: GET {get:.0} µs, PUT {put:.0} µs; {}", machine::load());
        }
    }
    Ok(())
}

impl Work {
    /// Returns µs of CPU time per request.
    #[expect(clippy::cast_precision_loss, reason = "a number of requests")]
    async fn spend(self: Arc<Self>, way: RequestMode, put: bool) -> anyhow::Result<f64> {
        self.made.store(0, Ordering::Relaxed);
        let before = process::cpu_seconds(std::process::id())?;
        let begun = Instant::now();
        let mut workers = JoinSet::new();
        for _ in 0..AT_ONCE {
            let work = Arc::clone(&self);
            workers.spawn(async move {
                let mut wire = RawConnection::connect(work.signer.address).await?;
                while begun.elapsed() < FOR {
                    work.one(way, put, &mut wire).await?;
                    work.made.fetch_add(1, Ordering::Relaxed);
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = workers.join_next().await {
            ended??;
        }
        let cpu = process::cpu_seconds(std::process::id())? - before;
        Ok(cpu * 1e6 / self.made.load(Ordering::Relaxed) as f64)
    }

    async fn one(&self, way: RequestMode, put: bool, wire: &mut RawConnection) -> anyhow::Result<()> {
        let signed;
        let (get, put_to) = match way {
            RequestMode::SignedBefore => (&self.get, &self.put),
            RequestMode::SignedEach => {
                signed = self.sign(if put { "PUT" } else { "GET" })?;
                (&signed, &signed)
            }
            RequestMode::Sdk => return self.by_sdk(put).await,
        };
        if put {
            wire.put(put_to, self.body.clone().into(), Some(&self.md5)).await
        } else {
            wire.get(get, None, drop).await
        }
    }

    fn sign(&self, method: &str) -> anyhow::Result<Uri> {
        let bucket = Stores::bucket_of(if method == "PUT" { "wasabi" } else { "b2" });
        let uri = format!("{}/{bucket}/object", self.stores.endpoint);
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(Duration::from_mins(15));
        let identity = self.signer.credentials.clone().into();
        #[expect(clippy::disallowed_methods, reason = "what a signature is made of")]
        let now = std::time::SystemTime::now();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region("us-east-1")
            .name("s3")
            .time(now)
            .settings(settings)
            .build()?;
        let host = self.signer.address.to_string();
        let headers = [("host", host.as_str())];
        let signable = SignableRequest::new(method, &uri, headers.into_iter(), SignableBody::UnsignedPayload)?;
        let (instructions, _) = sign(signable, &params.into())?.into_parts();
        let mut request = hyper::Request::builder().method(method).uri(&uri).body(())?;
        instructions.apply_to_request_http1x(&mut request);
        Ok(request.uri().clone())
    }

    async fn by_sdk(&self, put: bool) -> anyhow::Result<()> {
        let client = &self.signer.client;
        if put {
            let call = client.put_object().bucket(Stores::bucket_of("wasabi")).key("object");
            let call = call.content_md5(&self.md5).body(self.body.clone().into());
            call.customize().disable_payload_signing().send().await?;
        } else {
            let answer = client.get_object().bucket(Stores::bucket_of("b2")).key("object").send().await?;
            let mut body = answer.body;
            while let Some(frame) = body.next().await {
                frame?;
            }
        }
        Ok(())
    }
}
