//! The tables of `status`: none is wider than 80 columns but for long names and addresses.

use copyhold_db::stats::{DaemonStatus, FailingCount, ReplicaStatus, Status};

use super::super::output::{Untrusted, age, bytes, table};

/// A host's name is cut in its middle: the distinguishing part is often at the end.
const HOST: usize = 18;

/// Copies by replica.
pub(super) fn replicas(status: &Status) -> String {
    let heads = ["replica", "recorded", "backlog", "bytes", "failing", "oldest"];
    let row = |r: &ReplicaStatus| {
        let unknown = r.backlog_objects_of_unknown_size.filter(|n| *n > 0).map_or("", |_| "+");
        vec![
            format!("{}{}", r.replica, if r.primary { " (primary)" } else { "" }),
            of_backlog(r, r.recorded.map(|recorded| figure(Some(recorded), r.recorded_estimated))),
            of_backlog(r, r.backlog_objects.map(|n| n.to_string())),
            of_backlog(r, r.backlog_bytes.map(|n| format!("{}{unknown}", bytes(n)))),
            of_backlog(r, r.failing.map(|n| failing(Some(n), status.failing_count))),
            of_backlog(r, r.backlog_objects.map(|_| age(r.oldest_age_seconds))),
        ]
    };
    table(&heads, 1, status.replicas.iter().map(row).collect()).to_string()
}

/// What becomes of the backlog; `None`: there is none.
pub(super) fn backlog(status: &Status) -> Option<String> {
    let heads = ["of the backlog", "in flight", "waiting", "parked"];
    let row = |r: &ReplicaStatus| {
        r.backlog_objects.filter(|n| *n > 0)?;
        let figures = [r.in_flight, r.waiting, r.parked].map(|n| figure(n, None));
        Some([r.replica.clone()].into_iter().chain(figures).collect())
    };
    let rows: Vec<Vec<_>> = status.replicas.iter().filter_map(row).collect();
    (!rows.is_empty()).then(|| format!("\n{}", table(&heads, 1, rows)))
}

/// Where the copies are.
pub(super) fn buckets(status: &Status) -> String {
    let row = |r: &ReplicaStatus| vec![r.replica.clone(), r.bucket.clone().unwrap_or_else(|| "not used yet".into())];
    table(&["replica", "bucket"], 2, status.replicas.iter().map(row).collect()).to_string()
}

/// The daemons, under a line with their versions.
pub(super) fn daemons(daemons: &[DaemonStatus]) -> String {
    let row = |d: &DaemonStatus| {
        // A daemon that listens registers as idle; one that only polls is idle while it holds no lease.
        let polls = d.wakeup.as_deref().is_some_and(|wakeup| wakeup != "notify");
        let state = match (d.alive, d.sleeping || polls && d.leases == 0) {
            (false, _) => "silent",
            (true, true) => "idle",
            (true, false) => "working",
        };
        let wakeup = match d.wakeup.as_deref() {
            None => "-",
            Some(how @ ("notify" | "poll")) => how,
            // The reason is shown above.
            Some(_) => "poll",
        };
        vec![
            d.id.to_string(),
            Untrusted(&shortened(&d.host, HOST)).to_string(),
            state.into(),
            wakeup.into(),
            d.process_id.to_string(),
            d.leases.to_string(),
            age(Some(d.up_seconds)),
        ]
    };
    let heads = ["daemon", "host", "state", "wake-up", "pid", "leases", "up"];
    let table = table(&heads, 4, daemons.iter().map(row).collect());
    format!("{}\n{table}", versions(daemons))
}

/// `daemons, version 0.1.0`, or `daemons, version 0.1.0: 1, 2; version 0.2.0: 3`
fn versions(daemons: &[DaemonStatus]) -> String {
    let mut versions: Vec<&str> = daemons.iter().map(|d| d.version.as_str()).collect();
    versions.sort_unstable();
    versions.dedup();
    if let [one] = versions[..] {
        return format!("daemons, version {}", Untrusted(one));
    }
    let ids = |version: &&str| {
        let ids: Vec<_> = daemons.iter().filter(|d| d.version == *version).map(|d| d.id.to_string()).collect();
        format!("version {}: {}", Untrusted(version), ids.join(", "))
    };
    format!("daemons, {}", versions.iter().map(ids).collect::<Vec<_>>().join("; "))
}

/// `151`, `~20000000` where it is estimated, `?` where it is not known.
pub(super) fn figure(figure: Option<i64>, estimated: Option<bool>) -> String {
    match figure {
        None => "?".to_owned(),
        Some(figure) if estimated == Some(true) => format!("~{}", rounded(figure)),
        Some(figure) => figure.to_string(),
    }
}

