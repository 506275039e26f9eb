//! `copyhold import`: checks the table, then runs the import.

mod report;

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use copyhold_core::domain::ReplicaName;
use copyhold_db::{
    Database, DatabaseError,
    import::{ImportPlan, ImportRights, TimeUnit},
    replica::ReplicaRow,
};
use tokio_util::sync::CancellationToken;

use super::{Verdict, database, output, progress::Bar, stop::StopSignals};
use crate::{
    config::{Config, did_you_mean},
    import::{Import, ImportContext, ImportEnded, ImportError, ImportOptions, check, check_times},
};
use report::Report;

/// How often the progress is shown.
const EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The table has a column object_key and, for each replica, the time since which the copy exists (bigint or timestamptz; NULL: it \
does not). An optional column want_NAME states whether the copy is wanted. Such a time is imported unchanged: it is the other \
program's statement that the copy was verified, not a proof by Copyhold (`copyhold verify` reads it, once a daemon has read the \
object). Copies that are wanted and not recorded are due at once. Registered objects stay as they are.

It needs a role that may insert objects, as a rule the schema's owner, and an index that begins with object_key. The table is \
neither written to nor kept locked; daemons and applications may run. Ctrl-C ends it after a batch. The same command goes on from \
there, also after a crash, and imports new rows if it was complete.

Exit codes: 0 all of it is registered; 1 it failed or ended early, or it skipped some rows, which it prints.")]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub(super) struct Args {
    /// The other program's table, with its schema if that is not in the search path
    #[arg(long, value_name = "TABLE")]
    table: String,
    /// Which column stands for which replica [default: each is called like its replica]
    #[arg(long, value_name = "COLUMN=REPLICA,…", value_delimiter = ',', value_parser = pair)]
    map: Option<Vec<(String, String)>>,
    /// The primary has every object of the table, whatever the table says
    #[arg(long)]
    assume_primary: bool,
    /// What its whole numbers count since 1970
    #[arg(long, value_enum, default_value_t = Counts::Us)]
    unit: Counts,
    /// Rows of one statement, about
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    batch: u32,
    /// Begin with the first row, whatever an earlier run has done
    #[arg(long)]
    anew: bool,
    /// Count, and register nothing
    #[arg(long, conflicts_with = "anew")]
    dry_run: bool,
    /// Print one JSON document instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Counts {
    /// Seconds
    S,
    /// Milliseconds
    Ms,
    /// Microseconds
    Us,
}

