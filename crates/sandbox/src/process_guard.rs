//! A temporary folder and the processes that work in it. None of them outlives this process.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdin, Command},
};

use super::{
    error::NoFolder,
    system_user::{SystemUser, command},
};

/// A shell that outlives this process by the moment it takes to end those processes and remove the folder.
/// It runs as the user of those processes, and made the folder as that user: so it can do both.
#[derive(Debug)]
pub(super) struct ProcessGuard {
    process: Child,
    /// Held open as long as the folder is wanted. No child inherits it: Rust's pipes close on exec.
    pipe: ChildStdin,
    folder: PathBuf,
}

/// How the guard ends a process when this process is gone.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// SIGQUIT: PostgreSQL's immediate shutdown.
    Quit,
    Kill,
}

impl ProcessGuard {
    /// Makes a folder `NAME-…` in the given one, or else in the first suitable one.
    pub(super) async fn start(
        parent: Option<&Path>,
        name: &str,
        account: Option<&SystemUser>,
    ) -> Result<Self, NoFolder> {
        let candidates = match parent {
            Some(parent) => vec![parent.to_path_buf()],
            None => vec![env::temp_dir(), "/tmp".into(), "/var/tmp".into()],
        };
        let mut tried = Vec::new();
        for candidate in candidates {
            match Self::start_in(&candidate, name, account).await {
                Ok(guard) => return Ok(guard),
                Err(why) => tried.push((candidate, why)),
            }
        }
        tried.dedup();
        Err(NoFolder(tried))
    }

    async fn start_in(parent: &Path, name: &str, account: Option<&SystemUser>) -> Result<Self, String> {
        // The path of a socket has at most 103 bytes on some systems; ours adds up to 34.
        const LONGEST_PARENT: usize = 69;
        if parent.as_os_str().len() > LONGEST_PARENT {
            return Err(format!("its path is longer than {LONGEST_PARENT} bytes, too long for a socket in it"));
        }
        let parent = fs::canonicalize(parent).map_err(|error| error.to_string())?;
        let mut sh = command("/bin/sh", account);
        sh.args(["-c", include_str!("process_guard.sh"), "copyhold-sandbox"]).arg(&parent).arg(name);
        sh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let run_as = |error: io::Error| match account {
            Some(account) => format!("cannot run /bin/sh as {}: {error}", account.name),
            None => format!("cannot run /bin/sh: {error}"),
        };
        let mut process = sh.spawn().map_err(run_as)?;
        let (Some(pipe), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("its pipes are missing".to_owned());
        };
        let mut answer = String::new();
        BufReader::new(output).read_line(&mut answer).await.map_err(|error| error.to_string())?;
        match answer.trim_end() {
            folder if folder.starts_with('/') => Ok(Self { process, pipe, folder: folder.into() }),
            refusal => Err(refusal.trim_start_matches("error: ").to_owned()),
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs a program whose process the guard will end. `name` is unique among the running ones;
    /// its output is appended to the log of that name.
    pub(super) fn launch(
        &self,
        name: &str,
        end: End,
        program: &Path,
        account: Option<&SystemUser>,
        dress: impl FnOnce(&mut Command),
    ) -> io::Result<Child> {
        // The guard knows the process before it is more than a shell.
        let script = r#"umask 077; echo "$2 $$" >"$0/$1.pid" && exec >>"$0/$1.log" 2>&1 && shift 2 && exec "$@""#;
        let end = match end {
            End::Quit => "QUIT",
            End::Kill => "KILL",
        };
        let mut sh = command("/bin/sh", account);
        sh.args(["-c", script]).arg(&self.folder).args([name, end]).arg(program);
        sh.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        dress(&mut sh);
        sh.spawn()
    }

    /// Forgets the process of that name, which was waited for: its number may soon be another's.
    pub(super) fn forget(&self, name: &str) {
        // Without the folder there is no entry to remove.
        let _ = fs::remove_file(self.folder.join(name).with_extension("pid"));
    }

    /// Returns the last output lines of the processes of that name, for error messages.
    pub(super) fn log_tail(&self, name: &str) -> String {
        const LINES: usize = 20;
        let log = fs::read(self.folder.join(name).with_extension("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    #[cfg(test)]
    pub(super) async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    /// Has the guard end the running processes and remove the folder, and waits for that.
    pub(super) async fn dismiss(mut self) -> io::Result<()> {
        drop(self.pipe);
        let status = self.process.wait().await?;
        if status.success() {
            return Ok(());
        }
        // The guard was killed: this process removes what it leaves.
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
