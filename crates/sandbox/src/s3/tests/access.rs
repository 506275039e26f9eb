//! Tests: keys and signatures.

use std::time::SystemTime;

use super::*;

async fn status_with(access_key_id: &str, secret: &str) -> (u16, String) {
    let s = Setup::new().await;
    s.b2.put("k", "x");
    let keys = Credentials::new(access_key_id, secret, None, None, "test");
    let client = Client::from_conf(config(&s.server).credentials_provider(keys).build());
    refusal(client.get_object().bucket("b2").key("k").send().await)
}

#[tokio::test]
async fn a_wrong_secret_is_a_wrong_signature() {
    assert_eq!(status_with("sandbox", "guessed").await, refused(403, "SignatureDoesNotMatch"));
}

#[tokio::test]
async fn an_unknown_key_id_is_named_as_such() {
    assert_eq!(status_with("nobody", "sandbox-secret").await, refused(403, "InvalidAccessKeyId"));
}

#[tokio::test]
async fn nobody_comes_in_without_keys() {
    let s = Setup::new().await;
    s.b2.put("k", "x");
    let heard = s.say("GET /b2/k HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert_eq!(heard.status, 403);
    assert!(heard.body_text().contains("<Code>AccessDenied</Code>"), "{}", heard.body_text());
}

#[tokio::test]
async fn a_large_upload_with_a_wrong_secret_hears_why() {
    let s = Setup::new().await;
    let keys = Credentials::new("sandbox", "guessed", None, None, "test");
    let client = Client::from_conf(config(&s.server).credentials_provider(keys).build());
    let put = client.put_object().bucket("b2").key("k").body(vec![0; 8 << 20].into()).send().await;
    assert_eq!(refusal(put), refused(403, "SignatureDoesNotMatch"));
    assert!(s.b2.keys().is_empty());
}

#[tokio::test]
async fn a_presigned_request_is_as_good_as_a_signed_one() {
    let s = Setup::new().await;
    let put = s.send(&s.presigned_put("a b//ü").await, "content-length: 5\r\n", b"hello").await;
    assert_eq!(put.status, 200, "{put:?}");
    let got = s.send(&s.presigned_get("a b//ü").await, "", b"").await;
    assert_eq!((got.status, got.body_text().as_str()), (200, "hello"));
}

#[tokio::test]
async fn a_presigned_request_is_for_its_key_and_its_time_only() {
    let s = Setup::new().await;
    s.b2.put("k", "x");
    s.b2.put("l", "x");
    let url = s.presigned_get("k").await.uri().replace("/k?", "/l?");
    let host = s.server.address();
    let target = url.strip_prefix(&format!("http://{host}")).unwrap();
    let heard = s.say(&format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await;
    assert_eq!(heard.status, 403);
    assert!(heard.body_text().contains("SignatureDoesNotMatch"));

    let an_hour_ago = SystemTime::now() - Duration::from_hours(1);
    let expired =
        PresigningConfig::builder().start_time(an_hour_ago).expires_in(Duration::from_mins(1)).build().unwrap();
    let request = s.client.get_object().bucket("b2").key("k").presigned(expired).await.unwrap();
    let heard = s.send(&request, "", b"").await;
    assert_eq!(heard.status, 403);
    assert!(heard.body_text().contains("AccessDenied"), "{}", heard.body_text());
}

#[tokio::test]
async fn a_bucket_may_be_addressed_by_host() {
    let s = Setup::new().await;
    let wasabi = s.server.create_bucket("wasabi", BucketOptions::default());
    wasabi.put("a/b", "by host");
    let by_host = config(&s.server)
        .force_path_style(false)
        .endpoint_url(format!("http://localhost:{}", s.server.address().port()));
    let request = Client::from_conf(by_host.build())
        .get_object()
        .bucket("wasabi")
        .key("a/b")
        .presigned(for_a_minute())
        .await
        .unwrap();
    assert!(request.uri().starts_with("http://wasabi.localhost:"), "{}", request.uri());
    let heard = s.send(&request, "", b"").await;
    assert_eq!((heard.status, heard.body_text().as_str()), (200, "by host"));
    assert_eq!(wasabi.successes(super::super::Op::GetObject), 1);
}
