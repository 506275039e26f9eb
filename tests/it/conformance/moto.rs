//! Starts moto, an S3 server that is not ours, for the suite.

use std::{io::Write as _, path::Path, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use super::place::{Kind, Place};
use crate::harness::soon;

/// A moto server of its own. It ends when its standard input does, however this process ends.
pub struct Moto {
    endpoint: String,
    _process: Child,
}

impl Moto {
    /// Error: why there is none on this machine.
    pub async fn start() -> Result<Self, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join("target/moto/bin/python");
        if !python.exists() {
            return Err("it is not installed; tests/moto/install.sh does that".into());
        }
        let mut command = Command::new(python);
        command.arg(root.join("tests/moto/serve.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process =
            command.stderr(Stdio::null()).kill_on_drop(true).spawn().map_err(|error| error.to_string())?;
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = soon("moto says where it listens", lines.next_line()).await.unwrap();
        let endpoint = line.ok_or("it ended at once; try tests/moto/serve.py by hand")?;
        Ok(Self { endpoint, _process: process })
    }

    pub fn place(&self) -> Place {
        Place {
            store: Kind::Moto,
            endpoint: self.endpoint.clone(),
            region: "us-east-1".into(),
            access_key_id: "test".into(),
            secret_access_key: "test".into(),
            buckets: ["source".into(), "target".into()],
        }
    }
}

/// Says so past the test runner, which shows nothing of a test that passes.
pub fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "\nSKIPPED: the suite of conformance on moto: {why}");
}
