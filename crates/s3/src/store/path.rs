//! Detects paths that are changed on the way to a store: merged slashes, removed dots, decoded escapes.
//!
//! The signature covers the path as it was sent, so the store refuses such requests as wrongly signed, and others not.

use copyhold_core::domain::ObjectKey;

use super::{ListPosition, ListQuery, Reason, Store, StoreError};

impl Store {
    /// Returns the object's failure, or the failure of a path that is changed on the way, if other paths are not
    /// refused.
    pub(super) async fn look_at_the_path(&self, key: &ObjectKey, error: StoreError) -> StoreError {
        let Some(what) = tidied(key).filter(|_| error.may_be_of_the_path()) else { return error };
        let asked = ListQuery { prefix: "", delimiter: None };
        match self.list_some(asked, &ListPosition::First, Some(1)).await {
            Ok(_) => {}
            // A request without the right to list still shows that its signature was accepted.
            Err(other) if other.reason() == Reason::Denied => {}
            Err(_) => return error,
        }
        let why = format!(
            "the key has {what}, and only such are refused: a proxy in front of the store, or the store, changes their \
             paths, and must take them as they are"
        );
        error.because(Reason::Refused, &why)
    }
}

/// Names the feature of a key's path that some proxies change; `None`: there is none.
fn tidied(key: &ObjectKey) -> Option<&'static str> {
    let key = key.as_str();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~/".contains(&b);
    if key.starts_with('/') {
        Some("'/' in front")
    } else if key.contains("//") {
        Some("'//'")
    } else if key.split('/').any(|segment| matches!(segment, "." | "..")) {
        Some("'.' or '..' as a segment")
    } else if key.contains('%') {
        Some("'%'")
    } else if !key.bytes().all(plain) {
        Some("characters that a path holds escaped only")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_no_proxy_touches_is_known() {
        let of = |key: &str| tidied(&ObjectKey::new(key).unwrap());
        assert_eq!(of("a/b-c_d.e~f/"), None);
        for (key, what) in [
            ("/a", "in front"),
            ("a//b", "'//'"),
            ("a/../b", "'..'"),
            ("a%2Fb", "'%'"),
            ("a b", "escaped"),
            ("é", "escaped"),
        ] {
            assert!(of(key).is_some_and(|told| told.contains(what)), "{key}");
        }
    }
}
