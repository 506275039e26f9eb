//! Which crate and which module may use which: what `Cargo.toml` and each `lib.rs` state, held against the imports in the
//! code and against what Cargo resolves.
//!
//! The tables are ratchets: an entry that nothing needs any more fails too, so that it is deleted and does not come back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Modules, each with those that it may use.
type Table = &'static [(&'static str, &'static [&'static str])];

/// Each module of the library, and those that it may use. Tests inside a module may use any.
const MAY_USE: Table = &[
    (
        "cli",
        &[
            "audit",
            "config",
            "core::domain",
            "core::regular_file",
            "daemon",
            "db::Database",
            "db::DatabaseError",
            "db::connections",
            "db::import",
            "db::lease",
            "db::log",
            "db::notify",
            "db::object",
            "db::pin",
            "db::replica",
            "db::retry_while_down",
            "db::rules",
            "db::schema",
            "db::stats",
            "db::walk",
            "import",
            "metrics",
            "s3::copy",
            "s3::store",
            "sandbox::demo",
            "sandbox::s3",
            "scan",
        ],
    ),
    (
        "daemon",
        &[
            "config",
            "core::domain",
            "db::Database",
            "db::DatabaseError",
            "db::connections",
            "db::daemon",
            "db::log",
            "db::schema",
            "events",
            "figures",
            "http",
            "metrics",
            "s3::copy",
            "s3::store",
            "sweeper",
            "wakeup",
            "worker",
        ],
    ),
    (
        "audit",
        &[
            "config",
            "core::domain",
            "db::Database",
            "db::DatabaseError",
            "db::lease",
            "db::notify",
            "db::object",
            "db::replica",
            "db::retry_while_down",
            "db::walk",
            "s3::copy",
            "s3::store",
            "scan",
            "worker",
        ],
    ),
    ("scan", &["core::domain", "db::Database", "db::DatabaseError", "db::retry_while_down", "db::walk", "s3::store"]),
    (
        "import",
        &[
            "config",
            "core::domain",
            "db::Database",
            "db::DatabaseError",
            "db::import",
            "db::replica",
            "db::retry_while_down",
        ],
    ),
    (
        "http",
        &[
            "config",
            "core::domain",
            "db::Database",
            "db::DatabaseError",
            "db::connections",
            "db::object",
            "db::schema",
            "events",
            "metrics",
            "s3::copy",
        ],
    ),
    (
        "worker",
        &[
            "config",
            "core::domain",
            "core::timer",
            "db::Bindings",
            "db::Breakers",
            "db::DatabaseError",
            "db::Leases",
            "db::Uploads",
            "db::connections",
            "db::daemon",
            "db::lease",
            "db::object",
            "db::pin",
            "db::replica",
            "metrics",
            "s3::copy",
            "s3::store",
            "wakeup",
        ],
    ),
    (
        "sweeper",
        &[
            "core::domain",
            "db::DatabaseError",
            "db::Duties",
            "db::connections",
            "db::lease",
            "db::log",
            "db::schema",
            "db::stats",
            "metrics",
            "s3::store",
            "wakeup",
        ],
    ),
    ("wakeup", &["config", "db::Database", "db::connections", "db::daemon", "db::notify", "metrics"]),
    ("figures", &["db::Duties", "db::stats", "metrics", "wakeup"]),
    ("events", &["config", "core::domain", "db::DatabaseError", "db::EventLog", "db::log", "metrics", "wakeup"]),
    (
        "config",
        &[
            "core::did_you_mean",
            "core::domain",
            "core::loopback",
            "core::regular_file",
            "core::secret",
            "db::database_url",
            "db::pin",
            "db::settings",
            "s3::settings",
        ],
    ),
    ("metrics", &["core::domain"]),
];

