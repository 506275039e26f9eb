//! `copyhold rules`: shows the rules in force, and applies them.

mod judge;
mod report;

use anyhow::bail;
use copyhold_core::domain::ObjectKey;
use copyhold_db::rules::{ApplyScope, RulesState};
use serde_json::{Value, json};

use super::{Verdict, database, output, output::Untrusted};
use crate::config::{Config, Rule};
pub(super) use judge::{judge, sizes};
use report::Report;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the rules in force, and whether the objects that are there have been judged by them
    Show {
        /// Print one JSON document instead of text
        #[arg(long)]
        json: bool,
    },
    /// Judge all objects that are there by the rules in force
    #[command(after_help = "\
A copy becomes wanted where the first rule that matches its object names the replica, and unwanted where it does not. An object \
that no rule matches stays as it is. Nothing is deleted: a copy that is on record stays on record, and remains a source.

It needs no daemon, and locks no row for long: daemons and the application may run. Ctrl-C ends it, and the same command \
goes on where it ended.

Exit codes: 0 the rules are applied to all objects; 1 it could not be done; 2 only partly.")]
    Apply {
        /// Say what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Print one JSON document instead of text
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    let (database, pools) = database(config)?;
    let state = database.rules_state().await?;
    match args.command {
        Command::Show { json } => {
            pools.close().await;
            if json {
                output::json(&document(config, &state))?;
            } else {
                output::line(&text(config, &state))?;
            }
            Ok(Verdict::Good)
        }
        Command::Apply { dry_run, json } => {
            if state.rules != config.rules {
                bail!("{}", differ(config, &state));
            }
            let scope = ApplyScope::everything(&database, sizes()).dry_run(dry_run);
            let (applied, took) = judge(&database, &scope).await?;
            pools.close().await;
            let report = Report::new(&database, &applied, state.rules.len(), dry_run, took);
            if json {
                output::json(&report)?;
            } else {
                output::line(&report.text())?;
            }
            Ok(if applied.complete { Verdict::Good } else { Verdict::Incomplete })
        }
    }
}

/// Printed where the configuration has other rules than are in force.
pub(super) fn differ(config: &Config, state: &RulesState) -> String {
    let many = |rules: &[Rule]| match rules.len() {
        0 => "no rules".to_owned(),
        n => output::count(n as u64, "rule", "rules"),
    };
    format!(
        "this configuration has other rules ({}) than those in force ({}): the database's word counts; `copyhold migrate` \
         puts the configuration's in force, which sends nothing by itself",
        many(&config.rules),
        many(&state.rules)
    )
}

/// Printed while the rules are not applied to older objects.
pub(super) fn unapplied(state: &RulesState) -> Option<String> {
    if !state.is_unapplied() {
        return None;
    }
    Some(match &state.applying {
        Some((version, Some(through))) if *version == state.version => format!(
            "the rules are being applied to the objects that were there, through \"{through}\"; if no command is running, \
             `copyhold rules apply` goes on"
        ),
        _ => "objects that were registered before the rules changed are not judged by them yet: see `copyhold rules apply \
              --dry-run`"
            .to_owned(),
    })
}

fn text(config: &Config, state: &RulesState) -> String {
    let written: Vec<_> = state.rules.iter().map(ToString::to_string).collect();
    let lines = written.iter().flat_map(|rule| rule.lines().chain([""]));
    let mut parts: Vec<String> = lines.map(|line| Untrusted(line).to_string()).collect();
    if state.rules.is_empty() {
        parts.push("no rules are in force: every object is wanted at all replicas".into());
    } else {
        parts.push("what none of these fits is wanted at all replicas; the primary has every object".into());
    }
    if state.rules != config.rules {
        parts.push(differ(config, state));
    }
    parts.extend(unapplied(state));
    parts.join("\n")
}

fn document(config: &Config, state: &RulesState) -> Value {
    let rule = |rule: &Rule| {
        let replicas: Vec<_> = rule.replicas.iter().map(ToString::to_string).collect();
        json!({ "prefix": rule.prefix, "min_bytes": rule.min_bytes, "max_bytes": rule.max_bytes, "replicas": replicas })
    };
    json!({
        "version": state.version,
        "applied": state.applied,
        "applied_through": state.applying.as_ref().and_then(|(_, through)| through.as_ref()).map(ObjectKey::as_str),
        "rules": state.rules.iter().map(rule).collect::<Vec<_>>(),
        "same_as_configuration": state.rules == config.rules,
    })
}
