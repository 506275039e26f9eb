//! `copyhold explain KEY`: all that is known of one object, as text or JSON.

mod plan;

use anyhow::Context as _;
use copyhold_core::domain::{Direction, ObjectKey, micros, utc};
use copyhold_db::pin::Pin;
use copyhold_db::{
    object::{
        CopyDetails, CopyState, ExpiredLeases, FailureDetails, LeaseHolder, ObjectDetails, PARKED_BY_OPERATOR,
        UnsettledDetails,
    },
    replica::{Breaker, ReplicaRow},
};
use serde::{Serialize, Serializer};

use super::{Verdict, args, database, output, output::Untrusted};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The key, byte for byte
    #[arg(value_name = "KEY", required_unless_present = "plan")]
    key: Option<String>,
    /// Instead of an object, explain how PostgreSQL finds work: that of one lane, if KEY is a replica's name, or of
    /// all; exit code 1 if something is wrong with it
    #[arg(long)]
    plan: bool,
    /// Print one JSON document instead of text
    #[arg(long)]
    json: bool,
}

/// The details on record, and what only this configuration knows of them.
#[derive(Debug, Serialize)]
struct ObjectJson<'a> {
    key: &'a str,
    /// `crc64nvme:…`
    hash: Option<String>,
    #[serde(flatten)]
    details: &'a ObjectDetails,
    copies: Vec<CopyJson<'a>>,
}

#[derive(Debug, Serialize)]
struct CopyJson<'a> {
    #[serde(flatten)]
    copy: &'a CopyDetails,
    #[serde(serialize_with = "word")]
    state: CopyState,
    /// What keeps a missing copy from being made, besides the object itself.
    hindrance: Option<String>,
}

fn word<S: Serializer>(state: &CopyState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.word())
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    if args.plan {
        return plan::run(config, args.key.as_deref(), args.json).await;
    }
    let key = ObjectKey::new(args.key.unwrap_or_default()).context("KEY")?;
    let (database, pools) = database(config)?;
    let details = database.explain(&key).await?;
    let rows = database.replica_rows().await?;
    pools.close().await;
    let Some(details) = details else {
        return Err(args::not_registered(&key));
    };
    let copy_json = |copy| {
        let state = CopyDetails::state(copy, details.now_us);
        CopyJson { copy, state, hindrance: hindrance(config, &rows, &details, copy, state) }
    };
    let hash = details.hash().map(|hash| hash.to_string());
    let document = ObjectJson {
        key: key.as_str(),
        hash,
        details: &details,
        copies: details.copies.iter().map(copy_json).collect(),
    };
    if args.json {
        output::json(&document)?;
        return Ok(Verdict::Good);
    }
    output::line(&object(&key, &document))?;
    for copy in &document.copies {
        output::line(&of_copy(&details, copy))?;
    }
    Ok(Verdict::Good)
}

fn object(key: &ObjectKey, document: &ObjectJson<'_>) -> String {
    let details = document.details;
    let size = match details.size_bytes {
        None => "not known before the first read".to_owned(),
        Some(bytes) if bytes < 1024 => format!("{bytes} bytes"),
        Some(bytes) => format!("{bytes} bytes ({})", output::bytes(bytes)),
    };
    let hash = document.hash.as_deref().unwrap_or("not known before the first read");
    let held = details.held.as_ref().map_or_else(|| "by no daemon".to_owned(), |held| holder(held, details.now_us));
    format!(
        "{key}\n  size        {size}\n  hash        {hash}\n  registered  {}\n  generation  {}\n  held        {held}\n{}",
        when(details.registered_at_us, details.now_us),
        details.generation,
        details.not_carried.as_ref().map(|what| of_not_carried(what)).unwrap_or_default()
            + &details.abandoned.as_ref().map(|abandoned| of_abandoned(abandoned, details.now_us)).unwrap_or_default()
    )
}

/// What its copies lack.
fn of_not_carried(what: &[String]) -> String {
    format!("  not copied  {}: not every copy of it has these\n", Untrusted(&what.join(", ")))
}

/// Why it waits though nothing has failed.
fn of_abandoned(abandoned: &ExpiredLeases, now: i64) -> String {
    let last = when(abandoned.last_at_us, now);
    let history = match abandoned.times {
        0 => format!("a holder of it died {last}"),
        1 => format!("its holder died {last}"),
        times => {
            format!("{times} holders in a row died, the last {last}: it waits longer each time and is copied alone")
        }
    };
    format!("  abandoned   {history}\n")
}

