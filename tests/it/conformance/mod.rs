//! One suite for every store: copies through the engine, from one bucket of a store to another, looked at with a client
//! that is not ours.
//!
//! What a store cannot do is written down in `cannot.rs`, and is expected: a store that has learned something falls
//! short as much as one that has forgotten it.

mod cannot;
mod cases;
mod faults;
mod moto;
mod object;
mod place;
mod report;
mod stage;
mod watched;

use copyhold_sandbox::s3::S3Server;

use moto::Moto;
use place::Place;

/// The smallest part that a store must take where another follows it.
const PART_BYTES: u64 = 5 << 20;
/// Parts of an object of many.
const MANY: u32 = 6;

#[tokio::test]
async fn the_suite_passes_on_the_server_in_memory() {
    let server = S3Server::start().await.unwrap();
    report::of(&Place::in_memory(&server)).await.expect_known();
}

#[tokio::test]
async fn the_suite_passes_on_moto() {
    let moto = match Moto::start().await {
        Ok(moto) => moto,
        Err(why) => return moto::skipped(&why),
    };
    report::of(&moto.place()).await.expect_known();
}

#[tokio::test]
#[ignore = "plays on a store of yours: make conformance ENDPOINT=http://…"]
async fn the_suite_passes_on_an_endpoint() {
    let report = report::of(&Place::from_env()).await;
    println!("{report}");
    report.expect_known();
}
