use std::collections::{BTreeMap, HashMap};

/// What travels with an object's bytes, as the source's headers spell it.
///
/// Header values that are not ASCII are no metadata that every store keeps as it is:
/// some answer them as RFC 2047, some as raw bytes. They are found by [`Metadata::unfit`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub content_disposition: Option<String>,
    pub content_language: Option<String>,
    pub cache_control: Option<String>,
    /// As sent, since stores keep what they were given, dates or not.
    pub expires: Option<String>,
    /// Without the `x-amz-meta-` of their names.
    pub user: BTreeMap<String, String>,
}

impl Metadata {
    /// Takes the framing out of a content encoding.
    ///
    /// `aws-chunked` describes how an upload was sent, not the object; stores that
    /// keep it would have us announce a framing that we do not use.
    pub(super) fn content_encoding(as_kept: Option<String>) -> Option<String> {
        let kept = as_kept?;
        if !kept.contains("aws-chunked") {
            return Some(kept);
        }
        let rest: Vec<&str> = kept.split(',').map(str::trim).filter(|e| !e.is_empty() && *e != "aws-chunked").collect();
        if rest.is_empty() { None } else { Some(rest.join(",")) }
    }

    pub(super) fn user(as_read: Option<HashMap<String, String>>) -> BTreeMap<String, String> {
        as_read.unwrap_or_default().into_iter().collect()
    }

    /// As stores count it: names, without their prefix, and values.
    #[must_use]
    pub fn user_bytes(&self) -> usize {
        self.user.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// The header that cannot be carried over faithfully, if there is one.
    #[must_use]
    pub fn unfit(&self) -> Option<String> {
        let system = [
            ("content-type", &self.content_type),
            ("content-encoding", &self.content_encoding),
            ("content-disposition", &self.content_disposition),
            ("content-language", &self.content_language),
            ("cache-control", &self.cache_control),
            ("expires", &self.expires),
        ];
        let system = system.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.as_ref()?)));
        let user = self.user.iter().map(|(name, value)| (format!("x-amz-meta-{name}"), value));
        system.chain(user).find(|(_, value)| !is_plain(value)).map(|(name, _)| name)
    }
}

/// What every HTTP library sends and every store keeps.
fn is_plain(value: &str) -> bool {
    value.bytes().all(|b| (b' '..=b'~').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_that_not_every_store_keeps_as_it_is_is_found() {
        let mut metadata = Metadata { content_type: Some("text/plain; charset=utf-8".into()), ..Metadata::default() };
        metadata.user.insert("name".into(), "=?UTF-8?Q?caf=C3=A9?= \"quoted\" ~".into());
        assert_eq!(metadata.unfit(), None);
        metadata.user.insert("city".into(), "Z\u{fc}rich".into());
        assert_eq!(metadata.unfit().as_deref(), Some("x-amz-meta-city"));
        metadata.content_disposition = Some("attachment; filename=\"\u{1f600}\"".into());
        assert_eq!(metadata.unfit().as_deref(), Some("content-disposition"));
    }

    #[test]
    fn the_framing_of_an_upload_is_not_carried_over() {
        let encoding = |kept: &str| Metadata::content_encoding(Some(kept.into()));
        assert_eq!(encoding("gzip").as_deref(), Some("gzip"));
        assert_eq!(encoding("aws-chunked"), None);
        assert_eq!(encoding("aws-chunked,gzip").as_deref(), Some("gzip"));
        assert_eq!(encoding("gzip, aws-chunked").as_deref(), Some("gzip"));
    }
}
