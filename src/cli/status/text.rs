//! `status` as text: one sentence a line, and the tables between them.

use copyhold_core::domain::BreakerScope;
use copyhold_db::{
    log::LogStatus,
    replica::{CHANGES_AT_MOST, CHANGES_WITHIN},
    stats::{
        BreakerStatus, DaemonStatus, Difference, FailingCopy, FailingCount, ReplicaStatus, ResetStatus, Status,
        UnreadPart,
    },
};

use super::{
    super::{
        output::{self, Untrusted, age, bytes},
        rules,
    },
    tables,
};
use crate::config::Config;

/// The whole of it.
pub(super) fn of(config: &Config, status: &Status) -> String {
    let mut parts = Vec::new();
    parts.extend(status.read_only.as_ref().map(ToString::to_string));
    parts.push(objects(status));
    parts.push(String::new());
    parts.push(tables::replicas(status));
    parts.extend(as_of(status));
    parts.extend(status.not_known.iter().map(not_known));
    parts.extend(not_wanted(status));
    parts.extend(status.replicas.iter().filter_map(paused));
    parts.extend(status.replicas.iter().filter_map(draining));
    parts.extend(status.replicas.iter().filter_map(|r| Some(resetting(&r.replica, r.reset.as_ref()?))));
    parts.extend(
        status.replicas.iter().filter_map(|r| r.breaker.as_ref().map(|breaker| unhealthy(&r.replica, breaker))),
    );
    parts.extend(status.replicas.iter().filter_map(changes_parked));
    parts.extend(metadata(status));
    if let Some(other) = status.replicas.iter().find(|r| r.primary && r.replica != config.primary.as_str()) {
        parts.push(format!(
            "the primary in force is {}, this configuration says {}: the database's word counts",
            other.replica, config.primary
        ));
    }
    if let Some(in_force) = &status.rules {
        if in_force.rules != config.rules {
            parts.push(rules::differ(config, in_force));
        }
        parts.extend(rules::unapplied(in_force));
    }
    // That one is shown above, with its progress.
    let differences = status.differences.iter().flatten();
    let shown = differences.filter(|differing| differing.what != Difference::Unapplied.what());
    parts.extend(shown.map(|differing| Untrusted(&differing.says).to_string()));
    let daemons = status.daemons.as_deref();
    parts.extend(daemons.unwrap_or_default().iter().filter(|daemon| daemon.alive).filter_map(not_listening));
    parts.extend(tables::backlog(status));
    parts.push(format!("\n{}", tables::buckets(status)));
    parts.extend(failing(status));
    parts.extend(status.log.as_ref().map(|status| format!("\n{}", log(status))));
    match daemons {
        None => {}
        Some(daemons) if daemons.iter().any(|d| d.alive) => parts.push(format!("\n{}", tables::daemons(daemons))),
        Some(_) => {
            parts.push("\nno daemon is alive: nothing is being copied (start one with `copyhold run`)".to_owned());
        }
    }
    let text = parts.join("\n");
    match output::width() {
        Some(width) => text.lines().map(|line| wrapped(line, width)).collect::<Vec<_>>().join("\n"),
        None => text,
    }
}

/// `about 20000000 objects`
fn objects(status: &Status) -> String {
    match status.objects {
        None => "? objects".to_owned(),
        Some(objects) if status.estimated => format!("about {} objects", tables::rounded(objects)),
        Some(objects) => output::count(objects.unsigned_abs(), "object", "objects"),
    }
}

/// `counted 5m 3s ago`
fn as_of(status: &Status) -> Vec<String> {
    let counted = status.replicas.iter().filter(|r| r.draining_seconds.is_none());
    let (known, not): (Vec<_>, Vec<_>) = counted.partition(|r| r.counted_seconds_ago.is_some());
    let mut lines = Vec::new();
    let oldest = known.iter().filter_map(|r| r.counted_seconds_ago).reduce(f64::max);
    lines.extend(oldest.filter(|ago| *ago >= 1.0).map(|ago| format!("counted {} ago", age(Some(ago)))));
    if known.iter().any(|r| r.recorded_estimated == Some(true)) {
        lines.push("~: estimated from a sample of the table".to_owned());
    }
    let names = not.iter().map(|r| r.replica.as_str()).collect::<Vec<_>>();
    if !names.is_empty() {
        let verb = if names.len() == 1 { "is" } else { "are" };
        lines.push(format!(
            "{} {verb} not counted yet: a daemon does it by and by, `copyhold status --exact` at once",
            names.join(", ")
        ));
    }
    lines
}

fn not_known(part: &UnreadPart) -> String {
    format!("not known: {}: {}", part.what, Untrusted(&part.why))
}

/// `not wanted there by the rules: ~1000000 objects at wasabi`
fn not_wanted(status: &Status) -> Option<String> {
    let of = |r: &ReplicaStatus| {
        let objects = r.not_wanted.filter(|n| *n > 0)?;
        let plural = if objects == 1 { "" } else { "s" };
        Some(format!("{} object{plural} at {}", tables::figure(Some(objects), r.recorded_estimated), r.replica))
    };
    let each: Vec<_> = status.replicas.iter().filter_map(of).collect();
    (!each.is_empty()).then(|| format!("not wanted there by the rules: {}", each.join(", ")))
}

