//! The corpus of the fuzz targets (`fuzz/`), and each entry's neighbours: every prefix, and every byte replaced.

use std::{fs, path::Path};

use copyhold_testkit::fuzz;

/// Each stands for a kind of byte that parsers treat apart.
const REPLACEMENTS: [u8; 6] = [0, b'"', b'%', b'<', b'9', 0xff];

fn replay(target: &str, parse: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(entries.len() >= 10, "{}: {} entries", folder.display(), entries.len());
    for path in entries {
        let whole = fs::read(&path).unwrap();
        parse(&whole);
        for at in 0..whole.len() {
            parse(&whole[..at]);
            let mut replaced = whole.clone();
            for byte in REPLACEMENTS {
                replaced[at] = byte;
                parse(&replaced);
            }
        }
    }
}

#[test]
fn cursors_of_the_corpus_are_read_as_they_are_written() {
    replay("cursor", fuzz::cursor);
}

#[test]
fn event_queries_of_the_corpus_are_accepted_or_refused() {
    replay("events_query", fuzz::events_query);
}

#[test]
fn no_cut_of_a_listing_of_the_corpus_is_believed() {
    replay("listing_xml", fuzz::listing_xml);
}

#[test]
fn configurations_of_the_corpus_are_accepted_or_refused() {
    replay("toml_document", fuzz::toml_document);
}
