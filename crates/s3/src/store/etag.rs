//! ETags as stores return them, and when an ETag is a checksum.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};

/// The entity tag of one stored content, as the store returned it, quotes included.
///
/// It identifies a content. It is a checksum only if it equals one that was computed here.
#[derive(Clone, PartialEq, Eq)]
pub struct ETag(String);

/// The MD5 of bytes: the value of Content-MD5, and what most stores return as the ETag of one PUT.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Md5(pub [u8; 16]);

impl ETag {
    pub fn new(as_sent: impl Into<String>) -> Self {
        Self(as_sent.into())
    }

    /// Returns the tag as the store returned it, for `If-Match` and CompleteMultipartUpload.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the tag of an answer; `None`: it has none that identifies a content.
    pub(super) fn of_answer(as_sent: Option<String>) -> Option<Self> {
        as_sent.map(Self).filter(|etag| !etag.core().is_empty())
    }

    /// The tag without its quotes.
    fn bare(&self) -> &str {
        self.0.trim_matches('"')
    }

    /// Returns the same text for every spelling of one tag.
    #[must_use]
    pub fn normal(&self) -> String {
        self.core().to_ascii_lowercase()
    }

    /// Removes what proxies and gateways add: `W/"…"` for weak, `"…-gzip"` for compressed, XML's entity for a quote.
    fn core(&self) -> &str {
        let tag = self.0.trim();
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        let tag = tag.trim_matches('"');
        let tag = tag.strip_prefix("&quot;").unwrap_or(tag);
        let tag = tag.strip_suffix("&quot;").unwrap_or(tag);
        let coding = ["-gzip", "-br", "-zstd", "-deflate"].iter().find_map(|coding| tag.strip_suffix(coding));
        coding.map_or(tag, |tag| tag.trim_end_matches('-'))
    }

    /// Returns whether both identify the same content, whatever a proxy did to either.
    #[must_use]
    pub fn names_the_same(&self, other: &Self) -> bool {
        self.core().eq_ignore_ascii_case(other.core())
    }

    /// Returns the tag for `If-Match`. `None`: a proxy has changed it, or may have, and the store would not recognize
    /// it.
    #[must_use]
    pub fn for_if_match(&self) -> Option<&str> {
        let quoted = self.0.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'))?;
        let as_stores_spell_it =
            quoted == self.core() && !(self.looks_like_md5() && quoted.contains(char::is_uppercase));
        (as_stores_spell_it && !quoted.is_empty()).then_some(&self.0)
    }

    /// Returns the tag for CompleteMultipartUpload of a part with this MD5: where the tag is the MD5, in S3's own form.
    #[must_use]
    pub fn for_complete(&self, md5: &Md5) -> Self {
        if self.is_md5(md5) { Self(format!("\"{}\"", md5.hex())) } else { self.clone() }
    }

    /// Returns whether the tag is the MD5 of these bytes. `false` proves nothing: an encrypting store returns other
    /// tags of the same form.
    #[must_use]
    pub fn is_md5(&self, md5: &Md5) -> bool {
        self.core().eq_ignore_ascii_case(&md5.hex())
    }

    /// Returns whether it has the form of an MD5: 32 hexadecimal digits and no part count.
    #[must_use]
    pub fn looks_like_md5(&self) -> bool {
        let bare = self.bare();
        bare.len() == 32 && bare.bytes().all(|b| b.is_ascii_hexdigit())
    }

    /// Returns whether it has the form of a multipart ETag: 32 hexadecimal digits and the number of parts.
    #[must_use]
    pub fn looks_like_parts(&self) -> bool {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        self.bare().rsplit_once('-').is_some_and(|(md5, parts)| Self(md5.to_owned()).looks_like_md5() && digits(parts))
    }

    /// Returns whether two tags are equal, whatever their quotes and case.
    #[must_use]
    pub fn equals(&self, other: &Self) -> bool {
        self.bare().eq_ignore_ascii_case(other.bare())
    }

    /// Returns whether the tag is S3's for an upload of these parts: the MD5 of the parts' MD5s, and their number.
    #[must_use]
    pub fn is_of_parts(&self, parts: &[Md5]) -> bool {
        use md5::{Digest, Md5 as Hasher};
        let mut all = Hasher::new();
        for part in parts {
            all.update(part.0);
        }
        let formula = format!("{}-{}", Md5(all.finalize().into()).hex(), parts.len());
        self.core().eq_ignore_ascii_case(&formula)
    }
}

impl Md5 {
    /// Formats the MD5 as ETags do.
    #[must_use]
    pub fn hex(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }

    /// Formats the MD5 as Content-MD5 does.
    #[must_use]
    pub fn base64(&self) -> String {
        STANDARD.encode(self.0)
    }
}

