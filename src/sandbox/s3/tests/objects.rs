use super::*;

#[tokio::test]
async fn what_is_put_is_got_again() {
    let s = Setup::new().await;
    s.put("a//b", b"hello").await;
    assert_eq!(s.get("a//b").await, b"hello");
    assert_eq!(s.b2.get("a//b").unwrap(), "hello");
    assert_eq!(s.b2.keys(), ["a//b"]);
}

#[tokio::test]
async fn a_missing_key_and_a_missing_bucket_have_different_codes() {
    let s = Setup::new().await;
    assert_eq!(refusal(s.client.get_object().bucket("b2").key("no").send().await), (404, "NoSuchKey".into()));
    assert_eq!(refusal(s.client.get_object().bucket("nowhere").key("no").send().await), (404, "NoSuchBucket".into()));
    let put = s.client.put_object().bucket("nowhere").key("k").body(vec![0; 1 << 20].into());
    assert_eq!(refusal(put.send().await), (404, "NoSuchBucket".into()));
}