impl From<Counts> for TimeUnit {
    fn from(counts: Counts) -> Self {
        match counts {
            Counts::S => Self::Seconds,
            Counts::Ms => Self::Millis,
            Counts::Us => Self::Micros,
        }
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.rsplit_once('=') {
        Some((column, replica)) if !column.is_empty() && !replica.is_empty() => Ok((column.into(), replica.into())),
        _ => Err("a column of the table, =, and the name of a replica".into()),
    }
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    let (database, pools) = database(config)?;
    let rows = database.replica_rows().await?;
    let Some(primary) = rows.iter().find(|row| row.primary).map(|row| row.name.clone()) else {
        bail!("the database knows no primary; run `copyhold migrate`");
    };
    let plan = plan(config, &database, &args, &rows, &primary).await?;
    let holder = format!("{}, process {}", rustix::system::uname().nodename().to_string_lossy(), std::process::id());
    let total = plan.table.rows;
    let import = Import::new(database.clone(), plan, args.batch, holder);
    // Listened to before anything is written.
    let mut signals = StopSignals::listen()?;
    let stop = CancellationToken::new();
    let bar = Bar::new(total, "rows");
    let begun = Instant::now();
    let ended = {
        let work = async { if args.dry_run { import.count(&stop).await } else { import.run(args.anew, &stop).await } };
        let mut running = std::pin::pin!(work);
        let mut reported = None;
        loop {
            tokio::select! {
                ended = &mut running => break ended,
                () = tokio::time::sleep(EVERY) => show_progress(&bar, &import, &mut reported),
                () = signals.next() => stop.cancel(),
            }
        }
    };
    bar.clear();
    let ended = ended.map_err(|error| while_importing(error, &import))?;
    let alive = database.daemon_is_alive().await?;
    pools.close().await;
    let took = begun.elapsed();
    let report = Report::new(import.plan(), &ended, config, &rows, &primary, alive).took(took).dry_run(args.dry_run);
    if args.json {
        output::json(&report)?;
    } else {
        output::line(&report.text())?;
    }
    Ok(if verdict(&ended) { Verdict::Good } else { Verdict::Bad })
}

fn verdict(ended: &ImportEnded) -> bool {
    ended.complete && ended.tally.left_out() == 0
}

/// Returns the plan of the import, or all obstacles.
async fn plan(
    config: &Config,
    database: &Database,
    args: &Args,
    rows: &[ReplicaRow],
    primary: &ReplicaName,
) -> anyhow::Result<ImportPlan> {
    let Some(table) = database.source_table(&args.table).await? else {
        bail!("{}", no_such_table(&args.table, &database.tables_with_keys().await?));
    };
    let may: Option<ImportRights> = if args.dry_run { None } else { Some(database.import_rights().await?) };
    let names: Vec<_> = config.replicas.iter().map(|r| r.name.clone()).collect();
    let schema = config.database.schema.as_str();
    let context = ImportContext { schema, replicas: &names, rows, primary, may: may.as_ref() };
    let asked = ImportOptions { map: args.map.clone(), unit: args.unit.into(), assume_primary: args.assume_primary };
    let plan = check(table, &asked, &context).map_err(|problems| cannot(&args.table, &problems))?;
    let sampled = database.import_sample(&plan).await.context("the first look at the table")?;
    let problems = check_times(&plan, &sampled, primary);
    if problems.is_empty() { Ok(plan) } else { Err(cannot(&args.table, &problems)) }
}

fn no_such_table(name: &str, others: &[String]) -> String {
    let bare = |full: &str| full.rsplit_once('.').map_or(full.to_owned(), |(_, bare)| bare.to_owned());
    let bares: Vec<_> = others.iter().map(|full| bare(full)).collect();
    let meant = did_you_mean(name, others.iter().map(String::as_str)).map(str::to_owned).or_else(|| {
        let found = did_you_mean(&bare(name), bares.iter().map(String::as_str))?;
        others.iter().find(|full| bare(full) == found).cloned()
    });
    let todo = match (meant, others) {
        (Some(found), _) => format!("did you mean {}?", output::Untrusted(&found)),
        (None, []) => "no table of this database has a column object_key, but Copyhold's own".to_owned(),
        (None, others) => {
            let some: Vec<_> = others.iter().take(5).map(|name| output::Untrusted(name).to_string()).collect();
            format!("those with a column object_key are {}", some.join(", "))
        }
    };
    format!("there is no table {}; {todo}", name.escape_default())
}

fn cannot(table: &str, problems: &[String]) -> anyhow::Error {
    let table = table.escape_default();
    match problems {
        [one] => anyhow::anyhow!("nothing of {table} was imported: {one}"),
        all => anyhow::anyhow!(
            "nothing of {table} was imported; {} are in the way:\n  - {}",
            output::count(all.len() as u64, "thing", "things"),
            all.join("\n  - ")
        ),
    }
}

/// An error of a table that was looked at before, and is not what it was.
fn while_importing(error: ImportError, import: &Import) -> anyhow::Error {
    let gone = |error: &DatabaseError| error.sqlstate().is_some_and(|code| ["42P01", "42703"].contains(&&*code));
    let altered = matches!(&error, ImportError::Database(error) if gone(error));
    let error = anyhow::Error::new(error);
    if altered {
        return error.context(format!(
            "{}, or a replica of the schema, was altered or dropped meanwhile",
            import.plan().table.name
        ));
    }
    error
}

fn show_progress(bar: &Bar, import: &Import, reported: &mut Option<String>) {
    let waits = import.waits();
    if bar.is_hidden() {
        // Once for each reason to wait.
        if waits.is_some() && waits != *reported {
            output::aside(waits.as_deref().unwrap_or_default());
        }
        *reported = waits;
    } else {
        bar.show(import.read(), waits.as_deref().unwrap_or_default());
    }
}
