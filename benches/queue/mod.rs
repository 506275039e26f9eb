//! Q1 to Q4: the queue at large sizes; and the cost of a claim and of a completion.
//! `ARGS='q1 q3'` runs some of them.
//!
//! The bars are ratios within one run, to named baselines: the table, the indexes and the statement of the essay that
//! the queue comes from, and Copyhold with a small backlog.

mod baseline_essay;
mod by_backlog;
pub mod copyhold_queue;
mod cost;
mod long_transaction;
mod new_object;
mod ten_million;

use std::time::Instant;

use crate::common::{database::DatabaseServer, play, stores::Stores};

pub async fn run(words: &[String]) -> anyhow::Result<()> {
    let wanted = |bar: &str| words.is_empty() || words.iter().any(|word| word.eq_ignore_ascii_case(bar));
    play(async || {
        let begun = Instant::now();
        let grounds = DatabaseServer::begin().await?;
        if wanted("q1") {
            let stores = Stores::here().await?;
            by_backlog::play(&grounds, &stores).await?;
            stores.end().await?;
        }
        if wanted("q2") {
            long_transaction::play(&grounds).await?;
        }
        if wanted("q3") {
            ten_million::play(&grounds).await?;
        }
        if wanted("q4") {
            new_object::play(&grounds).await?;
        }
        grounds.end().await?;
        if wanted("cost") {
            cost::play().await?;
        }
        println!("-- it took {:.0} s", begun.elapsed().as_secs_f64());
        Ok(())
    })
    .await
}
