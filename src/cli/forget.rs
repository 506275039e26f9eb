//! `copyhold forget`: removes the rows of objects; what the buckets hold stays.

use anyhow::Context as _;
use copyhold_db::{DatabaseError, object::ForgetResult};

use super::{Verdict, args, database, output, output::some_keys};
use crate::config::Config;

/// Keys of one statement.
const BATCH: usize = 1000;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Keys, byte for byte
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<String>,
    /// Also objects that a daemon is copying at this moment: it stops, and may leave a copy that is on no record
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    let keys = args::distinct_keys(args.keys, "nothing was forgotten")?;
    let (database, pools) = database(config)?;
    let mut result = ForgetResult::default();
    for some in keys.chunks(BATCH) {
        let one = database.forget(some, args.force).await;
        let one = match one {
            Err(error) if may_not(&error) => {
                return Err(error).context(
                    "this role may not delete objects, the daemon's by intent not: name the schema's owner in \
                 COPYHOLD_DATABASE__URL for this command",
                );
            }
            one => one?,
        };
        result.forgotten.extend(one.forgotten);
        result.busy.extend(one.busy);
        result.unknown.extend(one.unknown);
    }
    pools.close().await;
    let forgotten = output::count(result.forgotten.len() as u64, "object", "objects");
    let stay = if result.forgotten.is_empty() { "" } else { "; what is in the buckets stays there" };
    output::line(&format!("forgot {forgotten}{stay}"))?;
    if !result.busy.is_empty() {
        let advice = if args.force { "try again" } else { "try again, or --force" };
        output::line(&format!("in use at this moment, and left as it is: {} ({advice})", some_keys(&result.busy)))?;
    }
    if !result.unknown.is_empty() {
        output::line(&format!("not registered: {}", some_keys(&result.unknown)))?;
    }
    let all = result.busy.is_empty() && result.unknown.is_empty();
    Ok(if all { Verdict::Good } else { Verdict::Bad })
}

fn may_not(error: &DatabaseError) -> bool {
    error.sqlstate().as_deref() == Some("42501")
}
