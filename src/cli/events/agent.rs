//! One command for each event, in order: the next event is taken when the command has succeeded, and that is stored
//! on disk. A crash in between runs it once more for the same event.

use std::{os::unix::process::ExitStatusExt as _, pin::pin, process::Stdio};

use anyhow::Context as _;
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::{
    super::{
        Verdict,
        output::{self, Untrusted},
        stop::StopSignals,
    },
    cursor_file::CursorFile,
    feed::{Event, Feed, FeedItem},
};

pub(super) struct Agent {
    pub(super) feed: Feed,
    pub(super) command: String,
    pub(super) file: CursorFile,
}

/// How a command ended.
enum CommandEnd {
    Code(u8),
    /// The same, and meanwhile a signal asked us to end.
    CodeAndAsked(u8),
    /// A second signal came: it is killed.
    Killed,
}

impl Agent {
    /// Reports at which event it ends, and how to continue.
    fn tell(&self, event: &Event, how: &str) {
        let kind = Untrusted(event.kind().unwrap_or("no kind"));
        let about = event.data["object_key"].as_str();
        let about = about.map(|key| format!(", object \"{}\"", Untrusted(key))).unwrap_or_default();
        let cursor = self.file.path().display();
        output::aside(&format!(
            "error: the command {how} at event {} ({kind}{about}). {cursor} stays before it: once the command is \
             mended, the same again goes on with that event; to pass over it, first write {} into {cursor}",
            event.cursor, event.cursor
        ));
    }

    pub(super) async fn run(mut self) -> anyhow::Result<Verdict> {
        let mut asked = StopSignals::listen().context("cannot listen for signals")?;
        loop {
            let news = tokio::select! {
                news = self.feed.next() => news?,
                () = asked.next() => return Ok(Verdict::Good),
            };
            let event = match news {
                None => return Ok(Verdict::Good),
                Some(FeedItem::Nothing(cursor)) => {
                    self.file.store(cursor)?;
                    continue;
                }
                Some(FeedItem::Event(event)) => event,
            };
            match until_second_signal(execute(&self.command, &event), &mut asked).await? {
                CommandEnd::Code(0) => self.file.store(event.cursor)?,
                CommandEnd::CodeAndAsked(0) => {
                    self.file.store(event.cursor)?;
                    return Ok(Verdict::Good);
                }
                CommandEnd::Code(code) | CommandEnd::CodeAndAsked(code) => {
                    self.tell(&event, &how_it_failed(code));
                    return Ok(Verdict::Code(code));
                }
                CommandEnd::Killed => {
                    self.tell(&event, "was killed, because a second signal asked to end at once");
                    return Ok(Verdict::Bad);
                }
            }
        }
    }
}

/// As a shell reports it: a code above 128 stands for a signal, or is the command's own.
fn how_it_failed(code: u8) -> String {
    match code.checked_sub(128).filter(|signal| (1..=64).contains(signal)) {
        Some(signal) => format!("failed with exit code {code} (as for signal {signal})"),
        None if code == 127 => "failed with exit code 127 (there is no such command)".to_owned(),
        None if code == 126 => "failed with exit code 126 (it cannot be run)".to_owned(),
        None => format!("failed with exit code {code}"),
    }
}

/// Waits for a command to its end, unless a second signal comes.
async fn until_second_signal(
    command: impl Future<Output = anyhow::Result<u8>>,
    asked: &mut StopSignals,
) -> anyhow::Result<CommandEnd> {
    let mut command = pin!(command);
    tokio::select! {
        code = &mut command => return code.map(CommandEnd::Code),
        () = asked.next() => {}
    }
    tokio::select! {
        code = &mut command => code.map(CommandEnd::CodeAndAsked),
        () = asked.next() => Ok(CommandEnd::Killed),
    }
}

/// The command's exit code, as a shell would have it.
async fn execute(command: &str, event: &Event) -> anyhow::Result<u8> {
    let kind = event.kind().filter(|kind| !kind.contains('\0')).unwrap_or_default();
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(command)
        .env("COPYHOLD_EVENT_ID", event.cursor.id.to_string())
        .env("COPYHOLD_EVENT_KIND", kind)
        .stdin(Stdio::piped())
        // A terminal's Ctrl-C is for us: the command ends what it has begun.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("cannot run sh")?;
    let stdin = child.stdin.take();
    let tell = async {
        if let Some(mut stdin) = stdin {
            // A command that does not read its stdin does not need it.
            let _ = stdin.write_all(format!("{}\n", event.line).as_bytes()).await;
        }
    };
    let ((), ended) = tokio::join!(tell, child.wait());
    let ended = ended.context("cannot wait for the command")?;
    let code = ended.code().unwrap_or_else(|| 128 + ended.signal().unwrap_or_default());
    Ok(u8::try_from(code).unwrap_or(1))
}
