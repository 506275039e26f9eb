//! Checks that an answer is a complete XML document of the expected kind, before conclusions are drawn from what it
//! lacks. The SDK accepts a truncated document as complete.
//!
//! It does not interpret the document.

use aws_sdk_s3::{
    config::{ConfigBag, Intercept, RuntimeComponents, interceptors::AfterDeserializationInterceptorContextRef},
    error::BoxError,
};
use copyhold_core::domain::escaped;
use xmlparser::{ElementEnd, Token, Tokenizer};

/// The most nested elements; a listing of S3 has four.
const MOST_DEPTH: usize = 32;
/// Characters of a name that the store chose.
const SHOWN: usize = 40;

/// What an answer must be to be accepted.
#[derive(Debug, Clone, Copy)]
pub(super) struct WholeDocument {
    root: &'static str,
    /// One of these elements must be present, or it is unknown whether there are more pages. None: there is only one
    /// page.
    ends: &'static [&'static str],
}

/// Why an answer is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidDocument {
    #[error("the answer is empty where a <{0}> was asked for")]
    Empty(&'static str),
    #[error("the answer is a <{found}> where a <{root}> was asked for")]
    OtherRoot { root: &'static str, found: String },
    #[error("the answer ends in the middle: <{0}> is not closed")]
    Cut(String),
    #[error("the answer is no XML: {0}")]
    NotXml(String),
    #[error("the answer says neither {0}: it may be incomplete")]
    NoEnd(String),
    #[error("the answer has more than {mebibytes} MiB")]
    TooLong { mebibytes: usize },
}

impl WholeDocument {
    pub(super) const OBJECTS: Self = Self { root: "ListBucketResult", ends: &["IsTruncated", "NextContinuationToken"] };
    pub(super) const VERSIONS: Self = Self { root: "ListVersionsResult", ends: &["IsTruncated"] };
    pub(super) const UPLOADS: Self = Self { root: "ListMultipartUploadsResult", ends: &["IsTruncated"] };
    /// For a request that only asks whether an upload exists.
    pub(super) const PARTS: Self = Self { root: "ListPartsResult", ends: &[] };
    pub(super) const VERSIONING: Self = Self { root: "VersioningConfiguration", ends: &[] };
    pub(super) const OBJECT_LOCK: Self = Self { root: "ObjectLockConfiguration", ends: &[] };

    pub(super) fn check(self, body: &[u8]) -> Result<(), InvalidDocument> {
        let text = std::str::from_utf8(body).map_err(|_| InvalidDocument::NotXml("it is not UTF-8".into()))?;
        let mut open: Vec<&str> = Vec::new();
        let (mut closed, mut said) = (false, false);
        for token in Tokenizer::from(text) {
            match token.map_err(|error| self.broken(text, &open, &error))? {
                Token::ElementStart { local, .. } => {
                    let found = local.as_str();
                    if open.is_empty() && found != self.root {
                        return Err(InvalidDocument::OtherRoot { root: self.root, found: escaped(found, SHOWN) });
                    }
                    if open.len() == MOST_DEPTH {
                        return Err(InvalidDocument::NotXml(format!(
                            "elements stand in more than {MOST_DEPTH} others"
                        )));
                    }
                    open.push(found);
                }
                Token::ElementEnd { end: ElementEnd::Empty, .. } => closed = pop(&mut open),
                Token::ElementEnd { end: ElementEnd::Close(_, local), .. } => {
                    if open.last().is_none_or(|last| *last != local.as_str()) {
                        let what = format!("</{}> closes what is not open", escaped(local.as_str(), SHOWN));
                        return Err(InvalidDocument::NotXml(what));
                    }
                    closed = pop(&mut open);
                }
                Token::Text { text } | Token::Cdata { text, .. } => {
                    said |= matches!(open[..], [_, child] if self.ends.contains(&child)) && !text.trim().is_empty();
                }
                Token::ElementEnd { end: ElementEnd::Open, .. }
                | Token::Declaration { .. }
                | Token::ProcessingInstruction { .. }
                | Token::Comment { .. }
                | Token::DtdStart { .. }
                | Token::EmptyDtd { .. }
                | Token::EntityDeclaration { .. }
                | Token::DtdEnd { .. }
                | Token::Attribute { .. } => {}
            }
        }
        match open.first() {
            Some(unclosed) => Err(InvalidDocument::Cut(escaped(unclosed, SHOWN))),
            None if !closed => Err(InvalidDocument::Empty(self.root)),
            None if !said && !self.ends.is_empty() => Err(InvalidDocument::NoEnd(self.ends.join(" nor "))),
            None => Ok(()),
        }
    }

    /// A document that was truncated inside a tag or a name is not XML either; the truncation explains more.
    fn broken(self, text: &str, open: &[&str], error: &xmlparser::Error) -> InvalidDocument {
        let end = format!("{}>", self.root);
        match open.first() {
            Some(unclosed) if !text.trim_end().ends_with(&end) => InvalidDocument::Cut(escaped(unclosed, SHOWN)),
            _ if text.trim().is_empty() => InvalidDocument::Empty(self.root),
            _ => InvalidDocument::NotXml(escaped(&error.to_string(), SHOWN)),
        }
    }
}

/// Returns whether that was the root.
fn pop(open: &mut Vec<&str>) -> bool {
    open.pop();
    open.is_empty()
}

impl Intercept for WholeDocument {
    fn name(&self) -> &'static str {
        "WholeDocument"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let answer = context.response();
        // The SDK handles errors. A body that could not be read to its end has no bytes here.
        match answer.body().bytes() {
            Some(body) if answer.status().is_success() => Ok(self.check(body)?),
            _ => Ok(()),
        }
    }
}

