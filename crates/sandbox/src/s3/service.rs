//! Handles one request from head to answer: counts it, applies injected faults, passes it to the S3 library, and counts
//! it again.

use std::io;
use std::sync::Arc;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Request, Response, StatusCode, header};
use s3s::service::S3Service;

use super::connection::{ConnectionFault, End};
use super::fault::{ErrorAnswer, Fault};
use super::fault_rules::Rule;
use super::operation::{Op, ParsedRequest};
use super::receive_body::Damage;
use super::request_body::{drain, lend, read_some};
use super::response_body::{AnswerBody, Sent};
use super::state::ServerState;
use super::xml;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");

/// Ends the connection without an answer.
type Hangup = s3s::StdError;

pub(super) async fn answer(
    shared: Arc<ServerState>,
    s3: S3Service,
    fate: Arc<ConnectionFault>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Hangup> {
    let id = shared.next_request_id();
    let mut answer = answer_without_id(&shared, &s3, &fate, request).await?;
    answer.headers_mut().insert(REQUEST_ID, id);
    Ok(answer)
}

async fn answer_without_id(
    shared: &ServerState,
    s3: &S3Service,
    fate: &Arc<ConnectionFault>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Hangup> {
    let (mut head, body) = request.into_parts();
    let call = ParsedRequest::of(&head);
    let call_counts = shared.call_counts(call.bucket.as_deref().unwrap_or(""));
    call_counts.arrived(&call);

    let rule = await_orders(shared, &call).await;
    let fault = rule.as_ref().map(|rule| &rule.fault);
    match fault {
        Some(Fault::Answer(answer)) => {
            drain(body).await;
            return Ok(error_answer(answer));
        }
        Some(Fault::Page(page)) => {
            drain(body).await;
            return Ok(Response::new(AnswerBody::sound(page.clone().into())));
        }
        Some(Fault::ProxyPage { status, page }) => {
            drain(body).await;
            return Ok(proxy_page(*status, page));
        }
        Some(Fault::Reset) => return Err(hang_up(fate)),
        Some(Fault::ResetUpload { after }) => {
            read_some(body, *after).await;
            return Err(hang_up(fate));
        }
        Some(Fault::FlipArriving { at }) => {
            head.extensions.insert(Damage { at: *at, silent: false });
        }
        Some(Fault::StoreDamaged { at }) => {
            head.extensions.insert(Damage { at: *at, silent: true });
        }
        _ => {}
    }

    merge_encodings(&mut head.headers);
    if let Some(fault @ (Fault::CarryOutLate(_) | Fault::CarryOutAfter(_))) = fault {
        let bytes = body.collect().await?.to_bytes();
        let (s3, fault) = (s3.clone(), fault.clone());
        tokio::spawn(async move {
            match fault {
                Fault::CarryOutLate(gate) => gate.pass().await,
                Fault::CarryOutAfter(time) => tokio::time::sleep(time).await,
                _ => {}
            }
            // Its result is not reported.
            let _ = s3.call(Request::from_parts(head, bytes.into())).await;
        });
        return Err(hang_up(fate));
    }
    let pace = match fault {
        Some(Fault::DripUpload { bytes_per_second }) => Some(*bytes_per_second),
        _ => None,
    };
    let read = {
        let (call_counts, op) = (Arc::clone(&call_counts), call.op);
        move |bytes| call_counts.received(op, bytes)
    };
    let (body, leftover) = lend(body, pace, read);
    let mut response = s3.call(Request::from_parts(head, body)).await?;
    if call.op != Op::GetObject {
        // Object data is never changed, even if it is XML.
        xml::spell_out(&mut response);
    }
    if let Some(rest) = leftover.and_then(|mut leftover| leftover.try_recv().ok()) {
        drain(rest).await;
    }
    if response.headers().contains_key(header::CONTENT_RANGE) && response.status() == StatusCode::OK {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT; // the library knows it of GET only
    }
    if response.status().is_success() {
        call_counts.succeeded(&call);
    }
    match fault {
        Some(Fault::LoseAnswer) => return Err(hang_up(fate)),
        Some(Fault::HoldAnswer(gate)) => gate.pass().await,
        Some(Fault::WrongEtag) => wrong_etag(&mut response),
        Some(Fault::NoEtag) => no_etag(&mut response),
        Some(Fault::Headers(lines)) => add_headers(&mut response, lines),
        Some(Fault::Compress) => compress(&mut response),
        Some(Fault::Decompress { ranges }) => decompress(&mut response, *ranges),
        Some(Fault::UnreadableHeader) => unreadable_header(&mut response),
        _ => {}
    }
    let sent = response.status().is_success().then_some(Sent { call_counts, op: call.op });
    Ok(response.map(|body| infect(body, rule.as_deref(), fate).counted(sent)))
}

/// Applies waiting faults, and returns the rule of the first other one that applies.
async fn await_orders(shared: &ServerState, call: &ParsedRequest) -> Option<Arc<Rule>> {
    let mut seen = 0;
    loop {
        let rule = shared.rules.strike(call, seen)?;
        seen = rule.id;
        match &rule.fault {
            Fault::Hold(gate) => gate.pass().await,
            Fault::Stall => rule.cleared.cancelled().await,
            Fault::Delay(time) => tokio::time::sleep(*time).await,
            _ => return Some(rule),
        }
    }
}

/// The SDK sends `gzip` and `aws-chunked` as two headers, which the library refuses. Joined by a
/// bare comma they are the same header to HTTP and to the signature.
fn merge_encodings(headers: &mut HeaderMap) {
    let all: Vec<_> = headers.get_all(header::CONTENT_ENCODING).iter().map(HeaderValue::as_bytes).collect();
    if all.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&all.join(&b','))
    {
        headers.insert(header::CONTENT_ENCODING, joined);
    }
}

fn infect(body: s3s::Body, rule: Option<&Rule>, fate: &Arc<ConnectionFault>) -> AnswerBody {
    let Some(rule) = rule else { return AnswerBody::sound(body) };
    match rule.fault {
        Fault::CutBody { after } => AnswerBody::ending(body, after, End::Close, Arc::clone(fate)),
        Fault::ResetBody { after } => AnswerBody::ending(body, after, End::Reset, Arc::clone(fate)),
        Fault::StallBody { after } => AnswerBody::stalling(body, after, rule.cleared.clone()),
        Fault::FlipBody { at } => AnswerBody::flipped(body, at),
        Fault::Drip { bytes_per_second } => AnswerBody::dripping(body, bytes_per_second),
        Fault::Answer(_)
        | Fault::Page(_)
        | Fault::ProxyPage { .. }
        | Fault::Reset
        | Fault::ResetUpload { .. }
        | Fault::LoseAnswer
        | Fault::Delay(_)
        | Fault::Stall
        | Fault::Hold(_)
        | Fault::HoldAnswer(_)
        | Fault::CarryOutLate(_)
        | Fault::CarryOutAfter(_)
        | Fault::WrongEtag
        | Fault::NoEtag
        | Fault::Headers(_)
        | Fault::Compress
        | Fault::Decompress { .. }
        | Fault::UnreadableHeader
        | Fault::DripUpload { .. }
        | Fault::FlipArriving { .. }
        | Fault::StoreDamaged { .. } => AnswerBody::sound(body),
    }
}

fn hang_up(fate: &ConnectionFault) -> Hangup {
    fate.seal(End::Reset);
    io::Error::from(io::ErrorKind::ConnectionReset).into()
}

fn error_answer(answer: &ErrorAnswer) -> Response<AnswerBody> {
    // Cannot fail: the code and message are plain text.
    let mut response = answer.to_error().to_http_response().expect("an error is serialisable");
    response.headers_mut().extend(answer.headers());
    response.map(AnswerBody::sound)
}

fn add_headers(response: &mut Response<s3s::Body>, lines: &[(&'static str, String)]) {
    for (name, _) in lines {
        response.headers_mut().remove(*name);
    }
    for (name, value) in lines {
        // Cannot fail: a test chose the value.
        let value = HeaderValue::from_bytes(value.as_bytes()).expect("a value of a header");
        response.headers_mut().append(*name, value);
    }
}

fn proxy_page(status: u16, page: &str) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::sound(page.to_owned().into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
    if response.status().is_redirection() {
        response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/elsewhere"));
    }
    response
}

fn unreadable_header(response: &mut Response<s3s::Body>) {
    // Cannot fail: a header may hold these bytes, though no text does.
    let value = HeaderValue::from_bytes(b"caf\xe9").expect("a header's value");
    response.headers_mut().insert(HeaderName::from_static("x-amz-meta-odd"), value);
}

/// The whole body as some proxies send it; its syntax is not checked.
fn compress(response: &mut Response<s3s::Body>) {
    let compressed = hyper::body::Bytes::from_static(b"compressed");
    response.headers_mut().remove(header::CONTENT_RANGE);
    response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().insert(header::CONTENT_LENGTH, compressed.len().into());
    *response.status_mut() = StatusCode::OK;
    *response.body_mut() = compressed.into();
}

/// Reads the whole body as it was before it was encoded.
fn decompress(response: &mut Response<s3s::Body>, ranges: bool) {
    let plain = hyper::body::Bytes::from_static(b"the bytes as they were before they were compressed");
    let asked_for_range = response.headers_mut().remove(header::CONTENT_RANGE).is_some();
    response.headers_mut().remove(header::CONTENT_ENCODING);
    response.headers_mut().insert(header::CONTENT_LENGTH, plain.len().into());
    *response.status_mut() = StatusCode::OK;
    if ranges && asked_for_range {
        let last = plain.len() - 1;
        // Cannot fail: it is made of digits.
        let range = format!("bytes 0-{last}/{}", plain.len()).parse().expect("a header's value");
        response.headers_mut().insert(header::CONTENT_RANGE, range);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    *response.body_mut() = plain.into();
}

/// Replaces the ETag by another of the same form, in the head or in a small XML body.
fn wrong_etag(response: &mut Response<s3s::Body>) {
    if let Some(etag) = response.headers().get(header::ETAG) {
        let wrong = other_digit(etag.as_bytes(), 0);
        if let Ok(wrong) = wrong.try_into() {
            response.headers_mut().insert(header::ETAG, wrong);
        }
    } else if let Some(xml) = response.body().bytes()
        && let Some(start) = xml.windows(6).position(|w| w == b"<ETag>")
    {
        let quote = if xml[start + 6..].starts_with(b"&quot;") { 6 } else { 0 };
        *response.body_mut() = other_digit(&xml, start + 6 + quote).into();
    }
}

/// Removes the ETag, in the head or in a small XML body.
fn no_etag(response: &mut Response<s3s::Body>) {
    response.headers_mut().remove(header::ETAG);
    let position = |xml: &[u8], what: &[u8]| xml.windows(what.len()).position(|w| w == what);
    if let Some(xml) = response.body().bytes()
        && let (Some(start), Some(end)) = (position(&xml, b"<ETag>"), position(&xml, b"</ETag>"))
    {
        *response.body_mut() = [&xml[..start], &xml[end + "</ETag>".len()..]].concat().into();
    }
}

/// Replaces the first hexadecimal digit after `from`.
fn other_digit(text: &[u8], from: usize) -> Vec<u8> {
    let mut text = text.to_vec();
    if let Some(digit) = text.iter_mut().skip(from).find(|b| b.is_ascii_hexdigit()) {
        *digit = if *digit == b'0' { b'1' } else { b'0' };
    }
    text
}
