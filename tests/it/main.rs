//! What Copyhold promises, on real parts: a private PostgreSQL cluster per run with a database per test, S3 over HTTP,
//! and the real binary where a process is to die. One module a promise.

mod abandoned;
mod backlog;
mod bad_input;
mod changed;
mod claims;
mod commands;
mod completion;
mod conformance;
mod crash;
mod crash_points;
mod daemon;
mod damage;
mod demo;
mod differences;
mod durability;
mod event_kinds;
mod health;
mod journal;
mod leases;
mod lost_replies;
mod migrations;
mod operator;
mod outages;
mod overdue;
mod plan_gate;
mod plans;
mod probe;
mod recheck;
mod rights;
mod shutdown;
mod sources;
mod surface;
mod uploads;
mod verify;
mod world;