impl InvalidDocument {
    /// Returns why a call failed that was intercepted here; `None`: it failed for another reason.
    pub(super) fn of(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        super::transport_error::find::<Self>(error).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "<?xml version=\"1.0\"?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>b</Name>\
                         <IsTruncated>false</IsTruncated><Contents><Key>a</Key></Contents><Contents><Key>&lt;</Key></Contents>\
                         </ListBucketResult>";

    fn check(text: &str) -> Result<(), InvalidDocument> {
        WholeDocument::OBJECTS.check(text.as_bytes())
    }

    fn refused(text: &str) -> String {
        check(text).expect_err(text).to_string()
    }

    #[test]
    fn a_whole_listing_is_believed_however_it_is_dressed() {
        let root = |name: &str| WHOLE.replace("ListBucketResult", name);
        for dressed in [
            WHOLE.to_owned(),
            format!("\u{feff}{WHOLE}"),
            format!("{WHOLE}\r\n <!-- host 7 -->\n"),
            WHOLE.replace("http://s3.amazonaws.com/doc/2006-03-01/", "http://elsewhere.example/"),
            WHOLE.replace(" xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"", ""),
            root("s3:ListBucketResult").replace("xmlns=", "xmlns:s3="),
            "<ListBucketResult><Contents/><IsTruncated>\n true </IsTruncated></ListBucketResult>".into(),
            "<ListBucketResult><IsTruncated><![CDATA[false]]></IsTruncated></ListBucketResult>".into(),
            "<ListBucketResult><NextContinuationToken>x</NextContinuationToken></ListBucketResult>".into(),
        ] {
            assert_eq!(check(&dressed), Ok(()), "{dressed}");
        }
    }

    #[test]
    fn a_listing_that_ends_anywhere_before_its_end_is_refused() {
        for end in 0..WHOLE.len() {
            let cut = &WHOLE[..end];
            let why = check(cut).expect_err(cut);
            if end > WHOLE.find("xmlns").unwrap() && end < WHOLE.len() - "ListBucketResult>".len() {
                assert_eq!(why, InvalidDocument::Cut("ListBucketResult".into()), "{cut}");
            }
        }
    }

    #[test]
    fn what_is_something_else_is_told_as_what_it_is() {
        for (text, says) in [
            ("", "is empty"),
            (" \n", "is empty"),
            ("<?xml version=\"1.0\"?>\n", "is empty"),
            ("<!DOCTYPE html><html><body>Sign in", "a <html> where a <ListBucketResult>"),
            ("<Error><Code>InternalError</Code></Error>", "a <Error> where"),
            ("<ListAllMyBucketsResult/>", "a <ListAllMyBucketsResult> where"),
            ("{\"keys\": []}", "no XML"),
            ("<ListBucketResult/>", "neither IsTruncated nor NextContinuationToken"),
            ("<ListBucketResult><IsTruncated/></ListBucketResult>", "neither IsTruncated"),
            ("<ListBucketResult><Contents><IsTruncated>false</IsTruncated></Contents></ListBucketResult>", "neither"),
            ("<ListBucketResult><Contents></ListBucketResult>", "closes what is not open"),
            ("<ListBucketResult></ListBucketResult><ListBucketResult/>", "no XML"),
            ("</ListBucketResult>", "no XML"),
        ] {
            let why = refused(text);
            assert!(why.contains(says), "{text}: {why}");
        }
        let deep = refused(&format!("<ListBucketResult>{}", "<a>".repeat(200_000)));
        assert!(deep.contains("more than 32 others"), "{deep}");
        let long = refused(&format!("<{}>", "x".repeat(1 << 20)));
        assert!(long.len() < 200, "{long}");
        assert!(WholeDocument::OBJECTS.check(b"<ListBucketResult>\xff").unwrap_err().to_string().contains("not UTF-8"));
    }

    #[test]
    fn an_answer_that_has_no_more_need_not_say_so() {
        assert_eq!(WholeDocument::PARTS.check(b"<ListPartsResult/>"), Ok(()));
        assert!(WholeDocument::VERSIONING.check(b"<VersioningConfiguration><Status>Ena").is_err());
    }
}
