use anyhow::Context as _;

use super::{
    Verdict, queue, rules, show,
    show::{Untrusted, age, bytes, table},
};
use crate::{
    config::Config,
    domain::Blocks,
    queue::{
        BreakerStatus, CHANGES_AT_MOST, CHANGES_WITHIN, DaemonStatus, Difference, LogStatus, ReplicaStatus,
        ResetStatus, RulesState, Status, probe,
    },
};

/// Older figures are counted anew if that is cheap: no daemon seems to do it.
const STALE_SECONDS: f64 = 30.0;
/// A table with fewer objects than this is counted at once.
const CHEAP_OBJECTS: i64 = 200_000;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON document instead of tables
    #[arg(long)]
    json: bool,
    /// Count the backlog at this moment, about 0.15 s per million copies that are missing
    #[arg(long)]
    exact: bool,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    let (queue, pools) = queue(config)?;
    let mut status = queue.status(args.exact).await?;
    let counted = status.replicas.iter().filter(|r| r.draining_seconds.is_none());
    let stale = counted.map(|r| r.counted_seconds_ago).any(|ago| ago.is_none_or(|s| s > STALE_SECONDS));
    if !args.exact && stale && status.objects < CHEAP_OBJECTS {
        status = queue.status(true).await?;
    }
    let rules = queue.rules_state().await?;
    let read_only = probe(queue.pool()).await?;
    pools.close().await;
    if args.json {
        let mut document = serde_json::to_value(&status).context("status as JSON")?;
        document["read_only"] = read_only.map(|server| server.to_string()).into();
        show::json(&document)?;
    } else {
        if let Some(server) = read_only {
            show::line(&server.to_string())?;
        }
        show::line(&text(config, &status, &rules))?;
    }
    Ok(Verdict::Good)
}

fn text(config: &Config, status: &Status, in_force: &RulesState) -> String {
    let about = if status.estimated { "about " } else { "" };
    let plural = if status.objects == 1 { "" } else { "s" };
    let mut parts = vec![format!("{about}{} object{plural}", status.objects), replicas(status)];
    if let Some(counted) = status.replicas.iter().filter_map(|r| r.counted_seconds_ago).reduce(f64::max) {
        if counted >= 1.0 {
            parts.push(format!("backlog as of {} ago", age(Some(counted))));
        }
    } else {
        parts.push("the backlog was never counted: no daemon has run yet (--exact counts it now)".into());
    }
    for r in status.replicas.iter().filter(|r| r.paused) {
        let left = r.paused_seconds_left.map(|s| format!("for {} more", age(Some(s))));
        let because = r.pause_reason.as_ref().map(|why| format!(" ({})", Untrusted(why))).unwrap_or_default();
        parts.push(format!(
            "{} is paused {}{because}; end it with `copyhold resume {}`",
            r.replica,
            left.as_deref().unwrap_or("until it is resumed"),
            r.replica
        ));
    }
    parts.extend(status.replicas.iter().filter_map(draining));
    parts.extend(status.replicas.iter().filter_map(|r| Some(resetting(&r.replica, r.reset.as_ref()?))));
    parts.extend(status.replicas.iter().filter_map(|r| r.breaker.as_ref().map(|breaker| sick(&r.replica, breaker))));
    parts.extend(status.replicas.iter().filter_map(changes_parked));
    parts.extend(metadata(status));
    if let Some(other) = status.replicas.iter().find(|r| r.primary && r.replica != config.primary.as_str()) {
        parts.push(format!(
            "the primary in force is {}, this configuration says {}: the database's word counts",
            other.replica, config.primary
        ));
    }
    if in_force.rules != config.rules {
        parts.push(rules::differ(config, in_force));
    }
    parts.extend(rules::unapplied(in_force));
    // Which is said above, with how far it is.
    let told = status.differences.iter().filter(|differing| differing.what != Difference::Unapplied.what());
    parts.extend(told.map(|differing| Untrusted(&differing.says).to_string()));
    parts.extend(status.daemons.iter().filter(|daemon| daemon.alive).filter_map(deaf));
    if !status.failing.is_empty() {
        parts.push(format!("\nfailing\n{}", failing(status)));
    }
    parts.push(log(&status.log));
    parts.push(if status.daemons.iter().any(|d| d.alive) {
        format!("\ndaemons\n{}", daemons(status))
    } else {
        "\nno daemon is alive: nothing is being copied (start one with `copyhold run`)".into()
    });
    parts.join("\n")
}

/// `scw is draining since 3m 2s (its contract ends): …`
fn draining(r: &ReplicaStatus) -> Option<String> {
    let since = age(Some(r.draining_seconds?));
    let because = r.drain_reason.as_ref().map(|why| format!(" ({})", Untrusted(why))).unwrap_or_default();
    let lacks = match r.lacks {
        Some(lacks) => format!("it lacks {}", show::count(lacks.unsigned_abs(), "copy", "copies")),
        None => "--exact counts what it lacks".to_owned(),
    };
    Some(format!(
        "{0} is draining since {since}{because}: nothing is copied to it, and it is not counted ({lacks}); `copyhold replica \
         undrain {0}` ends it",
        r.replica
    ))
}

/// `changes at b2 that nobody registered are parked since 3m 2s: …`
fn changes_parked(r: &ReplicaStatus) -> Option<String> {
    let since = age(Some(r.changes_parked_seconds?));
    let minutes = CHANGES_WITHIN.as_secs() / 60;
    Some(format!(
        "changes at {} that nobody registered are parked since {since}: there were more than {CHANGES_AT_MOST} within {minutes} \
         minutes, as if its bucket had been restored; `copyhold explain KEY` says what to do",
        r.replica
    ))
}

