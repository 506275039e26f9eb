//! The signals that ask a command to end, and what SIGHUP does to it.
//!
//! Must not undo `nohup`: a SIGHUP that the command was started to ignore stays ignored.

use std::{
    fs::{self, File},
    io,
};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::output;
use crate::daemon::shutdown::Hangups;

/// What SIGHUP means to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HangupMeans {
    /// The terminal has gone: end as at SIGTERM.
    End,
    /// There is no terminal, so SIGHUP asks for a reload, which no command has: log that and go on.
    Nothing,
    /// What it meant when the command was started: nothing (`nohup`), or that is unknown.
    AsBefore,
}

/// SIGTERM, SIGINT, and SIGHUP where it means that the terminal has gone.
#[derive(Debug)]
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Hangups>,
}

impl StopSignals {
    /// From now on they do not end the process by themselves.
    pub(super) fn listen() -> io::Result<Self> {
        let hangup = (hangup_means() == HangupMeans::End).then(Hangups::listen).transpose()?;
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())?, hangup })
    }

    /// Waits for the next of them.
    pub(super) async fn next(&mut self) {
        let hung_up = async {
            match &mut self.hangup {
                Some(hangup) => hangup.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = hung_up => {}
        }
    }
}

/// From now on SIGHUP does not end a command that has no terminal to lose: it is reported on stderr, and nothing else
/// happens.
pub(super) fn outlive_hangups() -> io::Result<()> {
    if hangup_means() == HangupMeans::Nothing {
        let mut hangups = Hangups::listen()?;
        // Ends with the process, and holds nothing.
        tokio::spawn(async move {
            loop {
                hangups.next().await;
                output::aside("received SIGHUP and ignored it: this command has no terminal, and nothing to reload");
            }
        });
    }
    Ok(())
}

fn hangup_means() -> HangupMeans {
    let ignored = fs::read_to_string("/proc/self/status").ok().and_then(|status| ignores_hangup(&status));
    // Opened or not, it stays what it is.
    decide(ignored, File::open("/dev/tty").is_ok())
}

/// `ignored`: `None` where it cannot be seen, as on systems without /proc.
fn decide(ignored: Option<bool>, terminal: bool) -> HangupMeans {
    match (ignored, terminal) {
        (Some(true) | None, true) | (Some(true), false) => HangupMeans::AsBefore,
        (Some(false), true) => HangupMeans::End,
        (Some(false) | None, false) => HangupMeans::Nothing,
    }
}

/// As Linux reports it of a process: a mask whose lowest bit is the signal 1.
fn ignores_hangup(status: &str) -> Option<bool> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    Some(u64::from_str_radix(mask.trim(), 16).ok()? & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hangup_ends_what_has_a_terminal_and_nothing_that_was_started_with_nohup() {
        assert_eq!(decide(Some(false), true), HangupMeans::End);
        assert_eq!(decide(Some(false), false), HangupMeans::Nothing);
        for terminal in [true, false] {
            assert_eq!(decide(Some(true), terminal), HangupMeans::AsBefore);
        }
        // Where it is unknown whether nohup is in use, the system's way is kept, unless there is no terminal.
        assert_eq!(decide(None, true), HangupMeans::AsBefore);
        assert_eq!(decide(None, false), HangupMeans::Nothing);
    }

    #[test]
    fn what_is_ignored_is_read_from_the_lowest_bit_of_the_mask() {
        assert_eq!(ignores_hangup("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0\n"), Some(true));
        assert_eq!(ignores_hangup("SigIgn:\t0000000000001000\n"), Some(false));
        assert_eq!(ignores_hangup("SigBlk:\t0000000000000001\n"), None);
        assert_eq!(ignores_hangup("SigIgn:\tx\n"), None);
    }
}
