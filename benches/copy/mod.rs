//! C1 to C6: the cost of the copy engine relative to the minimum. `ARGS=c1` runs one of them.

mod baseline;
mod bucket_location;
mod copyhold_daemon;
mod garage;
mod memory_use;
mod presigned;
mod raw_http;
mod rclone;
mod rclone_comparison;
mod request_overhead;
mod requests;
mod resume_after_kill;
mod server;
mod slow_target;
mod source_traffic;

use crate::common::play;

pub async fn run(words: &[String]) -> anyhow::Result<()> {
    let seed = words.iter().skip_while(|word| *word != "--seed").nth(1).map_or(Ok(1), |seed| seed.parse())?;
    // `c2` runs both of its parts.
    let is = |word: &str, bar: &str| word.eq_ignore_ascii_case(bar) || bar.split('-').next() == Some(word);
    let named = |bar: &str| words.iter().any(|word| is(word, bar));
    let bars = ["server", "requests", "c1", "c2-memory", "c2-garage", "c3", "c4", "c5", "c6"];
    let all = !bars.iter().any(|bar| named(bar));
    play(async || {
        for bar in bars.into_iter().filter(|bar| all || named(bar)) {
            match bar {
                "server" => server::play().await?,
                "requests" => requests::play().await?,
                "c1" => request_overhead::play().await?,
                "c2-memory" => rclone_comparison::in_memory().await?,
                "c2-garage" => rclone_comparison::on_garage().await?,
                "c3" => source_traffic::play().await?,
                "c4" => memory_use::play().await?,
                "c5" => resume_after_kill::play(seed).await?,
                "c6" => slow_target::play().await?,
                other => unreachable!("{other} is no bar"),
            }
        }
        Ok(())
    })
    .await
}
