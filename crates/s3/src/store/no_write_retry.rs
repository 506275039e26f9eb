//! Limits a request that writes to one attempt per call.
//!
//! It does not affect requests that read: those keep the SDK's one retry. Tests:
//! `a_write_that_a_store_took_without_an_answer_is_sent_once` and others in `store/tests/once.rs`.

use aws_sdk_s3::{
    config::{
        ConfigBag, Intercept, RuntimeComponents, interceptors::FinalizerInterceptorContextMut, retry::RetryConfig,
    },
    error::BoxError,
};
use aws_smithy_runtime_api::client::orchestrator::Metadata;

/// Withholds the SDK's retry from a write whose attempt got no complete refusal.
///
/// A store may execute such an attempt later, over newer content, and the SDK would not report that there was one.
/// After a refusal nothing was done, so the SDK may still correct its clock and retry.
#[derive(Debug)]
pub(super) struct NoWriteRetry;

const WRITES: [&str; 3] = ["PutObject", "UploadPart", "CompleteMultipartUpload"];

impl Intercept for NoWriteRetry {
    fn name(&self) -> &'static str {
        "NoWriteRetry"
    }

    /// Runs after each attempt, before the SDK decides about a retry.
    fn modify_before_attempt_completion(
        &self,
        context: &mut FinalizerInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let writes = config.load::<Metadata>().is_some_and(|call| WRITES.contains(&call.name()));
        let refused = context.response().is_some_and(|answer| is_refusal(answer.status().as_u16()));
        if writes && !refused {
            config.interceptor_state().store_put(RetryConfig::disabled());
        }
        Ok(())
    }
}

/// Returns whether an answer of this status shows that nothing was done, and surely comes from the server that would
/// have done it.
fn is_refusal(status: u16) -> bool {
    (400..500).contains(&status) && status != 408
}
