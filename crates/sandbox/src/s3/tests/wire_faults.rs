//! Tests: faults of the connection itself.

use std::time::Instant;

use super::super::{Fault, Op, When};
use super::*;

const BIG: usize = 3_000_000;

impl Setup {
    /// With an object `k` that no socket buffer holds.
    async fn with_big() -> Self {
        let s = Self::new().await;
        s.b2.put("k", vec![7; BIG]);
        s
    }

    async fn hear(&self, fault: Fault) -> Heard {
        let order = self.b2.order(fault, Op::GetObject);
        let heard = self.send(&self.presigned_get("k").await, "", b"").await;
        order.clear();
        heard
    }
}

#[tokio::test]
async fn a_reset_comes_without_an_answer_and_without_effect() {
    let s = Setup::with_big().await;
    let heard = s.hear(Fault::Reset).await;
    assert_eq!((heard.status, heard.end), (0, Err(io::ErrorKind::ConnectionReset)));
    s.b2.order(Fault::Reset, When::op(Op::PutObject).next(1));
    let put = s.client.put_object().bucket("b2").key("new").body(ByteStream::from_static(b"hello")).send().await;
    assert!(matches!(put.unwrap_err(), SdkError::DispatchFailure(_)));
    assert_eq!((s.b2.get("new"), s.b2.calls(Op::PutObject), s.b2.successes(Op::PutObject)), (None, 1, 0));
}

#[tokio::test]
async fn an_upload_may_be_reset_half_way() {
    let s = Setup::new().await;
    s.b2.order(Fault::ResetUpload { after: 1_000_000 }, When::op(Op::PutObject));
    let put = s.client.put_object().bucket("b2").key("k").body(vec![0; 8 << 20].into()).send().await;
    assert!(put.unwrap_err().raw_response().is_none());
    assert!(s.b2.keys().is_empty());
}

#[tokio::test]
async fn a_lost_answer_leaves_the_deed() {
    let s = Setup::new().await;
    s.b2.order(Fault::LoseAnswer, When::op(Op::PutObject).next(1));
    let put = s.client.put_object().bucket("b2").key("k").body(ByteStream::from_static(b"hello")).send().await;
    assert!(put.unwrap_err().raw_response().is_none());
    assert_eq!(s.b2.get("k").unwrap(), "hello");
    assert_eq!((s.b2.writes("k"), s.b2.successes(Op::PutObject)), (1, 1));
}

#[tokio::test]
async fn a_cut_body_ends_after_exactly_so_many_bytes() {
    let s = Setup::with_big().await;
    for after in [0, 1, 65_536, 2_999_999] {
        let heard = s.hear(Fault::CutBody { after }).await;
        assert_eq!(heard.status, 200);
        assert!(heard.head.contains(&format!("content-length: {BIG}\r\n")), "{}", heard.head);
        assert_eq!((heard.body.len() as u64, heard.end), (after, Ok(())));
    }
    let whole = s.hear(Fault::CutBody { after: BIG as u64 }).await;
    assert_eq!((whole.body.len(), whole.end), (BIG, Ok(())));
}

#[tokio::test]
async fn the_sdk_notices_a_cut_body() {
    let s = Setup::with_big().await;
    s.b2.order(Fault::CutBody { after: 1000 }, When::always());
    let got = s.client.get_object().bucket("b2").key("k").send().await.unwrap();
    assert_eq!(got.content_length(), i64::try_from(BIG).ok());
    assert!(got.body.collect().await.is_err());
}

#[tokio::test]
async fn a_body_may_end_in_a_reset() {
    let s = Setup::with_big().await;
    let heard = s.hear(Fault::ResetBody { after: 1_000_000 }).await;
    assert_eq!(heard.end, Err(io::ErrorKind::ConnectionReset));
    assert!(heard.body.len() <= 1_000_000, "{}", heard.body.len());
}

