//! The commands, one a file. Only here do errors become text for people and results become exit codes.

mod args;
mod check;
mod confirm;
#[cfg(feature = "sandbox")]
mod demo;
mod enqueue;
mod events;
mod explain;
mod forget;
mod import;
mod logging;
mod migrate;
mod output;
mod park;
mod pause;
mod probe;
mod progress;
mod promote;
mod replica;
mod reschedule_report;
mod resume;
mod retry;
mod rules;
mod run;
#[cfg(feature = "sandbox")]
mod sandbox;
mod scan;
mod status;
mod stdin;
mod stop;
mod verify;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use copyhold_core::domain::visible;
use copyhold_db::{
    Database,
    connections::{Access, Pools},
    retry_while_down::GIVE_UP_AFTER,
};

use crate::{
    config::{Config, ConfigErrors, load},
    daemon::shutdown::Hangups,
};

/// Keeps a verified copy of every object of a primary S3-compatible bucket in every other bucket, on any cloud.
/// PostgreSQL is its only coordinator.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    /// The configuration file
    #[arg(short, long, global = true, value_name = "PATH", env = "COPYHOLD_CONFIG", default_value = "copyhold.toml")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 it failed, or (check, explain --plan) something does not work, or (explain, retry, park, forget, import) a \
key is not registered or is left out; 2 the command line or the configuration is wrong. `verify` has its own, and `events --exec` that of its command.
Settings can be overridden by environment variables: COPYHOLD_WORKERS__COUNT=16 sets count in [workers].";

#[derive(Debug, Subcommand)]
enum Command {
    /// Copy objects until SIGTERM or SIGINT; a second signal ends it at once
    Run(run::Args),
    /// Create or update the tables in PostgreSQL for the configured replicas; safe at any time
    Migrate(migrate::Args),
    /// Show the placement rules, or apply them to existing objects
    Rules(rules::Args),
    /// Check the configuration, PostgreSQL and every bucket, leaving no object behind; --probe measures the stores
    Check(check::Args),
    /// Register objects that are at the primary, or register them again
    Enqueue(enqueue::Args),
    /// List a bucket and register its objects; an interrupted scan resumes
    Scan(scan::Args),
    /// Import the objects of another program's table in the same database
    Import(import::Args),
    /// Show copies, backlog, failures and daemons
    Status(status::Args),
    /// Explain one object: where its copies are, and why the others are missing
    Explain(explain::Args),
    /// Read recorded copies again; requeue those that are missing or damaged
    Verify(verify::Args),
    /// Make parked and waiting copies due now
    Retry(retry::Args),
    /// Stop trying the missing copies of objects until `retry`
    Park(park::Args),
    /// Delete objects from the tables; their copies in the buckets stay
    Forget(forget::Args),
    /// Read or follow the event log, run a command for each event, or append events
    Events(Box<events::Args>),
    /// Stop copying to a replica, in all daemons; it is still read
    Pause(pause::Args),
    /// End a pause; the replica catches up
    Resume(resume::Args),
    /// Make a replica the primary, for all daemons, without a restart
    Promote(promote::Args),
    /// Decommission, refill or move a replica
    #[command(subcommand)]
    Replica(replica::Command),
    /// Run a demonstration: a private PostgreSQL, three stores and two daemons, one killed half-way
    #[cfg(feature = "sandbox")]
    Demo(demo::Args),
    /// Serve S3 from memory on this machine, for trials; nothing outlives the process
    #[cfg(feature = "sandbox")]
    SandboxS3(sandbox::Args),
}

impl Command {
    /// Whether it handles SIGHUP as commands do. A daemon has its own way, and the demo and the sandbox end with their
    /// owner.
    fn outlives_hangups(&self) -> bool {
        match self {
            Self::Run(_) => false,
            #[cfg(feature = "sandbox")]
            Self::Demo(_) | Self::SandboxS3(_) => false,
            _ => true,
        }
    }
}

/// The exit code of a command that ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    /// It did its work and found a problem.
    Bad,
    /// It could do only a part of its work, or nothing.
    Incomplete,
    /// The program that the command ran exited with this code.
    Code(u8),
}

