use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::{Verdict, given, probe, queue, show};
use crate::{
    config::{Config, Replica},
    queue::{Pin, Queue, ReplicaRow, SchemaFit},
    store::Store,
};

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

/// Whether what the bucket holds has a place in the configuration.
const HOLDS: &str = "holds";

/// One thing that was tried.
#[derive(Debug, Serialize)]
struct Finding {
    of: String,
    what: &'static str,
    works: bool,
    says: String,
}

pub(super) async fn run(config: Config, args: Args) -> anyhow::Result<Verdict> {
    let to_probe = given::replica_or_all(&config, args.probe.replica.as_deref())?;
    if args.show_config {
        show::line(&config.to_string())?;
    }
    let mut findings = vec![finding("configuration", "read", Ok(format!("{} replicas", config.replicas.len())))];
    let (queue, pools) = queue(&config)?;
    findings.extend(database(&config, &queue).await);
    // Without them, because the database does not answer, the buckets are still looked at.
    let known = queue.replica_rows().await.unwrap_or_default();
    let row = |replica: &Replica| known.iter().find(|row| row.name == replica.name);
    // The one in force, which the configuration only names while the database does not.
    let primary = known.iter().find(|row| row.primary).map_or(&config.primary, |row| &row.name);
    let buckets = config.replicas.iter().map(|replica| bucket(replica, *primary == replica.name, row(replica)));
    findings.extend(futures::future::join_all(buckets).await.into_iter().flatten());
    pools.close().await;

    let all_work = findings.iter().all(|f| f.works);
    if !args.json {
        for f in &findings {
            let mark = if f.works { "ok  " } else { "FAIL" };
            show::line(&format!("{mark}  {:<14} {:<9} {}", f.of, f.what, f.says))?;
        }
    }
    let mut verdict = if all_work { Verdict::Good } else { Verdict::Bad };
    if !args.probe.probe {
        if args.json {
            show::json(&findings)?;
        }
        return Ok(verdict);
    }
    let reachable = |replica: &&Replica| {
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
        show::json(&serde_json::json!({ "findings": findings, "probes": measured }))?;
    } else {
        for probed in &measured {
            show::line(&probed.text())?;
        }
    }
    Ok(verdict)
}

fn finding(of: &str, what: &'static str, result: Result<String, String>) -> Finding {
    let works = result.is_ok();
    Finding { of: of.into(), what, works, says: result.unwrap_or_else(|why| why) }
}

async fn database(config: &Config, queue: &Queue) -> Vec<Finding> {
    let of = "postgresql";
    let read_only = match crate::queue::probe(queue.pool()).await {
        Ok(read_only) => read_only,
        Err(error) => return vec![finding(of, "connect", Err(error.to_string()))],
    };
    let at = crate::config::masked_url(config.database.url.expose_secret());
    let mut findings = vec![finding(of, "connect", Ok(at))];
    if let Some(server) = read_only {
        findings.push(finding(of, "write", Err(server.to_string())));
    }
    if config.database.listen_url.is_some() {
        findings.push(finding(of, "settings", settings(queue).await));
    }
    findings.push(finding(of, "schema", schema(queue).await));
    findings
}

/// Behind a pooler the role has to carry what statements rely on.
async fn settings(queue: &Queue) -> Result<String, String> {
    let flaws = crate::queue::session_flaws(queue.pool()).await.map_err(|e| e.to_string())?;
    if flaws.is_empty() {
        return Ok("the role's sessions are as they should be".into());
    }
    Err(format!("{}; give the role other settings, as docs/postgresql.md says of poolers", flaws.join(", ")))
}

async fn schema(queue: &Queue) -> Result<String, String> {
    let fit = SchemaFit::of(queue.pool(), queue.schema()).await.map_err(|e| e.to_string())?;
    if fit != SchemaFit::Fits {
        return Err(fit.to_string());
    }
    let rows = queue.replica_rows().await.map_err(|e| e.to_string())?;
    let without: Vec<_> =
        queue.replicas().iter().filter(|r| !rows.iter().any(|row| row.name == **r)).map(ToString::to_string).collect();
    if without.is_empty() {
        Ok(format!("{} fits", queue.schema()))
    } else {
        Err(format!("no columns for {}; run `copyhold migrate`", without.join(", ")))
    }
}

/// Read access by a listing of one key, write access by a multipart upload that is begun and aborted.
async fn bucket(replica: &Replica, primary: bool, row: Option<&ReplicaRow>) -> Vec<Finding> {
    let of = replica.name.as_str();
    let pin = row.and_then(|row| row.pin.as_ref());
    if let Some(why) = pin.and_then(|pin| pin.forbids(&Pin::of(replica))) {
        return vec![finding(of, "bucket", Err(why))];
    }
    let store = match Store::connect(replica, 1).await {
        Ok(store) => store,
        Err(error) => return vec![finding(of, "connect", Err(error.to_string()))],
    };
    let first = match store.first_key().await {
        Ok(first) => first,
        Err(error) => return vec![finding(of, "list", Err(error.to_string()))],
    };
    let in_use = row.is_some_and(|row| row.admission.is_some());
    let holds = holds(replica, first.is_some(), in_use, primary);
    let written = store.check_write().await.map(|()| "a multipart upload was begun and aborted".to_owned());
    let written = written.or_else(|error| {
        // Nothing needs to be written to a primary that lacks nothing.
        let fine = || format!("not allowed, which a primary that lacks nothing does not need ({error})");
        if primary { Ok(fine()) } else { Err(error.to_string()) }
    });
    let mut findings = vec![finding(of, HOLDS, holds), finding(of, "write", written)];
    if let Err(error) = store.check_paths().await {
        // Nothing is wrong with other keys, and many applications have no such.
        findings.push(finding(of, "paths", Ok(format!("objects with odd keys will be parked: {error}"))));
    }
    findings.extend(hint(replica, &store).map(|hint| finding(of, "class", Ok(hint))));
    findings
}

/// Nothing is wrong with such a replica, but each attempt to read from it is in vain.
fn hint(replica: &Replica, store: &Store) -> Option<String> {
    let class = replica.storage_class.as_deref().filter(|class| replica.read && store.profile().is_cold(class))?;
    Some(format!("{class} must be restored before it can be read: say read = false in [replicas.{}]", replica.name))
}

fn holds(replica: &Replica, something: bool, in_use: bool, primary: bool) -> Result<String, String> {
    match (something, replica.existing) {
        (false, _) => Ok("the bucket is empty".into()),
        (true, _) if in_use => Ok("the bucket is in use by Copyhold".into()),
        (true, _) if primary => Ok("the bucket holds data".into()),
        (true, Some(existing)) => Ok(format!("the bucket holds data, existing = {existing:?} says what to do with it")),
        (true, None) => Err(format!(
            "the bucket already holds data: say existing = \"adopt\" or \"overwrite\" in [replicas.{}]",
            replica.name
        )),
    }
}
