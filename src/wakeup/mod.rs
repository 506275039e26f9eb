//! When a daemon that has nothing to do looks for work again: at a notification, or after a time.
//!
//! Knows neither workers nor stores. `idle` uses `listen_status` and `stagger`, `listener` uses `listen_status` and
//! `wake_channel`, which uses `jitter`; `jitter`, `listen_status` and `stagger` use nothing.

pub mod idle;
pub mod jitter;
pub mod listen_status;
pub mod listener;
pub mod stagger;
pub mod wake_channel;
