//! `copyhold migrate`: what it did, and what a new replica will cost.

use copyhold_core::domain::ReplicaName;
use copyhold_db::{
    Database,
    rules::{ApplyScope, CopyRate, ExpectedCopies},
    schema::{MigrateResult, MigrationPreview, SCHEMA_VERSION},
};

use super::{Verdict, database, logging, output, rules};
use crate::{
    cli::output::{age, bytes, count},
    config::Config,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A new replica is added in an instant, whatever the size of the table. Daemons with this configuration then copy everything to \
it, or what the rules want there. The command first prints what that comes to.")]
pub(super) struct Args {
    /// Print what would be done, and what a new replica would cost, and do nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    logging::start(&config.log)?;
    let (database, pools) = database(config)?;
    let foreseen = copyhold_db::schema::preview(config, &database).await?;
    // Nothing is there yet that could be copied to it.
    if foreseen.from_version > 0 && !foreseen.columns.is_empty() {
        let pace = database.copy_rate().await?;
        let all = database.expected_copies(&config.rules, &foreseen.columns, &rules::sizes()).await?;
        for (replica, expected) in foreseen.columns.iter().zip(&all) {
            output::line(&expectation(replica, expected, pace))?;
        }
    }
    if args.dry_run {
        for line in would(config, &foreseen) {
            output::line(&line)?;
        }
    } else {
        let done = copyhold_db::schema::migrate(config).await?;
        for line in did(config, &done) {
            output::line(&line)?;
        }
        fill(&database, &done).await?;
    }
    pools.close().await;
    Ok(Verdict::Good)
}

/// What copying to a new replica comes to.
fn expectation(replica: &ReplicaName, expected: &ExpectedCopies, pace: Option<CopyRate>) -> String {
    let about = if expected.exact { "" } else { "about " };
    let objects = count(expected.objects, "object", "objects");
    let size = bytes(i64::try_from(expected.bytes).unwrap_or(i64::MAX));
    let unknown = match expected.of_unknown_size {
        0 => String::new(),
        n => format!(" and {n} of unknown size"),
    };
    let time = match (expected.objects, pace) {
        (0, _) => String::new(),
        (_, None) => "; no copy was made in the last hour, so how long that takes is unknown".into(),
        (_, Some(pace)) => {
            let takes = age(pace.takes(expected).map(|takes| takes.as_secs_f64()));
            format!(
                "; {takes} at the pace of the busiest minute of the last hour, {:.0} copies/s",
                pace.copies_per_second
            )
        }
    };
    let undecided = match expected.undecided {
        0 => String::new(),
        n => format!(
            "\n  {about}{} no rule and {} not copied there; a last rule without prefix and sizes would decide",
            if n == 1 { "1 object fits".to_owned() } else { format!("{n} objects fit") },
            if n == 1 { "is" } else { "are" },
        ),
    };
    format!(
        "replica {replica} is to get {about}{objects}, {size}{unknown}: {} GETs at the sources, {} PUTs there{time}{undecided}",
        expected.gets, expected.puts
    )
}

fn would(config: &Config, foreseen: &MigrationPreview) -> Vec<String> {
    let schema = &config.database.schema;
    let mut lines = Vec::new();
    match foreseen.from_version {
        0 => lines.push(format!("schema {schema}: would be created, at version {SCHEMA_VERSION}")),
        from if from < SCHEMA_VERSION => {
            lines.push(format!("schema {schema}: version {from} would become {SCHEMA_VERSION}"));
        }
        _ => {}
    }
    if let Some(before) = &foreseen.rules {
        let (before, now) = (before.rules.len() as u64, config.rules.len() as u64);
        let now = count(now, "rule", "rules");
        lines.push(format!(
            "schema {schema}: {now} would be in force instead of {before}; objects that are there stay as they are"
        ));
    }
    for replica in &foreseen.columns {
        lines.push(format!("schema {schema}: replica {replica} would be added"));
    }
    for index in &foreseen.indexes {
        lines.push(format!("schema {schema}: index {index} would be built"));
    }
    lines.push(if foreseen.is_nothing() {
        format!("schema {schema} is up to date; its functions would be made anew")
    } else {
        "nothing was done".into()
    });
    lines
}

fn did(config: &Config, done: &MigrateResult) -> Vec<String> {
    let schema = &config.database.schema;
    let mut lines = Vec::new();
    if done.from_version < SCHEMA_VERSION {
        lines.push(format!("schema {schema}: version {} -> {SCHEMA_VERSION}", done.from_version));
    }
    if let Some(changed) = &done.rules {
        let rules = count(changed.rules as u64, "rule", "rules");
        let apply = if changed.unapplied {
            "; the objects that are there are not judged by them: see `copyhold rules apply --dry-run`"
        } else {
            ""
        };
        lines.push(format!("schema {schema}: {rules} in force, before it was {}{apply}", changed.before));
    }
    for replica in &done.derived.columns_added {
        lines.push(format!("schema {schema}: added replica {replica}"));
    }
    for index in &done.derived.indexes_built {
        lines.push(format!("schema {schema}: built index {index}"));
    }
    lines.push(format!("schema {schema} is up to date"));
    lines
}

/// Makes due what the rules want at replicas that have just come, and nothing else.
async fn fill(database: &Database, done: &MigrateResult) -> anyhow::Result<()> {
    let new = &done.derived.unfilled;
    if new.is_empty() || done.from_version == 0 {
        return Ok(());
    }
    let scope = ApplyScope::filling(new, done.filling_settles, rules::sizes());
    let (applied, took) = rules::judge(database, &scope).await?;
    for (replica, change) in database.replicas().iter().zip(&applied.judged.changes).filter(|(r, _)| new.contains(r)) {
        let wanted = count(change.wanted, "object", "objects");
        output::line(&format!("replica {replica}: the rules want {wanted} of {} there", applied.judged.looked))?;
    }
    if !applied.complete {
        output::line(&format!(
            "after {} it was ended before all objects were judged; `copyhold rules apply` goes on",
            age(Some(took.as_secs_f64()))
        ))?;
    }
    Ok(())
}
