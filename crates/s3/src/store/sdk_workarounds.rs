use aws_smithy_runtime_api::client::{
    interceptors::context::InterceptorContext,
    retries::classifiers::{ClassifyRetry, RetryAction, RetryClassifierPriority},
};

/// Keeps the SDK from retrying a throttled request: it would bypass the concurrency limit and double each request.
#[derive(Debug)]
pub(super) struct NoThrottlingRetry;

impl ClassifyRetry for NoThrottlingRetry {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        match context.response().map(|response| response.status().as_u16()) {
            Some(429 | 503 | 509) => RetryAction::RetryForbidden,
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "NoThrottlingRetry"
    }

    /// Runs before all other classifiers: what is forbidden stays forbidden.
    fn priority(&self) -> RetryClassifierPriority {
        RetryClassifierPriority::run_before(RetryClassifierPriority::http_status_code_classifier())
    }
}