fn holder(held: &LeaseHolder, now: i64) -> String {
    let until = when(held.until_us, now);
    if held.until_us <= now {
        return format!("by daemon {}, whose lease ran out {until}: a sweeper frees the row", held.daemon);
    }
    let (Some(host), Some(pid), Some(renewed)) = (&held.host, held.process_id, held.renewed_at_us) else {
        return format!("by daemon {}, which is not on the list any more; freed after {until}", held.daemon);
    };
    let silent = if held.alive == Some(false) { ", which has fallen silent" } else { "" };
    format!(
        "by daemon {} (host {}, pid {pid}){silent}, renewed {}, until {until}",
        held.daemon,
        Untrusted(host),
        when(renewed, now)
    )
}

fn of_copy(details: &ObjectDetails, copy_json: &CopyJson<'_>) -> String {
    let now = details.now_us;
    let status = match copy_json.state {
        CopyState::Recorded { at_us } => format!("recorded {}", when(at_us, now)),
        CopyState::NotWanted => "not wanted there".to_owned(),
        CopyState::Parked => "parked: not tried again until `copyhold retry`".to_owned(),
        CopyState::Waiting { until_us } => format!("waiting, tried again {}", when(until_us, now)),
        CopyState::Due { .. } if copy_json.hindrance.is_none() && details.held.is_some() => {
            "due, and a daemon has leased the object".to_owned()
        }
        // What the rows that were there before it were given.
        CopyState::Due { since_us: ..=0 } => "due since the replica was added".to_owned(),
        CopyState::Due { since_us } => format!("due since {}", when(since_us, now)),
    };
    let copy = copy_json.copy;
    let mut lines = vec![format!("{}{}: {status}", copy.replica, if copy.primary { " (primary)" } else { "" })];
    if let Some(unsettled) = &copy.unsettled {
        lines.push(of_unsettled(unsettled, copy_json.state, now));
    }
    if let Some(failure) = &copy.failure {
        lines.extend(of_failure(failure, copy_json.state, now));
    }
    if let Some(upload) = copy.upload.as_ref().filter(|_| !matches!(copy_json.state, CopyState::Recorded { .. })) {
        let (parts, of, last) = (upload.parts, upload.of, when(upload.last_at_us, now));
        lines.push(format!("    {parts} of its {of} parts are there, the last was sent {last}"));
    }
    lines.extend(copy_json.hindrance.as_ref().map(|why| format!("    {why}")));
    lines.join("\n")
}

/// What may still arrive there, and what is known of it.
fn of_unsettled(unsettled: &UnsettledDetails, state: CopyState, now: i64) -> String {
    let (noted, settled) = (when(unsettled.noted_at_us, now), when(unsettled.settled_at_us, now));
    let over = unsettled.settled_at_us <= now;
    match (unsettled.after_crash, state) {
        (true, CopyState::Recorded { .. }) if over => {
            "    proven after PostgreSQL had crashed, and to be read once more; no write that is not over is known of"
                .to_owned()
        }
        (true, CopyState::Recorded { .. }) => format!(
            "    proven after PostgreSQL had crashed, which may have lost claims; no write that is not over is known of, and it is \
             read once more {settled}"
        ),
        (true, _) => format!(
            "    PostgreSQL had crashed {noted}, which may have lost claims; no write that is not over is known of"
        ),
        (false, _) if over => {
            format!(
                "    a write was sent {noted} whose end was not seen; it can arrive no more, and what is recorded is read once more"
            )
        }
        (false, _) => format!(
            "    a write was sent {noted} whose end was not seen; what is recorded is read again until it can arrive no more, {settled}"
        ),
    }
}

