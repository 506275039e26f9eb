use aws_sdk_s3::{
    config::{ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeDeserializationInterceptorContextMut},
    error::BoxError,
};

/// Makes headers that the SDK (1.157) does not understand ones that it does, before it looks at them.
///
/// An `Expires` that is no text becomes one: the SDK's own interceptor panics on such a header, and the source's owner
/// chooses it. What comes out is no ASCII either, so the object is refused and not carried over wrongly.
/// User metadata that is sent in several headers of one name becomes one header with commas, as HTTP says.
#[derive(Debug)]
pub(super) struct ReadableExpires;

const EXPIRES: &str = "expires";
const USER_METADATA: &str = "x-amz-meta-";

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
        let mut names: Vec<_> = headers.iter_bytes().map(|(name, _)| name.to_ascii_lowercase()).collect();
        names.retain(|name| name.starts_with(USER_METADATA));
        names.sort_unstable();
        for several in names.chunk_by(|a, b| a == b).filter(|same| same.len() > 1) {
            let name = several[0].clone();
            let values: Vec<_> = headers.get_all_bytes(&name).collect();
            // What is no text is refused by name.
            if let Ok(joined) = String::from_utf8(values.join(&b','))
                && joined.is_ascii()
            {
                headers.try_insert(name, joined)?;
            }
        }
        Ok(())
    }
}
