//! Decides how many rows this daemon claims, from which lanes, and when; starts an attempt for each.
//!
//! Uses `attempt` and `replica`. Reads and writes no object.

mod claimer;
mod crash_suspects;
mod lane_scan;
mod lost_claims;
mod low_water_mark;
mod pass;

pub use claimer::{ClaimWakeups, Claimer};
pub use low_water_mark::{LaneQuery, LowWaterMark};
