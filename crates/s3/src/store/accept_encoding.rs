//! Requests objects as they are stored: a proxy on the way must not compress them.

use aws_sdk_s3::{
    config::{ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeTransmitInterceptorContextMut},
    error::BoxError,
};

/// Sets Accept-Encoding to `identity`, so that a proxy in front of the store does not compress the bytes.
///
/// Set after signing: some proxies rewrite this header, which would break a signature over it.
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
