//! `copyhold events new-epoch`: declares the log to be another one.

use super::super::{Verdict, database, output};
use crate::config::Config;

/// From now on readers of the earlier log get 409, and begin again.
pub(super) async fn run(config: &Config) -> anyhow::Result<Verdict> {
    let (database, pools) = database(config)?;
    let head = database.new_incarnation().await?;
    pools.close().await;
    output::line(&format!("the event log is {} from now on; readers of the earlier log get 409", head.epoch))?;
    Ok(Verdict::Good)
}