/// Runs the program's command line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    // Cannot fail: nothing else has installed one. Done here so that a second provider in the tree cannot panic later.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("cannot start threads")),
    };
    let verdict = runtime.block_on(cli.dispatch());
    // Whatever still runs has had its time.
    runtime.shutdown_background();
    match verdict {
        Ok(Verdict::Good) => ExitCode::SUCCESS,
        Ok(Verdict::Bad) => ExitCode::FAILURE,
        Ok(Verdict::Incomplete) => ExitCode::from(2),
        Ok(Verdict::Code(code)) => ExitCode::from(code),
        Err(error) => fail(&error),
    }
}

impl Cli {
    async fn dispatch(self) -> anyhow::Result<Verdict> {
        let config = || -> Result<Config, ConfigErrors> { load(&self.config, std::env::vars_os()) };
        if self.command.outlives_hangups() {
            stop::outlive_hangups().context("cannot listen for signals")?;
        }
        match self.command {
            Command::Run(args) => {
                let hangups = Hangups::listen().context("cannot listen for signals")?;
                run::run(config()?, args, hangups).await
            }
            Command::Migrate(args) => migrate::run(&config()?, args).await,
            Command::Rules(args) => rules::run(&config()?, args).await,
            Command::Check(args) => check::run(config()?, args).await,
            Command::Enqueue(args) => enqueue::run(&config()?, args).await,
            Command::Scan(args) => scan::run(&config()?, args).await,
            Command::Import(args) => import::run(&config()?, args).await,
            Command::Status(args) => status::run(&config()?, args).await,
            Command::Explain(args) => explain::run(&config()?, args).await,
            Command::Verify(args) => Ok(verify::run(&config()?, args).await.unwrap_or_else(|error| {
                // Its 1 is kept for what is wrong with copies.
                fail(&error);
                Verdict::Incomplete
            })),
            Command::Retry(args) => retry::run(&config()?, args).await,
            Command::Park(args) => park::run(&config()?, args).await,
            Command::Forget(args) => forget::run(&config()?, args).await,
            Command::Events(args) => events::run(config, *args).await,
            Command::Pause(args) => pause::run(&config()?, args).await,
            Command::Resume(args) => resume::run(&config()?, args).await,
            Command::Promote(args) => promote::run(&config()?, args).await,
            Command::Replica(command) => replica::run(&config()?, command).await,
            #[cfg(feature = "sandbox")]
            Command::Demo(args) => demo::run(args).await,
            #[cfg(feature = "sandbox")]
            Command::SandboxS3(args) => sandbox::run(args).await,
        }
    }
}

/// Prints help, the version, or the error in the command line. Escaped: scripts pass untrusted text.
fn misused(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    let visible = visible(&text);
    if visible == text {
        error.exit();
    }
    output::aside(visible.trim_end());
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// One sentence, then its causes without repetition.
fn fail(error: &anyhow::Error) -> ExitCode {
    let (text, code) = match error.downcast_ref::<ConfigErrors>() {
        Some(problems) => {
            let count = problems.problems().len();
            (
                format!(
                    "{problems}\nerror: the configuration has {count} problem{}",
                    if count == 1 { "" } else { "s" }
                ),
                2,
            )
        }
        None => (format!("error: {}", chain(error)), 1),
    };
    output::aside(&text);
    ExitCode::from(code)
}

fn chain(error: &anyhow::Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if !causes.last().is_some_and(|last| last.contains(&cause)) {
            causes.push(cause);
        }
    }
    causes.join(": ")
}

/// Returns the database for a command, and its connections.
fn database(config: &Config) -> anyhow::Result<(Database, Pools)> {
    copyhold_db::retry_while_down::report_with(|error| {
        output::aside(&format!("copyhold: {error}; trying again for up to {} s", GIVE_UP_AFTER.as_secs()));
    });
    let pools = Pools::with(&config.database, Access::Any);
    pools.check().context("database.url")?;
    let names = config.replicas.iter().map(|r| r.name.clone()).collect();
    let kinds = config.events.kinds.clone();
    Ok((Database::with_events(pools.work.clone(), config.database.schema.clone(), names, kinds), pools))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    /// Text that is printed in another way would reach terminals unescaped.
    #[test]
    fn commands_print_through_output_alone() {
        let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() {
                    folders.push(entry);
                    continue;
                }
                let text = std::fs::read_to_string(&entry).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap();
                let own = entry.file_name().unwrap() == "output.rs";
                for way in ["println!(", "print!(", "writeln!(io::", "writeln!(std::io::", "to_string_pretty"] {
                    assert!(own || !code.contains(way), "{} prints with {way}: use cli::output", entry.display());
                }
            }
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
