//! An HTTP proxy as companies have them: CONNECT and forwarded requests, with a user or without.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::Incoming,
    header::{DATE, HeaderValue, PROXY_AUTHORIZATION},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::net::{TcpListener, TcpStream};

/// What the proxy does with requests.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Where every name leads; `None`: to nothing that can be reached.
    pub upstream: Option<SocketAddr>,
    /// The Proxy-Authorization that it wants.
    pub wants: Option<&'static str>,
    /// What it answers to every request; `None`: it lets them through.
    pub refuses: Option<StatusCode>,
    /// How far the Date of all answers is behind.
    pub behind: Option<Duration>,
}

/// A running proxy; it ends with the test's runtime.
pub struct HttpProxy {
    pub address: SocketAddr,
    seen: Seen,
}

/// Method and target of each request, as they came.
type Seen = Arc<Mutex<Vec<String>>>;
type Answer = Response<BoxBody<Bytes, hyper::Error>>;
type Forwarder = Client<HttpConnector, Incoming>;

impl HttpProxy {
    pub async fn start(rules: Rules) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Seen::default());
        let forwarder: Forwarder = Client::builder(TokioExecutor::new()).build_http();
        tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (rules, seen, forwarder) = (rules.clone(), Arc::clone(&seen), forwarder.clone());
                    let service =
                        service_fn(move |request| answer(rules.clone(), Arc::clone(&seen), forwarder.clone(), request));
                    let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    tokio::spawn(serving.with_upgrades());
                }
            }
        });
        Self { address, seen }
    }

    /// To everything behind `upstream`.
    pub async fn to(upstream: SocketAddr) -> Self {
        Self::start(Rules { upstream: Some(upstream), wants: None, refuses: None, behind: None }).await
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Whether a request has come that begins so: `PUT http://`.
    pub fn has_seen(&self, begin: &str) -> bool {
        self.seen.lock().unwrap().iter().any(|line| line.starts_with(begin))
    }
}

async fn answer(
    rules: Rules,
    seen: Seen,
    forwarder: Forwarder,
    mut request: Request<Incoming>,
) -> Result<Answer, hyper::Error> {
    seen.lock().unwrap().push(format!("{} {}", request.method(), request.uri()));
    let authorization = request.headers_mut().remove(PROXY_AUTHORIZATION);
    if let Some(status) = rules.refuses {
        return Ok(page(status));
    }
    if rules.wants.is_some_and(|wants| authorization.is_none_or(|shown| shown != wants)) {
        return Ok(page(StatusCode::PROXY_AUTHENTICATION_REQUIRED));
    }
    let Some(upstream) = rules.upstream else { return Ok(page(StatusCode::BAD_GATEWAY)) };
    if request.method() == Method::CONNECT {
        tokio::spawn(tunnel(upstream, request));
        return Ok(Response::new(empty()));
    }
    // A whole URL, as to a proxy; to another server it would be a path.
    assert!(request.uri().scheme().is_some(), "{}", request.uri());
    let path = request.uri().path_and_query().unwrap().clone();
    *request.uri_mut() =
        Uri::builder().scheme("http").authority(upstream.to_string()).path_and_query(path).build().unwrap();
    let mut answer = match forwarder.request(request).await {
        Ok(answer) => answer.map(BodyExt::boxed),
        Err(_) => page(StatusCode::BAD_GATEWAY),
    };
    if let Some(behind) = rules.behind {
        answer.headers_mut().insert(DATE, date(behind));
    }
    Ok(answer)
}

#[expect(clippy::disallowed_methods, reason = "a store whose clock is behind this machine's")]
fn date(behind: Duration) -> HeaderValue {
    let date = DateTime::from(SystemTime::now() - behind).fmt(DateTimeFormat::HttpDate).unwrap();
    date.parse().unwrap()
}

async fn tunnel(upstream: SocketAddr, request: Request<Incoming>) {
    let (Ok(client), Ok(mut server)) = (hyper::upgrade::on(request).await, TcpStream::connect(upstream).await) else {
        return;
    };
    // It ends when one side does, however that may be.
    let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut server).await;
}

fn page(status: StatusCode) -> Answer {
    let text = Full::new(Bytes::from(format!("<html>{status}</html>"))).map_err(|never| match never {});
    let mut answer = Response::new(text.boxed());
    *answer.status_mut() = status;
    answer
}

fn empty() -> BoxBody<Bytes, hyper::Error> {
    Full::new(Bytes::new()).map_err(|never| match never {}).boxed()
}
