//! `copyhold check`: PostgreSQL, the schema and every bucket.

mod bucket;
mod clock;
mod finding;
mod secret_files;

use copyhold_db::{Database, DatabaseError, replica::ReplicaRow, schema::SchemaFit};
use secrecy::ExposeSecret as _;

use super::{Verdict, args, database, output, probe};
use crate::config::{Config, ReplicaSettings};
use bucket::{BucketFacts, HOLDS};
use finding::{Finding, finding};

const POSTGRESQL: &str = "postgresql";
const CONNECT: &str = "connect";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Also print the configuration in force, defaults and overrides included, secrets as ***
    #[arg(long)]
    show_config: bool,
    /// Print one JSON document instead of text
    #[arg(long, conflicts_with = "show_config")]
    json: bool,
    #[command(flatten)]
    probe: probe::Args,
}

pub(super) async fn run(config: Config, args: Args) -> anyhow::Result<Verdict> {
    let to_probe = args::replica_or_all(&config, args.probe.replica.as_deref())?;
    if args.show_config {
        output::line(&config.to_string())?;
    }
    let mut findings = vec![finding("configuration", "read", Ok(format!("{} replicas", config.replicas.len())))];
    findings.extend(secret_files::warnings(&config));
    let (database, pools) = database(&config)?;
    findings.extend(check_database(&config, &database).await);
    // A database that could not be reached is not waited for once more.
    let answers = findings.iter().all(|f| f.works || f.of != POSTGRESQL || f.what != CONNECT);
    let rows = if answers {
        findings.extend(clock::of_database(&database).await);
        rows(&database).await
    } else {
        None
    };
    let known = |replica: &ReplicaSettings, primary| BucketFacts {
        database: rows.is_some(),
        row: rows.iter().flatten().find(|row| row.name == replica.name),
        primary,
    };
    // The one in force, which the configuration only names while the database does not.
    let primary = rows.iter().flatten().find(|row| row.primary).map_or(&config.primary, |row| &row.name);
    let buckets = config.replicas.iter().map(|r| bucket::check(r, known(r, *primary == r.name)));
    findings.extend(futures::future::join_all(buckets).await.into_iter().flatten());
    pools.close().await;

    let all_work = findings.iter().all(|f| f.works);
    if !args.json {
        for f in &findings {
            output::line(&f.line())?;
        }
    }
    let mut verdict = if all_work { Verdict::Good } else { Verdict::Bad };
    if !args.probe.probe {
        if args.json {
            output::json(&findings)?;
        }
        return Ok(verdict);
    }
    let reachable = |replica: &&ReplicaSettings| {
        // Whether its data may be written over is another question: a probe writes below a folder of its own.
        let broken = |f: &Finding| f.of == replica.name.as_str() && !f.works && f.what != HOLDS;
        to_probe.contains(&replica.name) && !findings.iter().any(broken)
    };
    let replicas: Vec<_> = config.replicas.iter().filter(reachable).collect();
    let measured = probe::run(&replicas, &args.probe, args.json).await?;
    if measured.iter().any(|probed| probed.is_bad(primary)) {
        verdict = Verdict::Bad;
    }
    if args.json {
        output::json(&serde_json::json!({ "findings": findings, "probes": measured }))?;
    } else {
        for probed in &measured {
            output::line(&probed.text())?;
        }
    }
    Ok(verdict)
}

/// What the database has on record of the replicas; `None`: it does not answer. Before the first `migrate` that is
/// nothing, which is an answer.
async fn rows(database: &Database) -> Option<Vec<ReplicaRow>> {
    let is_absent = |error: &DatabaseError| error.sqlstate().is_some_and(|code| ["42P01", "3F000"].contains(&&*code));
    match database.replica_rows().await {
        Ok(rows) => Some(rows),
        Err(error) => is_absent(&error).then(Vec::new),
    }
}

async fn check_database(config: &Config, database: &Database) -> Vec<Finding> {
    let of = POSTGRESQL;
    let read_only = match database.probe().await {
        Ok(read_only) => read_only,
        Err(error) => return vec![finding(of, CONNECT, Err(error.to_string()))],
    };
    let at = crate::config::masked_url(config.database.url.expose_secret());
    let mut findings = vec![finding(of, CONNECT, Ok(at))];
    let writable = read_only.is_none();
    if let Some(server) = read_only {
        findings.push(finding(of, "write", Err(server.to_string())));
    }
    if config.database.listen_url.is_some() {
        findings.push(finding(of, "settings", settings(database).await));
    }
    findings.push(finding(of, "schema", schema(database).await));
    if writable {
        findings.extend(
            copyhold_db::schema::inspect(database).await.into_iter().map(|(what, found)| finding(of, what, found)),
        );
    }
    findings
}

/// Behind a pooler the role has to carry what statements rely on.
async fn settings(database: &Database) -> Result<String, String> {
    let flaws = database.session_deviations().await.map_err(|e| e.to_string())?;
    if flaws.is_empty() {
        return Ok("the role's sessions are as they should be".into());
    }
    Err(format!("{}; give the role other settings, as docs/postgresql.md says of poolers", flaws.join(", ")))
}

async fn schema(database: &Database) -> Result<String, String> {
    let fit = database.schema_fit().await.map_err(|e| e.to_string())?;
    if fit != SchemaFit::Fits {
        return Err(fit.to_string());
    }
    let rows = database.replica_rows().await.map_err(|e| e.to_string())?;
    let without: Vec<_> = database
        .replicas()
        .iter()
        .filter(|r| !rows.iter().any(|row| row.name == **r))
        .map(ToString::to_string)
        .collect();
    if without.is_empty() {
        Ok(format!("{} fits", database.schema()))
    } else {
        Err(format!("no columns for {}; run `copyhold migrate`", without.join(", ")))
    }
}
