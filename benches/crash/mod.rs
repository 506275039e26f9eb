//! Q5 and Q6: daemons that die all the time, unavailable stores, and PUTs without an answer.
//! `ARGS='q5 --seed 7 --seconds 90'` runs one of them.

mod lost_answers;
mod registration_load;
mod store_outage;

use std::{path::Path, time::Duration};

use copyhold_testkit::chaos::{self, Keys};

use crate::common::{machine, play, report::at_most};

const ACCIDENTS_FOR: Duration = Duration::from_mins(5);

pub async fn run(words: &[String]) -> anyhow::Result<()> {
    let number = |name: &str, default: u64| {
        words.iter().skip_while(|word| *word != name).nth(1).map_or(Ok(default), |n| n.parse())
    };
    let (seed, seconds) = (number("--seed", 1)?, number("--seconds", ACCIDENTS_FOR.as_secs())?);
    let bars = ["q5", "q6", "unanswered"].map(|bar| words.iter().any(|word| word.eq_ignore_ascii_case(bar)));
    let all = !bars.contains(&true);
    play(async || {
        if all || bars[0] {
            // Shows whether a finding depends on changed keys.
            let never = words.iter().any(|word| word == "--keys-never-change");
            let lasts = Duration::from_secs(seconds);
            crash_proof(seed, lasts, if never { Keys::NeverChange } else { Keys::MayChange }).await?;
        }
        if all || bars[1] {
            store_outage::play().await?;
        }
        if all || bars[2] {
            lost_answers::play(seed).await?;
        }
        Ok(())
    })
    .await
}

async fn crash_proof(seed: u64, lasts: Duration, keys: Keys) -> anyhow::Result<()> {
    println!("-- seed {seed}; {}", machine::in_short().await?);
    let program = Path::new(env!("CARGO_BIN_EXE_copyhold"));
    let played = chaos::play(program, keys, seed, lasts).await;
    match &played {
        Ok(told) => println!("{told}"),
        Err(error) => println!("{error:#}"),
    }
    at_most("Q5", "promises-broken", usize::from(played.is_err()), 0);
    println!("-- at the end: {}", machine::load());
    Ok(())
}