/// The same of the other crates of ours that have more than one module.
const MAY_USE_IN: &[(&str, Table)] = &[
    (
        "crates/core",
        &[
            ("did_you_mean", &[]),
            ("domain", &[]),
            ("loopback", &[]),
            ("regular_file", &[]),
            ("secret", &[]),
            ("timer", &[]),
        ],
    ),
    (
        "crates/s3",
        &[
            ("copy", &["core::domain", "core::timer", "metrics", "store"]),
            ("settings", &["core::domain", "core::loopback", "core::regular_file", "core::secret"]),
            ("metrics", &["core::domain"]),
            ("store", &["core::domain", "core::secret", "metrics", "settings", "tls::TlsFailure"]),
        ],
    ),
    (
        "crates/db",
        &[
            ("connections", &["core::secret", "database_url", "settings", "sql", "tls::TlsFailure"]),
            ("daemon", &["core::domain", "error", "handle", "log", "pin", "rules", "settings", "sql"]),
            ("database_url", &["core::did_you_mean"]),
            ("error", &["connections", "core::domain"]),
            ("handle", &["connections", "core::domain", "split_batch", "sql"]),
            (
                "handles",
                &[
                    "connections",
                    "core::domain",
                    "daemon",
                    "error",
                    "handle",
                    "lease",
                    "log",
                    "object",
                    "pin",
                    "replica",
                    "schema",
                    "stats",
                    "walk",
                ],
            ),
            ("import", &["connections", "core::domain", "error", "handle", "sql"]),
            ("lease", &["connections", "core::domain", "daemon", "error", "handle", "log", "split_batch", "sql"]),
            ("log", &["core::domain", "error", "handle", "notify", "sql"]),
            ("notify", &["connections", "core::domain", "error", "handle", "sql"]),
            ("object", &["core::domain", "error", "handle", "lease", "log", "sql"]),
            ("pin", &["core::domain"]),
            ("prepared", &["connections", "core::domain", "handle", "lease", "log", "schema", "split_batch"]),
            ("replica", &["core::domain", "error", "handle", "lease", "log", "notify", "pin", "sql"]),
            ("retry_while_down", &["error"]),
            ("rules", &["connections", "core::domain", "error", "handle", "log", "notify", "retry_while_down", "sql"]),
            (
                "schema",
                &[
                    "connections",
                    "core::domain",
                    "error",
                    "handle",
                    "lease",
                    "log",
                    "notify",
                    "object",
                    "retry_while_down",
                    "rules",
                    "settings",
                    "sql",
                    "stats",
                    "walk",
                ],
            ),
            ("server", &["connections", "error", "handle", "sql"]),
            ("settings", &["core::domain", "core::secret", "database_url", "pin"]),
            ("split_batch", &["core::domain", "error"]),
            ("sql", &["core::domain"]),
            (
                "stats",
                &["connections", "core::domain", "daemon", "error", "handle", "log", "pin", "replica", "rules", "sql"],
            ),
            ("walk", &["core::domain", "error", "handle", "log", "object", "pin", "sql"]),
        ],
    ),
];

#[test]
fn no_module_uses_one_that_it_must_not_know() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    hold(&root.join("src"), MAY_USE);
    for (folder, table) in MAY_USE_IN {
        hold(&root.join(folder).join("src"), table);
    }
}

#[test]
fn nothing_leads_back_to_where_it_came_from() {
    for table in MAY_USE_IN.iter().map(|(_, table)| *table).chain([MAY_USE]) {
        let mut left: BTreeMap<&str, &[&str]> = table.iter().copied().collect();
        // A module goes when all that it may use has gone; on a circle none ever does.
        while !left.is_empty() {
            let before = left.len();
            let gone: Vec<&str> = left
                .iter()
                .filter(|(_, uses)| uses.iter().all(|used| !left.contains_key(used)))
                .map(|(module, _)| *module)
                .collect();
            left.retain(|module, _| !gone.contains(module));
            assert!(left.len() < before, "of these modules some use each other: {:?}", left.keys());
        }
    }
}

fn hold(src: &Path, table: Table) {
    let used = uses(src);
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        table.iter().map(|(module, uses)| (*module, uses.iter().copied().collect())).collect();
    for (module, used) in &used {
        let allowed = allowed.get(module.as_str()).unwrap_or_else(|| panic!("{module} is missing in the table"));
        for (other, file) in used {
            assert!(allowed.contains(other.as_str()), "{} uses {other}, which {module} must not know", file.display());
        }
    }
    for (module, allowed) in allowed {
        let used = used.get(module).unwrap_or_else(|| panic!("there is no module {module}"));
        for other in allowed {
            assert!(used.contains_key(other), "{module} does not use {other} any more: delete that from the table");
        }
    }
}

/// Each crate of ours, the crates of ours that it may use, and what it must not reach in any way.
const CRATES: &[(&str, &[&str], &[&str])] = &[
    ("copyhold-core", &[], &["sqlx", "aws-", "hyper", "axum", "tracing-subscriber", "metrics"]),
    ("copyhold-tls", &["copyhold-core"], &["sqlx", "aws-sdk", "aws-config", "aws-smithy", "hyper", "tokio-rustls"]),
    ("copyhold-s3", &["copyhold-core", "copyhold-tls"], &["sqlx", "axum", "tracing-subscriber"]),
    (
        "copyhold-db",
        &["copyhold-core", "copyhold-tls"],
        &["aws-sdk", "aws-config", "aws-smithy", "hyper", "axum", "tracing-subscriber"],
    ),
    ("copyhold-sandbox", &["copyhold-core"], &["tracing-subscriber"]),
];

