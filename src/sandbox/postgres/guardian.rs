use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdin},
};

use super::{
    SandboxError,
    account::{Account, command},
};

/// A shell that outlives us by the moment it takes to end the server and remove the folder.
/// It runs as the server's user, and made the folder as that user: so it can do both.
#[derive(Debug)]
pub(super) struct Guardian {
    process: Child,
    /// Held open as long as the cluster is wanted. Nobody inherits it: Rust's pipes close on exec.
    pipe: ChildStdin,
    folder: PathBuf,
}

/// In the given folder, or else in the first that will do.
pub(super) async fn start_anywhere(parent: Option<&Path>, account: Option<&Account>) -> Result<Guardian, SandboxError> {
    let candidates = match parent {
        Some(parent) => vec![parent.to_path_buf()],
        None => vec![env::temp_dir(), "/tmp".into(), "/var/tmp".into()],
    };
    let mut tried = Vec::new();
    for candidate in candidates {
        match Guardian::start(&candidate, account).await {
            Ok(guardian) => return Ok(guardian),
            Err(why) => tried.push((candidate, why)),
        }
    }
    tried.dedup();
    Err(SandboxError::NoFolder { tried })
}

impl Guardian {
    async fn start(parent: &Path, account: Option<&Account>) -> Result<Self, String> {
        // The path of a socket has at most 103 bytes on some systems; ours adds up to 34.
        const LONGEST_PARENT: usize = 69;
        if parent.as_os_str().len() > LONGEST_PARENT {
            return Err(format!("its path is longer than {LONGEST_PARENT} bytes, too long for a socket in it"));
        }
        let parent = fs::canonicalize(parent).map_err(|error| error.to_string())?;
        let mut sh = command("/bin/sh", account);
        sh.args(["-c", include_str!("guardian.sh"), "copyhold-sandbox"]).arg(&parent);
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

    /// Runs a program whose process the guardian will end; one at a time. What it says goes to the log.
    pub(super) fn launch(&self, program: &Path, arguments: &[String], account: Option<&Account>) -> io::Result<Child> {
        // The process is known to the guardian before it is more than a shell.
        let script = r#"umask 077; echo $$ >"$0/pid" && exec "$@" >>"$0/log" 2>&1"#;
        let mut sh = command("/bin/sh", account);
        sh.args(["-c", script]).arg(&self.folder).arg(program).args(arguments);
        sh.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    }

    /// After the process was waited for: its number may soon be another's.
    pub(super) fn forget_process(&self) {
        // Without the folder there is nothing to forget.
        let _ = fs::remove_file(self.folder.join("pid"));
    }

    #[cfg(test)]
    pub(super) async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    /// Lets it remove the folder, and waits for that.
    pub(super) async fn dismiss(mut self) -> Result<(), SandboxError> {
        drop(self.pipe);
        let status = self.process.wait().await.map_err(SandboxError::process("the sandbox's guardian"))?;
        if status.success() {
            return Ok(());
        }
        // Somebody killed it: what it leaves is ours to remove.
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(SandboxError::Process { program: "the sandbox's guardian", source: error })
            }
            _ => Ok(()),
        }
    }
}
