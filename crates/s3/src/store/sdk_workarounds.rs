use aws_smithy_runtime_api::client::{
    interceptors::context::InterceptorContext,
    retries::classifiers::{ClassifyRetry, RetryAction, RetryClassifierPriority},
};

/// Keeps the SDK from asking again what a store has refused as too much: it would do so behind our back, and each
/// request that we slow down would be two.
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

    /// Before all others: what is forbidden stays so.
    fn priority(&self) -> RetryClassifierPriority {
        RetryClassifierPriority::run_before(RetryClassifierPriority::http_status_code_classifier())
    }
}
