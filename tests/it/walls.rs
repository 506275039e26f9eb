//! Which module may use which: the order that `src/lib.rs` states, held against the imports in the code.
//!
//! The table is a ratchet: an entry that nothing needs any more fails too, so that it is deleted and does not come back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Each module of the library, and those that it may use. Tests inside a module may use any.
const MAY_USE: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "audit",
            "config",
            "copy",
            "daemon",
            "domain",
            "import",
            "lifecycle",
            "metrics",
            "queue",
            "regular_file",
            "sandbox",
            "scan",
            "store",
        ],
    ),
    (
        "daemon",
        &[
            "config",
            "copy",
            "domain",
            "ears",
            "events",
            "figures",
            "http",
            "lifecycle",
            "listener",
            "metrics",
            "queue",
            "sleeper",
            "store",
            "sweeper",
            "wake",
            "worker",
        ],
    ),
    ("audit", &["config", "copy", "domain", "queue", "scan", "store", "worker"]),
    ("scan", &["domain", "queue", "store"]),
    ("import", &["config", "domain", "queue"]),
    ("http", &["config", "copy", "domain", "events", "metrics", "queue"]),
    ("worker", &["config", "copy", "domain", "metrics", "queue", "sleeper", "store", "timer", "wake"]),
    ("sweeper", &["domain", "metrics", "queue", "sleeper", "store", "wake"]),
    ("listener", &["config", "domain", "ears", "metrics", "queue", "wake"]),
    ("sleeper", &["ears", "herd", "metrics", "queue"]),
    ("events", &["config", "domain", "metrics", "queue", "wake"]),
    ("copy", &["domain", "store", "timer"]),
    ("store", &["certificates", "config", "domain"]),
    ("queue", &["certificates", "config", "domain"]),
    ("config", &["domain", "regular_file"]),
    ("figures", &["metrics", "queue"]),
    ("certificates", &["domain"]),
    ("regular_file", &[]),
    ("metrics", &["domain"]),
    ("sandbox", &["copy", "domain", "store"]),
    ("domain", &[]),
    ("ears", &[]),
    ("herd", &[]),
    ("lifecycle", &[]),
    ("timer", &[]),
    ("wake", &[]),
];

#[test]
fn no_module_uses_one_that_it_must_not_know() {
    let used = uses(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        MAY_USE.iter().map(|(module, uses)| (*module, uses.iter().copied().collect())).collect();
    for (module, used) in &used {
        let allowed = allowed.get(module.as_str()).unwrap_or_else(|| panic!("{module} is missing in the table"));
        for (other, file) in used {
            assert!(
                allowed.contains(other.as_str()),
                "{} uses crate::{other}, which {module} must not know",
                file.display()
            );
        }
    }
    for (module, allowed) in allowed {
        let used = used.get(module).unwrap_or_else(|| panic!("there is no module {module}"));
        for other in allowed {
            assert!(used.contains_key(other), "{module} does not use {other} any more: delete that from the table");
        }
    }
}

#[test]
fn nothing_leads_back_to_where_it_came_from() {
    let below: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut done = BTreeSet::new();
    // A module is done when all that it may use is done; on a circle none ever is.
    while done.len() < below.len() {
        let next =
            below.iter().find(|(module, uses)| !done.contains(*module) && uses.iter().all(|used| done.contains(used)));
        let Some((module, _)) = next else { panic!("of these modules some use each other: {:?}", below.keys()) };
        done.insert(*module);
    }
}

/// By module, the other modules that its code uses, each with a file that does.
fn uses(src: &Path) -> BTreeMap<String, BTreeMap<String, PathBuf>> {
    let mut by_module: BTreeMap<String, BTreeMap<String, PathBuf>> = BTreeMap::new();
    for file in rust_files(src) {
        let within = file.strip_prefix(src).unwrap();
        let module = within.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        if module == "lib"
            || module == "main"
            || within.components().any(|part| part.as_os_str().to_str().unwrap().starts_with("tests"))
        {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let code: String = text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n");
        let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let used = by_module.entry(module.to_owned()).or_default();
        for (at, start) in code.match_indices("crate::") {
            if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            for other in roots(&code[at + start.len()..]) {
                if other != module {
                    used.entry(other).or_insert_with(|| file.clone());
                }
            }
        }
    }
    by_module
}

/// The first names of a path, or of each path in a group.
fn roots(path: &str) -> Vec<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let mut roots = Vec::new();
    let (mut depth, mut from) = (1_usize, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 || (depth == 1 && c == ',') {
            roots.push(name(group[from..at].trim_start()));
            from = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    roots.retain(|root| !root.is_empty());
    roots
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files
}
