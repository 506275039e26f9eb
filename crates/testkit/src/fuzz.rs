//! The assertions of the parsers' fuzz targets: each takes any bytes, and panics only if a parser is wrong.
//!
//! `fuzz/` runs these functions on inputs that libFuzzer invents, `tests/it/fuzz_corpus.rs` on the corpus.

use std::path::Path;

use copyhold::{config, http};
use copyhold_core::domain::Cursor;
use copyhold_s3::store;

/// A position in the event log: a parsed position is formatted as the same position.
pub fn cursor(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<Cursor>() {
        Ok(cursor) => {
            assert!(cursor.id >= 0, "{text:?}: {cursor:?}");
            assert_eq!(cursor.to_string().parse(), Ok(cursor), "{text:?}");
        }
        Err(error) => assert!(error.to_string().len() < 400, "{text:?}: {error}"),
    }
}

/// The query of `GET /v1/events`: it is accepted, or refused with a message.
pub fn events_query(data: &[u8]) {
    let Ok(query) = std::str::from_utf8(data) else { return };
    if let Err(refusal) = http::check_events_query(query) {
        assert!(!refusal.is_empty(), "{query:?}");
    }
}

/// A store's listing: if a document is accepted, no truncation of it is.
pub fn listing_xml(data: &[u8]) {
    const END: &str = "</ListBucketResult>";
    if store::check_listing(data).is_err() {
        return;
    }
    let text = std::str::from_utf8(data).expect("a document is UTF-8");
    // Otherwise the root may end elsewhere, and the text after its end proves nothing.
    if text.trim_end().ends_with(END) && text.matches(END).count() == 1 {
        let end = text.trim_end().len();
        for cut in [end / 4, end / 2, end - END.len(), end - 1] {
            assert!(store::check_listing(&data[..cut]).is_err(), "cut at {cut}: {text:?}");
        }
    }
}

/// A configuration: it is accepted, or each problem names what to do. The environment is empty.
pub fn toml_document(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match config::parse(Path::new("copyhold.toml"), text, Vec::<(String, String)>::new()) {
        Ok(config) => assert!(config.replicas.iter().any(|replica| replica.name == config.primary)),
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
}
