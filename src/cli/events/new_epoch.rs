use super::super::{Verdict, output, queue};
use crate::config::Config;

/// Readers of the log that was before are told 409 from now on, and begin anew.
pub(super) async fn run(config: &Config) -> anyhow::Result<Verdict> {
    let (queue, pools) = queue(config)?;
    let head = queue.new_incarnation().await?;
    pools.close().await;
    output::line(&format!("the event log is {} from now on; readers of the one before are told so", head.epoch))?;
    Ok(Verdict::Good)
}
