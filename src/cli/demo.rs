//! `copyhold demo`: its arguments, its signals and its exit code.

use std::process;

use anyhow::Context as _;
use bytesize::ByteSize;
use copyhold_sandbox::demo;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Verdict;

mod screen;
mod text;

use screen::Screen;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
It starts a private PostgreSQL and three stores in memory, lets two daemons copy what an application uploads and \
registers, kills one of them with SIGKILL, has a store fail for some seconds, then compares every object on every \
replica byte by byte. That takes about half a minute. Without --once a few objects a second follow until Ctrl-C, to \
be looked at with status and psql. Nothing is left behind. Needs PostgreSQL's server programs.")]
pub(super) struct Args {
    /// How many objects are uploaded and registered
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    objects: u32,
    /// The largest object, 4GiB at most
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = size)]
    size: ByteSize,
    /// Makes the same objects and accidents as another run with this number [default: a random one]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// End after the comparison, with exit code 0 only if nothing is wrong or missing
    #[arg(long)]
    once: bool,
    /// Print the result as one JSON document
    #[arg(long)]
    json: bool,
}

fn size(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse().map_err(|_| "write it like 500KiB, 32MiB or 1GiB".to_owned())?;
    if size > ByteSize::gib(4) { Err("4GiB at most: everything is kept in memory".to_owned()) } else { Ok(size) }
}

pub(super) async fn run(args: Args) -> anyhow::Result<Verdict> {
    let request = demo::Request {
        program: std::env::current_exe().context("cannot find this program's own file")?,
        objects: args.objects as usize,
        largest_bytes: args.size.as_u64(),
        seed: args.seed.unwrap_or_else(|| u64::from(rand::random::<u16>())),
        once: args.once,
    };
    let screen = Screen::new(args.json);
    let stop = CancellationToken::new();
    let signals = tokio::spawn(stop_at_signal(stop.clone(), screen.clone())?);
    let played = demo::run(request, &screen, &stop).await;
    signals.abort();
    screen.clear();
    match played? {
        Some(summary) if summary.is_good() => Ok(Verdict::Good),
        Some(_) => Ok(Verdict::Bad),
        None => anyhow::bail!("stopped before the end"),
    }
}

/// The first signal ends the play in order, the second at once: the guardians of its processes see to the rest.
fn stop_at_signal(stop: CancellationToken, screen: Screen) -> std::io::Result<impl Future<Output = ()> + Send> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            if stop.is_cancelled() {
                screen.clear();
                process::exit(1);
            }
            demo::ProgressDisplay::say(&screen, "asked to end: the daemons, PostgreSQL and their files go");
            stop.cancel();
        }
    })
}
