//! Stores that are reached through an HTTP proxy, as `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` say.

use std::{net::SocketAddr, time::Duration};

use hyper::StatusCode;

use crate::{
    harness::{Harness, printed},
    http_proxy::{HttpProxy, Rules},
    tls_relay::{pem, relay},
};

const NO_UPSTREAM: Rules = Rules { upstream: None, wants: None, refuses: None, behind: None };

impl Harness {
    fn s3_address(&self) -> SocketAddr {
        self.s3.endpoint().strip_prefix("http://").unwrap().parse().unwrap()
    }

    /// `scw` is at this endpoint, which no name server knows.
    fn scw_at(&mut self, endpoint: &str, more: &str) {
        let here = self.s3.endpoint();
        self.rewrite(|text| {
            let (before, scw) = text.split_once("[replicas.scw]\n").unwrap();
            let scw = scw.replacen(&format!("endpoint = \"{here}\""), &format!("endpoint = \"{endpoint}\"\n{more}"), 1);
            format!("{before}[replicas.scw]\n{scw}")
        });
    }

    /// What `check` prints where these variables are set.
    async fn checked(&self, environment: &[(&str, &str)]) -> (Option<i32>, String) {
        let mut command = self.program(&["check"]);
        let output = command.envs(environment.iter().copied()).output().await.unwrap();
        (output.status.code(), printed(&output))
    }
}

#[tokio::test]
async fn a_store_without_tls_is_reached_through_its_proxy_and_the_proxys_password_is_nowhere() {
    let mut harness = Harness::new().await;
    // me:geheim
    let wants = Some("Basic bWU6Z2VoZWlt");
    let proxy = HttpProxy::start(Rules { upstream: Some(harness.s3_address()), wants, ..NO_UPSTREAM }).await;
    harness.scw_at("http://store.internal:9000", "insecure = true");
    let url = format!("http://me:geheim@{}", proxy.address);
    let daemon = harness.daemon_with(&[("http_proxy", &url)]);
    harness.upload("photo", "bytes").await;
    harness.until_copied("photo").await;
    assert!(proxy.has_seen("PUT http://store.internal:9000/photos-scw/photo"));
    let goes_through = format!("go through the proxy {}, which http_proxy names", proxy.address);
    assert_eq!(daemon.log().matches(&goes_through).count(), 1, "{}", daemon.log());
    let (code, text) = harness.checked(&[("HTTP_PROXY", &url)]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.lines().any(|line| line.starts_with("ok    scw") && line.contains("through the proxy 127.")),
        "{text}"
    );
    // The others are on this machine, and so reached without it.
    assert!(!proxy.has_seen("PUT http://127.") && !proxy.has_seen("GET http://127."));
    for said in [daemon.log(), text] {
        assert!(!said.contains("geheim") && !said.contains("bWU6"), "{said}");
    }
}

#[tokio::test]
async fn a_store_with_tls_is_reached_through_a_tunnel() {
    let mut harness = Harness::new().await;
    let proxy = HttpProxy::to(relay("server.pem", harness.s3_address()).await).await;
    harness.scw_at("https://store.internal:9443", &format!("ca_file = \"{}\"", pem("ca.pem").display()));
    let _daemon = harness.daemon_with(&[("HTTPS_PROXY", &proxy.url()), ("HTTP_PROXY", "http://127.0.0.1:1")]);
    harness.upload("photo", "bytes").await;
    harness.until_copied("photo").await;
    assert!(proxy.has_seen("CONNECT store.internal:9443"));
}