fn of_failure(failure: &FailureDetails, state: CopyState, now: i64) -> [String; 2] {
    let before = match (failure.current, state) {
        (false, _) => "in an earlier generation ",
        (true, CopyState::Parked | CopyState::Waiting { .. }) => "",
        (true, _) => "before that ",
    };
    let by_hand = failure.class == PARKED_BY_OPERATOR;
    let class = if by_hand { "by an operator" } else { &failure.class };
    let (first, last) = (when(failure.first_at_us, now), when(failure.last_at_us, now));
    let times = match failure.attempts {
        _ if by_hand => format!("done {last}"),
        0 => format!("first {first}, last {last}"),
        1 => format!("1 attempt counts, {last}"),
        many => format!("{many} attempts count, first {first}, last {last}"),
    };
    [format!("    {before}{}: {}", Untrusted(class), Untrusted(&failure.message)), format!("    {times}")]
}

/// What keeps a missing copy from being made, besides the object itself.
fn hindrance(
    config: &Config,
    rows: &[ReplicaRow],
    details: &ObjectDetails,
    copy: &CopyDetails,
    state: CopyState,
) -> Option<String> {
    if matches!(state, CopyState::Recorded { .. } | CopyState::NotWanted) {
        return None;
    }
    if copy.paused {
        let until = copy.paused_until_us.map_or_else(|| "it is resumed".to_owned(), utc);
        let because = copy.pause_reason.as_ref().map(|why| format!(" ({})", Untrusted(why))).unwrap_or_default();
        return Some(format!("{} is paused until {until}{because}", copy.replica));
    }
    let name = &copy.replica;
    if let Some(draining) = rows.iter().find(|row| row.name.as_str() == name).and_then(|row| row.draining.as_ref()) {
        let because = draining.because.as_ref().map(|why| format!(" ({})", Untrusted(why))).unwrap_or_default();
        return Some(format!("{name} is draining since {}{because}: nothing is copied to it", utc(draining.since)));
    }
    let Some(replica) = config.replicas.iter().find(|r| r.name.as_str() == name) else {
        return Some(format!("this configuration has no replica {name}"));
    };
    let row = rows.iter().find(|row| row.name == replica.name)?;
    if let Some(why) = row.pin.as_ref().and_then(|pin| pin.forbids(&Pin::from(replica), &replica.name)) {
        return Some(format!("not copied to by a daemon of this configuration: {why}"));
    }
    if let Some(breaker) = &row.breaker {
        return Some(of_breaker(breaker, details.now_us));
    }
    if let Some(why) = no_source(rows, details) {
        return Some(why);
    }
    if details.daemons_alive == 0 {
        return Some("no daemon is alive: nothing is being copied (start one with `copyhold run`)".into());
    }
    if row.admission.is_none() && !row.primary {
        return Some(format!("nothing was ever written to {name}: `copyhold check` and the daemons' logs say why"));
    }
    None
}

/// Since when its store is left alone, why, and when it is tried again.
fn of_breaker(breaker: &Breaker, now: i64) -> String {
    let next = if breaker.probe_in.is_zero() {
        "it is being tried, or about to be".to_owned()
    } else {
        format!("tried again {}", when(now.saturating_add(micros(breaker.probe_in)), now))
    };
    format!("{}; {next}", Untrusted(&breaker.why()))
}

/// Why the object cannot be read anywhere for now. Where no copy is on record, the primary is asked.
fn no_source(rows: &[ReplicaRow], details: &ObjectDetails) -> Option<String> {
    let recorded = |row: &&ReplicaRow| {
        details.copies.iter().any(|copy| copy.replica == row.name.as_str() && copy.recorded_at_us.is_some())
    };
    let holders: Vec<_> = rows.iter().filter(recorded).collect();
    let asked = if holders.is_empty() { rows.iter().filter(|row| row.primary).collect() } else { holders };
    let away = |row: &ReplicaRow| {
        let breaker = row.breaker.as_ref().filter(|breaker| breaker.blocks.forbids(Direction::Read))?;
        Some(format!("{} cannot be read: {}", row.name, of_breaker(breaker, details.now_us)))
    };
    let away: Vec<_> = asked.into_iter().map(away).collect::<Option<_>>()?;
    (!away.is_empty()).then(|| away.join("; "))
}

/// `3m 2s ago (2026-11-21T20:03:11Z)`, or `in 3m 2s (…)`
fn when(at: i64, now: i64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "to be read by people, in seconds")]
    let apart = at.abs_diff(now) as f64 / 1e6;
    let apart = output::age(Some(apart));
    let relative = if at > now { format!("in {apart}") } else { format!("{apart} ago") };
    format!("{relative} ({})", utc(at))
}
