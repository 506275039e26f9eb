//! Bodies of answers other than object data: read completely, up to a limit, and repaired for the SDK.
//!
//! It leaves the body of a successful GetObject alone.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use aws_sdk_s3::{
    config::{ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeDeserializationInterceptorContextMut},
    error::BoxError,
    primitives::SdkBody,
};
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use bytes::Bytes;
use http_body::{Body, Frame};

use super::{xml_document::InvalidDocument, xml_repair};

/// A page of a thousand keys, each of 1,024 bytes written as `%XX`, has 4 MiB with all fields of S3.
const MOST_OF_A_PAGE: usize = 8 << 20;
/// Every other answer fits in a few KiB.
const MOST: usize = 1 << 20;

const LISTINGS: [&str; 4] = ["ListObjectsV2", "ListObjectVersions", "ListMultipartUploads", "ListParts"];

/// Bounds and repairs the bodies of answers. Closes the connection of an endless one.
#[derive(Debug)]
pub(super) struct BoundedResponse;

impl Intercept for BoundedResponse {
    fn name(&self) -> &'static str {
        "BoundedResponse"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let operation = config.load::<Metadata>().map(Metadata::name).unwrap_or_default().to_owned();
        let answer = context.response_mut();
        let success = answer.status().is_success();
        if success && operation == "GetObject" {
            return Ok(());
        }
        let page = success && LISTINGS.contains(&operation.as_str());
        let body = std::mem::replace(answer.body_mut(), SdkBody::taken());
        *answer.body_mut() = SdkBody::from_body_1_x(BufferedBody {
            body: Some(Box::pin(body)),
            bytes: Vec::new(),
            most: if page { MOST_OF_A_PAGE } else { MOST },
            success,
        });
        Ok(())
    }
}

/// A body that is read to its end before its first byte is passed on.
struct BufferedBody {
    /// `None`: it was read.
    body: Option<Pin<Box<SdkBody>>>,
    bytes: Vec<u8>,
    most: usize,
    /// The status is a success. An error is identified by its status, so its body is cut at the limit.
    success: bool,
}

impl BufferedBody {
    fn read(&mut self) -> Option<Result<Frame<Bytes>, BoxError>> {
        self.body = None;
        let bytes = std::mem::take(&mut self.bytes);
        if bytes.is_empty() {
            return None;
        }
        Some(Ok(Frame::data(if self.success { xml_repair::repaired(bytes) } else { bytes }.into())))
    }
}

impl Body for BufferedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            match ready!(body.as_mut().poll_frame(cx)) {
                None => return Poll::Ready(self.read()),
                Some(Err(error)) => {
                    self.body = None;
                    return Poll::Ready(Some(Err(error)));
                }
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    let room = self.most - self.bytes.len();
                    self.bytes.extend_from_slice(&data[..data.len().min(room)]);
                    if data.len() <= room {
                        continue;
                    }
                    if self.success {
                        self.body = None;
                        let too_long = InvalidDocument::TooLong { mebibytes: self.most >> 20 };
                        return Poll::Ready(Some(Err(too_long.into())));
                    }
                    return Poll::Ready(self.read());
                }
            }
        }
    }
}