impl fmt::Debug for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        copyhold_core::domain::escape(&self.0, f)
    }
}

impl fmt::Debug for Md5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "md5:{}", self.hex())
    }
}

#[cfg(test)]
mod tests {
    use md5::{Digest, Md5 as Hasher};

    use super::*;

    fn md5(bytes: &[u8]) -> Md5 {
        Md5(Hasher::digest(bytes).into())
    }

    #[test]
    fn an_etag_is_compared_whatever_its_quotes_and_case() {
        let ours = md5(b"");
        for same in ["\"d41d8cd98f00b204e9800998ecf8427e\"", "D41D8CD98F00B204E9800998ECF8427E"] {
            assert!(ETag::new(same).is_md5(&ours), "{same}");
        }
        assert!(!ETag::new("\"d41d8cd98f00b204e9800998ecf8427f\"").is_md5(&ours));
    }

    #[test]
    fn what_a_proxy_makes_of_an_etag_does_not_hide_the_md5_in_it() {
        let ours = md5(b"");
        for changed in [
            "W/\"d41d8cd98f00b204e9800998ecf8427e\"",
            "\"d41d8cd98f00b204e9800998ecf8427e-gzip\"",
            "\"d41d8cd98f00b204e9800998ecf8427e--gzip\"",
            "W/\"d41d8cd98f00b204e9800998ecf8427e-br\"",
            "d41d8cd98f00b204e9800998ecf8427e",
            "\"D41D8CD98F00B204E9800998ECF8427E\"",
            "&quot;d41d8cd98f00b204e9800998ecf8427e&quot;",
        ] {
            let changed = ETag::new(changed);
            assert!(changed.is_md5(&ours), "{changed:?}");
            assert_eq!(changed.for_if_match(), None, "{changed:?}");
            assert_eq!(changed.for_complete(&ours).as_str(), "\"d41d8cd98f00b204e9800998ecf8427e\"");
            assert!(changed.names_the_same(&ETag::new("\"d41d8cd98f00b204e9800998ecf8427e\"")), "{changed:?}");
        }
        // A weak tag, or one of a compressed answer, is not known to be the MD5 of the bytes.
        assert!(!ETag::new("W/\"d41d8cd98f00b204e9800998ecf8427e\"").looks_like_md5());
        assert!(!ETag::new("\"d41d8cd98f00b204e9800998ecf8427e-gzip\"").looks_like_md5());
    }

    #[test]
    fn an_etag_that_nobody_has_changed_is_sent_as_it_came() {
        for plain in ["\"d41d8cd98f00b204e9800998ecf8427e\"", "\"abc-DEF\"", "\"d41d8cd98f00b204e9800998ecf8427e-2\""] {
            let etag = ETag::new(plain);
            assert_eq!(etag.for_if_match(), Some(plain));
            assert_eq!(etag.for_complete(&md5(b"other")), etag);
        }
    }

    #[test]
    fn an_empty_etag_is_none() {
        for nothing in ["", "\"\"", "W/\"\"", "&quot;&quot;"] {
            assert_eq!(ETag::of_answer(Some(nothing.into())), None, "{nothing}");
        }
        assert_eq!(ETag::of_answer(Some("\"a\"".into())), Some(ETag::new("\"a\"")));
    }

    #[test]
    fn a_multipart_etag_never_looks_like_an_md5() {
        assert!(ETag::new("\"d41d8cd98f00b204e9800998ecf8427e\"").looks_like_md5());
        assert!(!ETag::new("\"d41d8cd98f00b204e9800998ecf8427e-1\"").looks_like_md5());
        assert!(!ETag::new("\"\"").looks_like_md5());
        assert!(ETag::new("\"d41d8cd98f00b204e9800998ecf8427e-12\"").looks_like_parts());
        for other in ["d41d8cd98f00b204e9800998ecf8427e", "d41d8cd98f00b204e9800998ecf8427e-", "x-1", "-1"] {
            assert!(!ETag::new(other).looks_like_parts(), "{other}");
        }
    }

    #[test]
    fn the_formula_of_parts_is_the_md5_of_their_md5s() {
        // The ETag of the parts "a" and "b", computed elsewhere.
        let parts = [md5(b"a"), md5(b"b")];
        assert!(ETag::new("\"96e024ba2074fe77e8e965ba43a704be-2\"").is_of_parts(&parts));
        assert!(!ETag::new("\"0cc175b9c0f1b6a831c399e269772661-1\"").is_of_parts(&parts[..1]));
    }

    #[test]
    fn content_md5_is_base64_of_the_raw_digest() {
        assert_eq!(md5(b"").base64(), "1B2M2Y8AsgTpgAmY7PhCfg==");
    }
}
