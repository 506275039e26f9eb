//! C1 to C6: what the copy engine costs beside the least that it could. `ARGS=c1` plays one of them.

mod c1;
mod c2;
mod c3;
mod c4;
mod c5;
mod c6;
mod floor;
mod garage;
mod ours;
mod place;
mod rclone;
mod requests;
mod server;
mod signed;
mod wire;

use crate::common::play;

pub async fn run(words: &[String]) -> anyhow::Result<()> {
    let seed = words.iter().skip_while(|word| *word != "--seed").nth(1).map_or(Ok(1), |seed| seed.parse())?;
    // `c2` is both of its parts.
    let is = |word: &str, bar: &str| word.eq_ignore_ascii_case(bar) || bar.split('-').next() == Some(word);
    let named = |bar: &str| words.iter().any(|word| is(word, bar));
    let bars = ["server", "requests", "c1", "c2-memory", "c2-garage", "c3", "c4", "c5", "c6"];
    let all = !bars.iter().any(|bar| named(bar));
    play(async || {
        for bar in bars.into_iter().filter(|bar| all || named(bar)) {
            match bar {
                "server" => server::play().await?,
                "requests" => requests::play().await?,
                "c1" => c1::play().await?,
                "c2-memory" => c2::in_memory().await?,
                "c2-garage" => c2::on_garage().await?,
                "c3" => c3::play().await?,
                "c4" => c4::play().await?,
                "c5" => c5::play(seed).await?,
                "c6" => c6::play().await?,
                other => unreachable!("{other} is no bar"),
            }
        }
        Ok(())
    })
    .await
}
