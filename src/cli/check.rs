use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::{Verdict, queue, show};
use crate::{
    config::{Config, Replica},
    queue::{Queue, SchemaFit},
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
}

/// One thing that was tried.
#[derive(Debug, Serialize)]
struct Finding {
    of: String,
    what: &'static str,
    works: bool,
    says: String,
}

pub(super) async fn run(config: Config, args: Args) -> anyhow::Result<Verdict> {
    if args.show_config {
        show::line(&config.to_string())?;
    }
    let mut findings = vec![finding("configuration", "read", Ok(format!("{} replicas", config.replicas.len())))];
    let (queue, pools) = queue(&config)?;
    findings.extend(database(&config, &queue).await);
    let buckets = config.replicas.iter().map(|replica| bucket(replica, config.primary == replica.name));
    findings.extend(futures::future::join_all(buckets).await.into_iter().flatten());
    pools.close().await;

    let all_work = findings.iter().all(|f| f.works);
    if args.json {
        show::line(&serde_json::to_string_pretty(&findings)?)?;
    } else {
        for f in &findings {
            let mark = if f.works { "ok  " } else { "FAIL" };
            show::line(&format!("{mark}  {:<14} {:<9} {}", f.of, f.what, f.says))?;
        }
    }
    Ok(if all_work { Verdict::Good } else { Verdict::Bad })
}

fn finding(of: &str, what: &'static str, result: Result<String, String>) -> Finding {
    let works = result.is_ok();
    Finding { of: of.into(), what, works, says: result.unwrap_or_else(|why| why) }
}

async fn database(config: &Config, queue: &Queue) -> Vec<Finding> {
    let of = "postgresql";
    if let Err(error) = crate::queue::probe(queue.pool()).await {
        return vec![finding(of, "connect", Err(error.to_string()))];
    }
    let at = crate::config::masked_url(config.database.url.expose_secret());
    let mut findings = vec![finding(of, "connect", Ok(at))];
    findings.push(finding(of, "schema", schema(queue).await));
    findings
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
async fn bucket(replica: &Replica, primary: bool) -> Vec<Finding> {
    let of = replica.name.as_str();
    let store = match Store::connect(replica, 1).await {
        Ok(store) => store,
        Err(error) => return vec![finding(of, "connect", Err(error.to_string()))],
    };
    let listed = store.first_key().await.map_err(|e| e.to_string());
    let readable = listed.is_ok();
    let held = listed.map(|first| match (first, replica.existing) {
        (None, _) => "bucket is empty".to_owned(),
        (Some(_), Some(_)) => "bucket holds data, existing says what to do with it".into(),
        (Some(_), None) if primary => "bucket holds data".into(),
        (Some(_), None) => "bucket holds data; if Copyhold has not filled it, its section must say existing = \"adopt\" or \"overwrite\"".into(),
    });
    let mut findings = vec![finding(of, "list", held)];
    if readable {
        let written = store.check_write().await.map(|()| "a multipart upload was begun and aborted".to_owned());
        // Nothing needs to be written to a primary while it lacks nothing.
        let written = written.or_else(|error| {
            if primary {
                Ok(format!("not allowed, which a primary that lacks nothing does not need ({error})"))
            } else {
                Err(error.to_string())
            }
        });
        findings.push(finding(of, "write", written));
    }
    findings
}
