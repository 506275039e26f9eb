use aws_sdk_s3::{
    config::{ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeDeserializationInterceptorContextMut},
    error::BoxError,
};

/// Makes an `Expires` that is no text one that is, before the SDK (1.157) looks at it:
/// its own interceptor panics on such a header, and the source's owner chooses it.
///
/// What comes out is no ASCII either, so the object is refused and not carried over wrongly.
#[derive(Debug)]
pub(super) struct ReadableExpires;

const EXPIRES: &str = "expires";

impl Intercept for ReadableExpires {
    fn name(&self) -> &'static str {
        "ReadableExpires"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.response_mut().headers_mut();
        if let Some(Err(bytes)) = headers.try_get(EXPIRES) {
            let readable = String::from_utf8_lossy(bytes).into_owned();
            headers.try_insert(EXPIRES, readable)?;
        }
        Ok(())
    }
}