#[test]
fn each_crate_reaches_what_it_may_and_nothing_else() {
    let metadata = metadata();
    for (name, ours, never) in CRATES {
        let reached = reached(&metadata, name);
        for other in reached.iter().filter(|other| other.starts_with("copyhold")) {
            assert!(ours.contains(&other.as_str()), "{name} reaches {other}");
        }
        for other in *ours {
            assert!(reached.contains(*other), "{name} does not use {other} any more: delete that from the table");
        }
        for unwanted in *never {
            let found: Vec<_> = reached.iter().filter(|found| found.starts_with(unwanted)).collect();
            assert!(found.is_empty(), "{name} reaches {found:?}");
        }
    }
}

#[test]
fn the_program_speaks_to_stores_and_to_postgresql_through_its_crates_alone() {
    let metadata = metadata();
    let direct = direct(&metadata, "copyhold");
    for unwanted in ["sqlx", "aws-", "s3s"] {
        let found: Vec<_> = direct.iter().filter(|found| found.starts_with(unwanted)).collect();
        assert!(found.is_empty(), "copyhold uses {found:?} itself");
    }
}

#[test]
fn what_the_core_uses_of_tokio_reaches_neither_network_nor_files() {
    let metadata = metadata();
    let core = package(&metadata, "copyhold-core");
    let tokio = core["dependencies"].as_array().unwrap().iter();
    let tokio: Vec<_> = tokio.filter(|of| of["name"] == "tokio" && of["kind"].is_null()).collect();
    assert_eq!(tokio.len(), 1);
    assert_eq!(tokio[0]["features"], serde_json::json!(["time"]));
}

/// What Cargo has resolved, with all features.
fn metadata() -> Value {
    let arguments = ["metadata", "--format-version", "1", "--locked", "--all-features"];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn package<'a>(metadata: &'a Value, name: &str) -> &'a Value {
    let mut packages = metadata["packages"].as_array().unwrap().iter();
    packages.find(|package| package["name"] == name).unwrap_or_else(|| panic!("there is no crate {name}"))
}

/// By id, the ids of what each package is built with. Neither tests nor build scripts count.
fn edges(metadata: &Value) -> BTreeMap<&str, Vec<&str>> {
    let is_normal = |of: &&Value| of["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null());
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap().iter();
    nodes
        .map(|node| {
            let deps = node["deps"].as_array().unwrap().iter().filter(is_normal);
            (node["id"].as_str().unwrap(), deps.map(|of| of["pkg"].as_str().unwrap()).collect())
        })
        .collect()
}

fn name_of<'a>(metadata: &'a Value, id: &str) -> &'a str {
    let mut packages = metadata["packages"].as_array().unwrap().iter();
    packages.find(|package| package["id"] == id).unwrap()["name"].as_str().unwrap()
}

fn direct(metadata: &Value, name: &str) -> BTreeSet<String> {
    let id = package(metadata, name)["id"].as_str().unwrap();
    edges(metadata)[id].iter().map(|id| name_of(metadata, id).to_owned()).collect()
}

/// The names of all that a crate of ours is built with, in the end.
fn reached(metadata: &Value, name: &str) -> BTreeSet<String> {
    let edges = edges(metadata);
    let mut open = vec![package(metadata, name)["id"].as_str().unwrap()];
    let mut found = BTreeSet::new();
    while let Some(id) = open.pop() {
        for below in &edges[id] {
            if found.insert(*below) {
                open.push(below);
            }
        }
    }
    found.into_iter().map(|id| name_of(metadata, id).to_owned()).collect()
}

/// How a path into this crate begins, and into each other one, with how the tables call that.
const STARTS: [(&str, &str); 6] = [
    ("crate::", ""),
    ("copyhold_core::", "core::"),
    ("copyhold_db::", "db::"),
    ("copyhold_s3::", "s3::"),
    ("copyhold_sandbox::", "sandbox::"),
    ("copyhold_tls::", "tls::"),
];

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
        for (start, of) in STARTS {
            for (at, _) in code.match_indices(start) {
                if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                    continue;
                }
                for other in roots(&code[at + start.len()..]) {
                    if !of.is_empty() || other != module {
                        used.entry(format!("{of}{other}")).or_insert_with(|| file.clone());
                    }
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
