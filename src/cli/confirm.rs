//! Asks before a command does something large that no other command undoes.
//!
//! Must not ask where there is no terminal: there, the command needs `--yes`.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use anyhow::bail;

use super::output;

/// Of an answer that may be a yes.
const ANSWER_BYTES: u64 = 100;

/// The flag of each command that asks.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Confirmation {
    /// Do not ask: for scripts, and wherever there is no terminal
    #[arg(short, long)]
    yes: bool,
}

impl Confirmation {
    /// Prints what it costs, and asks whether to do it. Without a terminal and without `--yes` it is an error.
    pub(super) fn ask(self, costs: &[String]) -> anyhow::Result<bool> {
        for line in costs {
            output::line(line)?;
        }
        if self.yes {
            return Ok(true);
        }
        if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
            bail!("nothing was changed: there is no terminal to ask on; add --yes to do it");
        }
        let mut stderr = io::stderr();
        write!(stderr, "Proceed? [y/N] ")?;
        stderr.flush()?;
        let mut answer = String::new();
        io::stdin().lock().take(ANSWER_BYTES).read_line(&mut answer)?;
        if agrees(&answer) {
            return Ok(true);
        }
        output::line("nothing was changed")?;
        Ok(false)
    }
}

fn agrees(answer: &str) -> bool {
    ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_is_one() {
        for yes in ["y", "Y\n", "yes\r\n", " YES "] {
            assert!(agrees(yes), "{yes:?}");
        }
        for no in ["", "\n", "n", "no", "yes please", "ja", "1"] {
            assert!(!agrees(no), "{no:?}");
        }
    }
}
