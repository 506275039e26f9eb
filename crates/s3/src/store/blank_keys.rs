//! Keys of white space only, which the SDK treats as missing and refuses to send.
//!
//! The SDK gets them with a marker in front, which is removed from the path before the request is signed.

use aws_sdk_s3::{
    config::{ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeTransmitInterceptorContextMut},
    error::BoxError,
};
use copyhold_core::domain::ObjectKey;

/// A key cannot contain a NUL.
const MARK: &str = "\0blank\0";
const MARK_IN_PATH: &str = "%00blank%00";

/// Returns the key in a form that the SDK accepts.
pub(super) fn to_sdk(key: &ObjectKey) -> String {
    let key = key.as_str();
    if key.trim().is_empty() { format!("{MARK}{key}") } else { key.to_owned() }
}

/// Removes the marker from a request's path.
#[derive(Debug)]
pub(super) struct BlankKeys;

impl Intercept for BlankKeys {
    fn name(&self) -> &'static str {
        "BlankKeys"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        if request.uri().contains(MARK_IN_PATH) {
            let uri = request.uri().replacen(MARK_IN_PATH, "", 1);
            request.set_uri(uri)?;
        }
        Ok(())
    }
}