/// `metadata not compared: 1200 copies at scw, 3 copies at wasabi; …`
fn metadata(status: &Status) -> Option<String> {
    let about = if status.estimated { "about " } else { "" };
    let of = |r: &ReplicaStatus| {
        let copies = r.metadata_not_compared.filter(|n| *n > 0)?.unsigned_abs();
        Some(format!("{about}{} at {}", show::count(copies, "copy", "copies"), r.replica))
    };
    let each: Vec<_> = status.replicas.iter().filter_map(of).collect();
    (!each.is_empty()).then(|| {
        format!(
            "metadata not compared: {}, taken from a listing or recorded by an earlier version; `copyhold verify --metadata` \
             compares it",
            each.join(", ")
        )
    })
}

/// `the reset of scw, begun 3m 2s ago, is not done: …`
fn resetting(replica: &str, reset: &ResetStatus) -> String {
    let verb = if reset.moved { "move" } else { "reset" };
    let cleared = show::count(reset.cleared.unsigned_abs(), "copy", "copies");
    let reached = reset.reached.as_ref().map(|key| format!(", up to \"{}\"", Untrusted(key))).unwrap_or_default();
    format!(
        "the {verb} of {replica}, begun {} ago, is not done: {cleared} taken back so far{reached}; if nobody is at it, `copyhold \
         replica {verb} {replica}` goes on",
        age(Some(reset.begun_seconds))
    )
}

/// `daemon 3 looks for work every second: database.url leads to …`
fn deaf(daemon: &DaemonStatus) -> Option<String> {
    let how = daemon.wakeup.as_deref().filter(|how| !["notify", "poll"].contains(how))?;
    Some(format!("daemon {} cannot be notified and looks for work every second: {}", daemon.id, Untrusted(how)))
}

/// `scw has not been used for 3m 2s: denied: …; tried again in 12s, 4 probes have failed`
fn sick(replica: &str, breaker: &BreakerStatus) -> String {
    let what = if breaker.blocks == Blocks::Writing.as_str() { "written to" } else { "used" };
    let next = if breaker.next_probe_seconds > 0.0 {
        format!("tried again in {}", age(Some(breaker.next_probe_seconds)))
    } else {
        "being tried, or about to be".to_owned()
    };
    let failed = match breaker.probes_failed {
        0 => String::new(),
        1 => ", 1 probe has failed".to_owned(),
        n => format!(", {n} probes have failed"),
    };
    format!(
        "{replica} has not been {what} for {}, its store is not well: {}: {}; {next}{failed}",
        age(Some(breaker.open_seconds)),
        Untrusted(&breaker.class),
        Untrusted(&breaker.message)
    )
}

/// `events 1 to 205 in the log, the oldest from 3m 2s ago, 96 KiB; 7 more wait to be moved there, the oldest for 1s`
fn log(log: &LogStatus) -> String {
    let there = match log.first_id {
        Some(first) => format!(
            "events {first} to {} in the log, the oldest from {} ago, {}",
            log.last_id,
            age(log.oldest_age_seconds),
            bytes(log.bytes)
        ),
        None => "no events in the log".to_owned(),
    };
    let most = if log.inbox >= 100_000 { "at least " } else { "" };
    match log.inbox {
        0 => there,
        1 => {
            format!("{there}; 1 waits to be moved there, for {} already", age(log.inbox_oldest_age_seconds))
        }
        n => {
            format!("{there}; {most}{n} wait to be moved there, the oldest for {}", age(log.inbox_oldest_age_seconds))
        }
    }
}

fn replicas(status: &Status) -> String {
    let heads =
        ["replica", "bucket", "recorded", "backlog", "bytes", "in flight", "waiting", "parked", "failing", "oldest"];
    let row = |r: &crate::queue::ReplicaStatus| {
        let unknown = if r.backlog_objects_of_unknown_size > 0 { "+" } else { "" };
        vec![
            format!("{}{}", r.replica, if r.primary { " (primary)" } else { "" }),
            r.bucket.clone().unwrap_or_else(|| "not used yet".into()),
            r.recorded.to_string(),
            r.backlog_objects.to_string(),
            format!("{}{unknown}", bytes(r.backlog_bytes)),
            r.in_flight.to_string(),
            r.waiting.to_string(),
            r.parked.to_string(),
            r.failing.to_string(),
            age(r.oldest_age_seconds),
        ]
    };
    table(&heads, 2, status.replicas.iter().map(row).collect()).to_string()
}

fn failing(status: &Status) -> String {
    let row = |f: &crate::queue::FailingCopy| {
        vec![
            f.replica.clone(),
            f.class.clone(),
            Untrusted(&f.example_key).to_string(),
            Untrusted(&f.message).to_string(),
            f.copies.to_string(),
            age(Some(f.last_seconds_ago)),
        ]
    };
    let heads = ["replica", "class", "for example", "because", "copies", "last"];
    table(&heads, 4, status.failing.iter().map(row).collect()).to_string()
}

fn daemons(status: &Status) -> String {
    let row = |d: &DaemonStatus| {
        let state = match (d.alive, d.sleeping) {
            (false, _) => "silent",
            (true, true) => "idle",
            (true, false) => "working",
        };
        vec![
            d.id.to_string(),
            Untrusted(&d.host).to_string(),
            d.version.clone(),
            state.into(),
            match d.wakeup.as_deref() {
                None => "-",
                Some(how @ ("notify" | "poll")) => how,
                Some(_) => "poll, see above",
            }
            .into(),
            d.process_id.to_string(),
            d.leases.to_string(),
            age(Some(d.up_seconds)),
        ]
    };
    let heads = ["daemon", "host", "version", "state", "wake-up", "pid", "leases", "up"];
    table(&heads, 5, status.daemons.iter().map(row).collect()).to_string()
}
