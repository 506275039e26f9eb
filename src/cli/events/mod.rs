//! `copyhold events`: prints the event log, or runs a command for each event.

mod agent;
mod append;
mod client;
mod cursor_file;
mod feed;
mod lines;
mod new_epoch;
mod text;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use copyhold_core::domain::Cursor;
use url::{Url, form_urlencoded};

use super::{Verdict, output};
use crate::config::{Config, ConfigErrors};
use agent::Agent;
use client::Client;
use cursor_file::CursorFile;
use feed::{Feed, FeedItem};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, after_help = AFTER_HELP)]
pub(super) struct Args {
    /// Begin behind this event: an id as it came with one, 0 for all there are [default: 0; with --follow: what comes
    /// from now on]
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    after: Option<Cursor>,
    /// Do not end: go on with what is appended, also when the daemon is unavailable for a while
    #[arg(long, short)]
    follow: bool,
    /// Print each event as a line of JSON
    #[arg(long, conflicts_with = "exec")]
    json: bool,
    #[command(flatten)]
    wanted: FeedQuery,
    /// Run this with `sh -c` for each event, the event's JSON on its standard input; stop with its exit code when it
    /// fails
    #[arg(long, value_name = "COMMAND", requires = "cursor")]
    exec: Option<String>,
    /// With --exec: keep in this file how far it has come, and go on from there
    #[arg(long, value_name = "FILE", requires = "exec")]
    cursor: Option<PathBuf>,
    #[command(flatten)]
    daemon: Daemon,
    #[command(subcommand)]
    verb: Option<Action>,
}

const AFTER_HELP: &str = "\
--exec sets COPYHOLD_EVENT_ID and COPYHOLD_EVENT_KIND for the command. SIGTERM and SIGINT end it when the command that runs \
has ended; without a cursor in the file it begins at --after, or with the first event that there is.
A daemon that has http.token in its configuration wants it: --url sends what COPYHOLD_HTTP__TOKEN says, else the configuration \
here counts.";

/// Which events.
#[derive(Debug, clap::Args)]
struct FeedQuery {
    /// Of these kinds only
    #[arg(long, value_name = "KIND,…")]
    kinds: Option<String>,
    /// About objects whose keys begin with this only
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// About this replica only
    #[arg(long, value_name = "NAME")]
    replica: Option<String>,
}

impl FeedQuery {
    /// As a part of a URL; the daemon reports what is wrong with it.
    fn query(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in [("kinds", &self.kinds), ("prefix", &self.prefix), ("replica", &self.replica)] {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        query.finish()
    }
}

/// Where it is asked.
#[derive(Debug, clap::Args)]
struct Daemon {
    /// The daemon's address, as in http://10.0.0.7:9180; needs no configuration [default: http.listen of the
    /// configuration]
    #[arg(long, value_name = "URL")]
    url: Option<Url>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Append an event of another program, or several: a JSON object, an array of them, or one a line
    Append(append::Args),
    /// After the database was restored from a backup, or lost commits: tell all readers that ids mean something else
    /// now
    NewEpoch,
}

pub(super) async fn run(config: impl Fn() -> Result<Config, ConfigErrors>, args: Args) -> anyhow::Result<Verdict> {
    match args.verb {
        Some(Action::Append(append)) => append::run(config, append).await,
        Some(Action::NewEpoch) => new_epoch::run(&config()?).await,
        None => read(config, args).await,
    }
}

async fn read(config: impl Fn() -> Result<Config, ConfigErrors>, args: Args) -> anyhow::Result<Verdict> {
    let client = Client::of(config, args.daemon.url.as_ref())?;
    let query = args.wanted.query();
    let Some((command, path)) = args.exec.zip(args.cursor) else {
        // A follower does not want to see a week first.
        let after = args.after.or((!args.follow).then_some(Cursor::BEGINNING));
        return print(Feed::new(client, query, after, args.follow), args.json).await;
    };
    let file = CursorFile::open(&path).with_context(|| format!("--cursor {}", path.display()))?;
    let after = file.cursor().or(args.after).unwrap_or(Cursor::BEGINNING);
    Agent { feed: Feed::new(client, query, Some(after), args.follow), command, file }.run().await
}

async fn print(mut feed: Feed, json: bool) -> anyhow::Result<Verdict> {
    while let Some(item) = feed.next().await? {
        let FeedItem::Event(event) = item else { continue };
        let printed = if json { output::json_goes_on(&event.line)? } else { output::goes_on(&text::of(&event))? };
        if !printed {
            break;
        }
    }
    Ok(Verdict::Good)
}
