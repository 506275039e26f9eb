//! Replicas come and go.

mod cost;
mod drain;
mod moved;
mod remove;
mod reset;
mod undrain;
pub(super) mod walk;

use copyhold_core::domain::ReplicaName;
use copyhold_db::replica::ReplicaRow;

use super::{Verdict, args, confirm::Confirmation, database, output};
use crate::config::Config;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Let all daemons copy nothing to a replica that is to leave, and count nothing as missing there; it is still read
    Drain(drain::Args),
    /// Copy to it again: all that was registered meanwhile is due
    Undrain(undrain::Args),
    /// Forget it: its columns and all that is on record of it, once it is drained and no daemon names it
    Remove(remove::Args),
    /// Its bucket was lost: have all copies made again that were recorded there before this moment
    Reset(reset::Args),
    /// It is another bucket, or behind another endpoint, as the configuration says by now
    Move(moved::Args),
}

pub(super) async fn run(config: &Config, command: Command) -> anyhow::Result<Verdict> {
    match command {
        Command::Drain(args) => drain::run(config, args).await,
        Command::Undrain(args) => undrain::run(config, args).await,
        Command::Remove(args) => remove::run(config, args).await,
        Command::Reset(args) => reset::run(config, args).await,
        Command::Move(args) => moved::run(config, args).await,
    }
}

/// All replicas of the database, in this configuration or not; in the order in which daemons would read from them.
fn names(config: &Config, rows: &[ReplicaRow]) -> Vec<ReplicaName> {
    let mut rows: Vec<_> = rows.iter().collect();
    rows.sort_by_key(|row| (config.replica(&row.name).is_none_or(|replica| !replica.read), !row.primary));
    rows.into_iter().map(|row| row.name.clone()).collect()
}