fn paused(r: &ReplicaStatus) -> Option<String> {
    let left = r.paused_seconds_left.map(|s| format!("for {} more", age(Some(s))));
    let because = r.pause_reason.as_ref().map(|why| format!(" ({})", Untrusted(why))).unwrap_or_default();
    r.paused.then(|| {
        format!(
            "{} is paused {}{because}; end it with `copyhold resume {}`",
            r.replica,
            left.as_deref().unwrap_or("until it is resumed"),
            r.replica
        )
    })
}

/// `scw is draining since 3m 2s (its contract ends): …`
fn draining(r: &ReplicaStatus) -> Option<String> {
    let since = age(Some(r.draining_seconds?));
    let because = r.drain_reason.as_ref().map(|why| format!(" ({})", Untrusted(why))).unwrap_or_default();
    let lacks = match r.lacks {
        Some(lacks) => format!("it lacks {}", output::count(lacks.unsigned_abs(), "copy", "copies")),
        None => "--exact counts what it lacks".to_owned(),
    };
    Some(format!(
        "{0} is draining since {since}{because}: nothing is copied to it, and it is not counted ({lacks}); `copyhold replica \
         undrain {0}` ends it",
        r.replica
    ))
}

/// `unregistered changes at b2 are parked since 3m 2s: …`
fn changes_parked(r: &ReplicaStatus) -> Option<String> {
    let since = age(Some(r.changes_parked_seconds?));
    let minutes = CHANGES_WITHIN.as_secs() / 60;
    Some(format!(
        "unregistered changes at {} are parked since {since}: there were more than {CHANGES_AT_MOST} within {minutes} \
         minutes, as if its bucket had been restored; `copyhold explain KEY` says what to do",
        r.replica
    ))
}

/// `metadata not compared: 1200 copies at scw, 3 copies at wasabi; …`
fn metadata(status: &Status) -> Option<String> {
    let of = |r: &ReplicaStatus| {
        let copies = r.metadata_not_compared.filter(|n| *n > 0)?;
        let noun = if copies == 1 { "copy" } else { "copies" };
        Some(format!("{} {noun} at {}", tables::figure(Some(copies), r.recorded_estimated), r.replica))
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
    let cleared = output::count(reset.cleared.unsigned_abs(), "copy", "copies");
    let reached = reset.reached.as_ref().map(|key| format!(", up to \"{}\"", Untrusted(key))).unwrap_or_default();
    format!(
        "the {verb} of {replica}, begun {} ago, is not done: {cleared} cleared so far{reached}; if no command is running, `copyhold \
         replica {verb} {replica}` goes on",
        age(Some(reset.begun_seconds))
    )
}

/// `daemon 3 looks for work every second: database.url leads to …`
fn not_listening(daemon: &DaemonStatus) -> Option<String> {
    let how = daemon.wakeup.as_deref().filter(|how| !["notify", "poll"].contains(how))?;
    Some(format!("daemon {} cannot be notified and looks for work every second: {}", daemon.id, Untrusted(how)))
}

/// `scw has not been used for 3m 2s: denied: …; tried again in 12s, 4 probes have failed`
fn unhealthy(replica: &str, breaker: &BreakerStatus) -> String {
    let what = if breaker.blocks == BreakerScope::Writing.as_str() { "written to" } else { "used" };
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
        "{replica} has not been {what} for {}, its store is unhealthy: {}: {}; {next}{failed}",
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

/// Failing copies by replica and class, two lines each.
fn failing(status: &Status) -> Option<String> {
    let count = status.failing_count?;
    let copies = status.failing.as_deref().filter(|copies| !copies.is_empty())?;
    let mut lines = vec!["\nfailing".to_owned()];
    match count {
        FailingCount::Exact => {}
        FailingCount::WithEarlierContents => {
            lines.push(
                " ~: copies of objects that were registered again, and not tried since, are among them".to_owned(),
            );
        }
        FailingCount::AtLeast => lines.push(" +: there are more, which could not be counted in time".to_owned()),
    }
    for FailingCopy { replica, class, copies, example_key, message, last_seconds_ago } in copies {
        let noun = if *copies == 1 { "copy" } else { "copies" };
        let copies = tables::failing(Some(*copies), status.failing_count);
        lines.push(format!(
            " {replica}: {}: {copies} {noun}, the last {} ago, for example",
            Untrusted(class),
            age(Some(*last_seconds_ago))
        ));
        lines.push(format!("     \"{}\": {}", Untrusted(example_key), Untrusted(message)));
    }
    Some(lines.join("\n"))
}

/// A line that is longer than the terminal is wide goes on in the next, indented like the first and a little more. A
/// word that is longer stays whole.
fn wrapped(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    let indent = line.chars().take_while(|c| *c == ' ').count();
    let mut text = " ".repeat(indent);
    let mut used = indent;
    let mut is_first = true;
    for word in line.split(' ').filter(|word| !word.is_empty()) {
        let length = word.chars().count();
        if !is_first && used + 1 + length > width {
            text.push('\n');
            text.push_str(&" ".repeat(indent + 2));
            used = indent + 2;
        } else if !is_first {
            text.push(' ');
            used += 1;
        }
        text.push_str(word);
        used += length;
        is_first = false;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_broken_between_words_and_indented() {
        assert_eq!(wrapped("short", 10), "short");
        assert_eq!(wrapped(" one two three four", 10), " one two\n   three\n   four");
        assert_eq!(wrapped("a verylongwordindeed b", 10), "a\n  verylongwordindeed\n  b");
    }
}