#[tokio::test]
async fn a_stalled_body_goes_on_when_the_order_is_cleared() {
    let s = Setup::with_big().await;
    let order = s.b2.order(Fault::StallBody { after: 100_000 }, When::always());
    let mut stream = s.begin(&s.presigned_get("k").await, "").await;
    let mut some = vec![0; 100_000];
    stream.read_exact(&mut some).await.unwrap(); // head and most of the first bytes
    order.clear();
    let rest = Heard::all_of(&mut stream).await;
    assert_eq!(rest.end, Ok(()));
    let all = some.len() + rest.head.len() + rest.body.len();
    assert!(all > BIG, "{all}");
}

#[tokio::test]
async fn exactly_one_bit_of_a_body_is_flipped() {
    let s = Setup::with_big().await;
    for at in [0, 12_345, BIG - 1, BIG + 5] {
        let heard = s.hear(Fault::FlipBody { at: at as u64 }).await;
        let wrong: Vec<_> = heard.body.iter().enumerate().filter(|(_, b)| **b != 7).collect();
        assert_eq!(wrong, [(at % BIG, &6)], "{at}");
    }
    s.b2.order(Fault::FlipBody { at: 1 }, When::always());
    let got = s.client.get_object().bucket("b2").key("k").range("bytes=10-12").send().await.unwrap();
    assert_eq!(got.body.collect().await.unwrap().to_vec(), [7, 6, 7]);
}

#[tokio::test]
async fn a_dripping_body_takes_its_time_and_comes_whole() {
    let s = Setup::with_big().await;
    s.b2.put("k", vec![7; 1000]);
    let begun = Instant::now();
    let heard = s.hear(Fault::Drip { bytes_per_second: 4000 }).await;
    assert_eq!((heard.body.len(), heard.end), (1000, Ok(())));
    // 1000 bytes at 200 every 50 ms: the last piece leaves after 200 ms at the earliest.
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_dripping_upload_takes_its_time_and_arrives_whole() {
    let s = Setup::new().await;
    let order = s.b2.order(Fault::DripUpload { bytes_per_second: 10 << 20 }, When::op(Op::PutObject));
    let bytes: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
    let begun = Instant::now();
    s.put("k", &bytes).await;
    assert!(s.b2.get("k").unwrap() == bytes);
    assert_eq!(order.strikes(), 1);
    // 3 MiB at 10 MiB/s; the wait after the last piece is not paid.
    assert!(begun.elapsed() >= Duration::from_millis(150), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_far_store_answers_later_and_may_fail_all_the_same() {
    let s = Setup::new().await;
    s.b2.order(Fault::Delay(Duration::from_millis(100)), When::always());
    s.b2.order(Fault::internal_error(), When::always().next(1));
    let begun = Instant::now();
    let get = s.client.get_object().bucket("b2").key("k").send().await;
    assert_eq!(refusal(get), refused(500, "InternalError"));
    assert!(begun.elapsed() >= Duration::from_millis(100), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_refusal_is_heard_even_if_much_was_still_to_be_sent() {
    let s = Setup::new().await;
    s.b2.order(Fault::slow_down(), Op::PutObject);
    for _ in 0..5 {
        let put = s.client.put_object().bucket("b2").key("k").body(vec![0; 8 << 20].into()).send().await;
        assert_eq!(refusal(put), refused(503, "SlowDown"));
    }
}

#[tokio::test]
async fn a_connection_goes_on_after_an_ordinary_error() {
    let s = Setup::with_big().await;
    let url = s.presigned_get("k").await.uri().to_owned();
    let (host, target) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    s.b2.order(Fault::internal_error(), When::always().next(1));
    let request = format!("GET /{target} HTTP/1.1\r\nhost: {host}\r\nrange: bytes=0-0\r\n");
    let both = s.say(&format!("{request}\r\n{request}connection: close\r\n\r\n")).await;
    assert_eq!(both.status, 500);
    assert!(both.body_text().contains("HTTP/1.1 206 Partial Content"), "{}", both.body_text());
}