/// `151`, `~151` if some of them may not fail any more, `20000+` if there are more.
pub(super) fn failing(copies: Option<i64>, count: Option<FailingCount>) -> String {
    if copies == Some(0) && count != Some(FailingCount::AtLeast) {
        return "0".to_owned();
    }
    let before = if count == Some(FailingCount::WithEarlierContents) { "~" } else { "" };
    let after = if count == Some(FailingCount::AtLeast) { "+" } else { "" };
    copies.map_or_else(|| "?".to_owned(), |copies| format!("{before}{copies}{after}"))
}

/// An estimate to three digits: more would look like a count.
pub(super) fn rounded(figure: i64) -> i64 {
    let digits = figure.unsigned_abs().max(1).ilog10() + 1;
    let unit = 10_i64.pow(digits.saturating_sub(3));
    figure.saturating_add(unit / 2) / unit * unit
}

/// Nothing is counted of a draining replica, which is no fault.
fn of_backlog(r: &ReplicaStatus, figure: Option<String>) -> String {
    let not_counted = if r.draining_seconds.is_some() { "-" } else { "?" };
    figure.unwrap_or_else(|| not_counted.to_owned())
}

/// `copyhold-7d9f…-x2x4z`
fn shortened(text: &str, most: usize) -> String {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= most {
        return text.to_owned();
    }
    let tail = most / 2;
    let head = most - tail - 1;
    let (head, tail) = (&chars[..head], &chars[chars.len() - tail..]);
    head.iter().chain(['…'].iter()).chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_is_rounded_and_what_is_not_known_is_no_number() {
        assert_eq!(figure(None, None), "?");
        assert_eq!(figure(Some(20_010_006), Some(false)), "20010006");
        assert_eq!(figure(Some(20_010_006), Some(true)), "~20000000");
        assert_eq!([0, 7, 999, 1_004, 1_005, 99_950].map(rounded), [0, 7, 999, 1_000, 1_010, 100_000]);
        assert_eq!(failing(Some(3), Some(FailingCount::Exact)), "3");
        assert_eq!(failing(Some(3), Some(FailingCount::WithEarlierContents)), "~3");
        assert_eq!(failing(Some(3), Some(FailingCount::AtLeast)), "3+");
        assert_eq!(failing(None, None), "?");
    }

    #[test]
    fn a_long_host_keeps_its_end() {
        assert_eq!(shortened("vm", HOST), "vm");
        assert_eq!(shortened("copyhold-production-7d9f8b6c5d-x2x4z", HOST), "copyhold…c5d-x2x4z");
    }

    fn daemon(wakeup: &str, sleeping: bool, leases: i64) -> DaemonStatus {
        DaemonStatus {
            id: 1,
            host: "vm".into(),
            process_id: 7,
            version: "0.1.0".into(),
            up_seconds: 9.0,
            alive: true,
            sleeping,
            wakeup: Some(wakeup.into()),
            leases,
        }
    }

    #[test]
    fn a_daemon_that_looks_by_itself_is_idle_while_it_holds_nothing() {
        for (wakeup, sleeping, leases, state) in [
            ("notify", true, 0, "idle"),
            ("notify", false, 0, "working"),
            ("poll", false, 0, "idle"),
            ("poll", false, 2, "working"),
            ("database.url cannot be reached: x", false, 0, "idle"),
        ] {
            let text = daemons(&[daemon(wakeup, sleeping, leases)]);
            assert!(text.contains(&format!(" {state} ")), "{wakeup} {leases}: {text}");
        }
    }

    #[test]
    fn large_figures_fit_into_80_columns() {
        let replica = |name: &str, primary| {
            let row = serde_json::json!({
                "replica": name, "primary": primary, "paused": false, "recorded": 20_010_006, "recorded_estimated": true,
                "backlog_objects": 120_010_006, "backlog_bytes": 1_099_511_627_776_000_i64,
                "backlog_objects_of_unknown_size": 1, "in_flight": 5_120, "waiting": 120_010_006, "parked": 1_000_000,
                "oldest_age_seconds": 86_399.0, "failing": 120_010_006,
            });
            serde_json::from_value::<ReplicaStatus>(row).unwrap()
        };
        let daemon = DaemonStatus {
            id: 8_388_607,
            host: "copyhold-production-7d9f8b6c5d-x2x4z".into(),
            process_id: 4_194_304,
            version: "0.1.0".into(),
            up_seconds: 8_639_999.0,
            alive: true,
            sleeping: false,
            wakeup: Some("notify".into()),
            leases: 512,
        };
        let status = Status {
            objects: None,
            estimated: true,
            replicas: vec![replica("backblaze", true), replica("scaleway_paris", false)],
            daemons: None,
            failing: None,
            failing_count: Some(FailingCount::WithEarlierContents),
            log: None,
            differences: None,
            not_known: Vec::new(),
            rules: None,
            read_only: None,
        };
        let all = [replicas(&status), backlog(&status).unwrap(), buckets(&status), daemons(&[daemon])].join("\n");
        for line in all.lines() {
            assert!(line.trim_end().chars().count() <= 80, "{} columns:\n{all}", line.chars().count());
        }
    }
}
