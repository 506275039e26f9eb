//! `copyhold explain --plan`: prints the plans of the claims.

use copyhold_db::schema::PlanCheck;

use crate::{
    cli::{Verdict, database, output},
    config::Config,
};

/// How PostgreSQL would run the statements that find work, with a verdict per lane.
pub(super) async fn run(config: &Config, lane: Option<&str>, json: bool) -> anyhow::Result<Verdict> {
    let (database, pools) = database(config)?;
    if let Some(unknown) = lane.filter(|lane| !database.replicas().iter().any(|r| r.as_str() == *lane)) {
        let names: Vec<_> = database.replicas().iter().map(ToString::to_string).collect();
        anyhow::bail!("{unknown} is no replica of this configuration; it has {}", names.join(", "));
    }
    let mut all = database.plans().await?;
    pools.close().await;
    all.retain(|planned| lane.is_none() || planned.lane.as_deref() == lane);
    if json {
        output::json(&all)?;
    } else {
        let texts: Vec<_> = all.iter().map(text).collect();
        output::line(&texts.join("\n\n"))?;
    }
    let good = all.iter().all(|planned| planned.flaws.is_empty());
    Ok(if good { Verdict::Good } else { Verdict::Bad })
}

fn text(planned: &PlanCheck) -> String {
    let of = planned.lane.as_ref().map_or_else(|| "all lanes".to_owned(), |lane| format!("lane {lane}"));
    let mut lines = vec![format!("{of}: {}", if planned.flaws.is_empty() { "good" } else { "WRONG" })];
    lines.extend(planned.flaws.iter().map(|flaw| format!("  {flaw}: {}", flaw.remedy())));
    for (name, plan) in &planned.plans {
        lines.push(format!("  {name}"));
        lines.extend(plan.iter().map(|line| format!("    {line}")));
    }
    lines.join("\n")
}
