//! Asks for objects as they are stored: no proxy on the way may compress them.

use aws_sdk_s3::{
    config::{ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeTransmitInterceptorContextMut},
    error::BoxError,
};

/// Asks for bytes as they are stored: a proxy in front of the store that would compress them must not.
///
/// Set after the request is signed: some proxies write this header anew, which would spoil a signature over it.
#[derive(Debug)]
pub(super) struct IdentityEncoding;

impl Intercept for IdentityEncoding {
    fn name(&self) -> &'static str {
        "IdentityEncoding"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        context.request_mut().headers_mut().try_insert("accept-encoding", "identity")?;
        Ok(())
    }
}
