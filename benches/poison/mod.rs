//! P1: one object never stops a replica, and a failing replica counts against no object.
//!
//! `ARGS='--objects 600'` runs with fewer objects; `ARGS='--kind 501 --kind quota'` runs some of the kinds.

mod fault_kinds;
mod faulty_objects;
mod store_outages;

use crate::common::play;
use anyhow::Context as _;

const OBJECTS: u32 = 12_000;
/// The baseline is measured again after this many kinds, because the load of the machine may have changed.
const BASELINE_EVERY: usize = 4;

pub async fn run(words: &[String]) -> anyhow::Result<()> {
    let values = |name: &str| {
        let name = name.to_owned();
        words.windows(2).filter(move |pair| pair[0] == name).map(|pair| pair[1].clone()).collect::<Vec<_>>()
    };
    let objects = match values("--objects").first() {
        Some(objects) => objects.parse().context("--objects is a number")?,
        None => OBJECTS,
    };
    let wanted = values("--kind");
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|kind| kind == name);
    let known =
        || fault_kinds::all().into_iter().map(|kind| kind.name).chain(store_outages::all().into_iter().map(|o| o.name));
    if let Some(unknown) = wanted.iter().find(|kind| !known().any(|name| name == **kind)) {
        anyhow::bail!("there is no kind {unknown}, but {}", known().collect::<Vec<_>>().join(", "));
    }
    play(async || {
        let mut baseline = 0.0;
        for (i, kind) in fault_kinds::all().into_iter().filter(|kind| is_wanted(kind.name)).enumerate() {
            if i % BASELINE_EVERY == 0 {
                baseline = faulty_objects::without(objects).await?;
            }
            faulty_objects::play(&kind, objects, baseline).await?;
        }
        for outage in store_outages::all().into_iter().filter(|outage| is_wanted(outage.name)) {
            store_outages::play(&outage, objects).await?;
        }
        Ok(())
    })
    .await
}