#[tokio::test]
async fn a_proxy_that_speaks_tls_itself_is_spoken_to_over_tls() {
    let mut harness = Harness::new().await;
    let proxy = HttpProxy::to(relay("server.pem", harness.s3_address()).await).await;
    let secure = format!("https://localhost:{}", relay("server.pem", proxy.address).await.port());
    harness.scw_at("https://store.internal:9443", &format!("ca_file = \"{}\"", pem("ca.pem").display()));
    let bundle = pem("ca.pem");
    let (code, text) = harness.checked(&[("HTTPS_PROXY", &secure), ("AWS_CA_BUNDLE", bundle.to_str().unwrap())]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(proxy.has_seen("CONNECT store.internal:9443"));
}

#[tokio::test]
async fn a_proxy_that_is_of_no_use_is_named_with_what_to_do() {
    let mut harness = Harness::new().await;
    let told = async |harness: &Harness, rules: Option<Rules>, user: &str| {
        let address = match rules {
            Some(rules) => HttpProxy::start(rules).await.address,
            None => "127.0.0.1:1".parse().unwrap(),
        };
        let url = format!("http://{user}{address}");
        let (code, text) = harness.checked(&[("ALL_PROXY", &url), ("NO_PROXY", "elsewhere.internal")]).await;
        assert_eq!(code, Some(1), "{text}");
        assert!(!text.contains("geheim"), "{text}");
        text.lines().find(|line| line.starts_with("FAIL  scw")).expect(&text).to_owned()
    };
    let wants = Rules { wants: Some("Basic of another"), ..NO_UPSTREAM };
    let refuses = Rules { refuses: Some(StatusCode::FORBIDDEN), ..NO_UPSTREAM };
    harness.scw_at("https://store.internal:9443", "");
    for (rules, user, words) in [
        (None, "", "no connection to the proxy, which ALL_PROXY names: connection refused"),
        (Some(wants.clone()), "", "asks for a user name and a password (407); write them into ALL_PROXY"),
        (Some(wants.clone()), "me:geheim@", "does not accept the user name and the password in ALL_PROXY (407)"),
        (Some(refuses.clone()), "", "the proxy refuses to connect there (403 Forbidden)"),
        (Some(NO_UPSTREAM), "", "the proxy cannot connect there (502 Bad Gateway)"),
    ] {
        let line = told(&harness, rules, user).await;
        assert!(line.contains(words) && line.contains("cannot reach https://store.internal:9443"), "{line}");
    }
    harness.scw_at("http://store.internal:9000", "insecure = true");
    for (rules, words) in [
        (None, "no connection to the proxy, which ALL_PROXY names: connection refused"),
        (Some(wants), "HTTP_PROXY and HTTPS_PROXY name the proxy and its user"),
        (Some(refuses), "through the proxy 127.0.0.1"),
    ] {
        let line = told(&harness, rules, "").await;
        assert!(line.contains(words), "{line}");
    }
}

#[tokio::test]
async fn a_proxy_that_cannot_be_used_is_refused_at_the_start_where_a_store_needs_it() {
    let mut harness = Harness::new().await;
    let socks = [("HTTPS_PROXY", "socks5://me:geheim@127.0.0.1:1080")];
    assert_eq!(harness.checked(&socks).await.0, Some(0), "no store needs it");
    harness.scw_at("https://store.internal:9443", &format!("ca_file = \"{}\"", pem("ca.pem").display()));
    let (code, text) = harness.checked(&socks).await;
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("HTTPS_PROXY: names a SOCKS proxy") && !text.contains("geheim"), "{text}");
}

#[tokio::test]
async fn check_warns_of_a_store_whose_clock_is_far_off() {
    let mut harness = Harness::new().await;
    // Within what stores let pass.
    let behind = Some(Duration::from_mins(10));
    let proxy = HttpProxy::start(Rules { upstream: Some(harness.s3_address()), behind, ..NO_UPSTREAM }).await;
    harness.scw_at("http://store.internal:9000", "insecure = true");
    let (code, text) = harness.checked(&[("HTTP_PROXY", &proxy.url())]).await;
    assert_eq!(code, Some(0), "a warning fails nothing: {text}");
    let warned = |line: &str| line.starts_with("warn  scw") && line.contains("its clock is") && line.contains("behind");
    assert!(text.lines().any(warned), "{text}");
    assert!(!text.contains("warn  b2"), "{text}");
}
